"""A stand-in for a GPU: a device of which tensors have shape and dtype but no numbers, so that any machine has it.

    tensors of the CPU      are real and compute
    tensors of the device   are torch's fake ones: an operation on them gives a fake tensor, or one of the errors below

What a GPU would forgive, or show only as lost speed, is an error here. `PrivateUse1` is torch's name for a device that
somebody else defines; once registered, it belongs to the process, and without tensors on it nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

DEVICE = "standin"
_aten = torch.ops.aten


class MixedDevices(Exception):
    """One operation has tensors of two devices."""


class HiddenWait(Exception):
    """The host waits for the device."""


class StandIn(TorchDispatchMode):
    """The device, while the context lasts."""

    def __init__(self) -> None:
        super().__init__()
        register()
        self._fakes = _fakes()
        self._is_strict = False

    def __enter__(self) -> StandIn:
        # `torch.tensor(…, device=…)` then makes its tensor on the CPU, and the copy from there is seen here.
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(self._before)

    @contextmanager
    def within_a_micro_batch(self) -> Iterator[None]:
        """Inside, a copy to the device that the host waits for is an error too."""
        self._is_strict = True
        try:
            yield
        finally:
            self._is_strict = False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        if not ours and not _is_own(kwargs.get("device")):
            return operation(*args, **kwargs)
        if operation is _aten._to_copy.default and "device" in kwargs:
            self._check_copy(tensors[0].device, kwargs["device"], kwargs.get("non_blocking", False))
        elif operation is _aten.copy_.default:
            into, source, *non_blocking = args
            self._check_copy(source.device, into.device, any(non_blocking))
        elif ours and (strangers := [tensor for tensor in tensors if tensor.dim() and not _is_own(tensor.device)]):
            stranger = strangers[0]
            raise MixedDevices(
                f"{operation} takes tensors of {DEVICE} and of {stranger.device}: {tuple(stranger.shape)}"
            )
        if str(operation) == "bitsandbytes.dequantize_4bit.out":
            return self._unpack(*args)
        return self._run(operation, args, kwargs)

    def _run(self, operation: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
        try:
            return self._fakes.dispatch(operation, (), args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as read:
            raise HiddenWait(f"{operation} waits for numbers of {DEVICE}") from read

    def _unpack(self, *given: Any) -> None:
        """bitsandbytes' own fake of this refuses every `out`: it compares a torch.Size with a list."""
        *given, out = given
        unpacked = self._run(torch.ops.bitsandbytes.dequantize_4bit.default, given, {})
        assert (unpacked.shape, unpacked.dtype, unpacked.device) == (out.shape, out.dtype, out.device)

    def _check_copy(self, source: torch.device, target: str | torch.device, non_blocking: bool) -> None:
        if _is_own(source) and not _is_own(target):
            raise HiddenWait(f"a copy from {DEVICE} to {target} waits for all work on it")
        if self._is_strict and _is_own(target) and not _is_own(source) and not non_blocking:
            raise HiddenWait(f"a copy from {source} to {DEVICE} waits until it is done; `transfer.send` does not")

    def _fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fakes.from_tensor(tensor)

    def take(self, model: PreTrainedModel) -> PreTrainedModel:
        """The loaded model onto the device, in place: weights, what unpacks them, and buffers."""
        moved: dict[Any, nn.Parameter] = {}  # Some models have a weight in two places.
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    moved[weight] = moved[weight] if weight in moved else self._take_weight(weight)
                    module._parameters[name] = moved[weight]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(DEVICE)
        return model

    def _take_weight(self, weight: Any) -> nn.Parameter:
        taken: Any = nn.Parameter(weight.data.to(DEVICE), requires_grad=False)
        if hasattr(weight, "quant_state"):  # 4 bits
            taken.quant_state = weight.quant_state
            taken.quant_state.to(DEVICE)
        if hasattr(weight, "row_absmax"):  # 8 bits
            taken.row_absmax = weight.row_absmax.to(DEVICE)
        return taken


def _is_own(device: str | torch.device | None) -> bool:
    return device is not None and torch.device(device).type == DEVICE


@cache
def _fakes() -> FakeTensorMode:
    """One for all runs of a process: kernels keep buffers, and fake tensors of two modes do not meet."""
    return FakeTensorMode(allow_non_fake_inputs=False)


@cache
def register() -> None:
    """Make the device known to torch, once a process and before its first backward pass, which counts the devices.

    It says that it is absent, so that nobody else takes it up.
    """
    kind = backend_registration._DummyBackendModule

    class Module(kind):  # type: ignore[misc, valid-type]
        def is_available(self) -> bool:
            return False

        def device_count(self) -> int:
            return 0

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    class Hook(backend_registration._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return False

    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Module(), Hook())
