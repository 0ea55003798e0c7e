"""Checkpoints: everything a run needs to resume as if it had never stopped, without pickles.

    checkpoints/step-N/
      adapter/                 the adapter in PEFT's format, so a checkpoint can be served
      trained.safetensors      its trained tensors, which that format does not always keep
      optimizer.safetensors    AdamW's averages and step count for each trained tensor
      random.safetensors       states of the random number generators (dropout, noise) of every rank
      best.safetensors         the weights with the lowest held-out loss so far, if any
      state.json               step, position in the data, evaluations, and the run's identity

The folder is written under a temporary name, flushed to disk and renamed, so it is either complete or missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune_hub.artifacts.manifest import manifest_of
from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.train.held_out import BestWeights
from finetune_hub.engine.train.loss_scale import LossScale
from finetune_hub.engine.train.ranks import Ranks
from finetune_hub.machine.durable_files import sync_folder
from finetune_hub.spec.events import Checkpointed

CHECKPOINTS_DIR = "checkpoints"
KEPT_CHECKPOINTS = 2
FORMAT_VERSION = 2


class CheckpointState(BaseModel):
    """`state.json`: the run's position and identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    step: int
    rows_drawn: int
    trained_tokens: int
    supervised_tokens: int
    loss: float | None = None
    """Loss of the step, and of the held-out rows at the last evaluation, in nats."""
    held_out_loss: float | None = None
    loss_scale: float | None = None
    good_steps: int = 0
    best_loss: float | None = None
    """Lowest held-out loss so far, in nats, and its step."""
    best_step: int = 0
    worse_evaluations: int = 0
    """Evaluations since the best one."""
    dtype: str
    """The base model's dtype: `auto` must not choose again in the middle of a run."""
    identity: dict[str, Any]
    """What must not change when a run is resumed: base model, data, method, training options."""

    @classmethod
    def at_start(cls, dtype: torch.dtype, identity: dict[str, Any]) -> Self:
        name = str(dtype).removeprefix("torch.")
        return cls(step=0, rows_drawn=0, trained_tokens=0, supervised_tokens=0, dtype=name, identity=identity)

    def after_step(
        self, *, loss: float, rows: int, tokens: int, supervised_tokens: int, scale: LossScale
    ) -> CheckpointState:
        """Return the state after one more step with these rows and tokens."""
        return self.model_copy(
            update={
                "step": self.step + 1,
                "rows_drawn": self.rows_drawn + rows,
                "trained_tokens": self.trained_tokens + tokens,
                "supervised_tokens": self.supervised_tokens + supervised_tokens,
                "loss": loss,
                "loss_scale": scale.value,
                "good_steps": scale.good_steps,
            }
        )

    def after_evaluation(self, held_out_loss: float, best: BestWeights) -> CheckpointState:
        return self.model_copy(
            update={
                "held_out_loss": held_out_loss,
                "best_loss": best.loss,
                "best_step": best.step,
                "worse_evaluations": best.worse_evaluations,
            }
        )


def write_checkpoint(
    output_dir: Path,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    state: CheckpointState,
    *,
    best: dict[str, Tensor],
    random_states: dict[str, Tensor],
    base_model_name: str,
) -> Checkpointed:
    """Write `checkpoints/step-N` durably and delete all but the newest; return the event to send."""
    parent = output_dir / CHECKPOINTS_DIR
    folder, temporary = parent / f"step-{state.step}", parent / f".step-{state.step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    peft_format.write_adapter(temporary / "adapter", adapter, base_model_name=base_model_name)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.state().items()},
        temporary / "trained.safetensors",
    )
    save_file(_optimizer_tensors(adapter, optimizer), temporary / "optimizer.safetensors")
    save_file(random_states, temporary / "random.safetensors")
    if best:
        save_file(best, temporary / "best.safetensors")
    (temporary / "state.json").write_text(state.model_dump_json(indent=2), encoding="utf-8")
    _flush(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(parent)
    for old in sorted(parent.glob("step-*"), key=_step_of)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    path = folder.relative_to(output_dir).as_posix()
    return Checkpointed(step=state.step, path=path, files=manifest_of(folder))


def read_state(folder: Path) -> CheckpointState:
    """Read `state.json` of a checkpoint.

    Raises:
        BadConfig: it is missing or has another version's format.
    """
    try:
        state = CheckpointState.model_validate_json((folder / "state.json").read_bytes())
    except (OSError, ValidationError) as broken:
        raise BadConfig(f"The checkpoint {folder.name} cannot be read ({broken}).", "Start a new job.") from broken
    if state.format_version != FORMAT_VERSION:
        raise BadConfig(
            f"The checkpoint {folder.name} has format {state.format_version}, not {FORMAT_VERSION}.",
            "Start a new job.",
        )
    return state


def check_identity(state: CheckpointState, identity: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        BadConfig: with the names of what differs.
    """
    differing = sorted(
        key for key in state.identity.keys() | identity.keys() if state.identity.get(key) != identity.get(key)
    )
    if differing:
        raise BadConfig(
            f"The checkpoint belongs to another run: it differs in {', '.join(differing)}.",
            "Resume with the original settings, data and base model, or start a new job.",
        )


def restore(folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, rank: int = 0) -> dict[str, Tensor]:
    """Restore adapter, optimizer and random number generators from the checkpoint.

    Returns:
        The weights with the lowest held-out loss until then; empty if no rows were held out.
    """
    try:
        trained = load_file(folder / "trained.safetensors")
        tensors = load_file(folder / "optimizer.safetensors")
        random_states = load_file(folder / "random.safetensors")
        best_file = folder / "best.safetensors"
        best = load_file(best_file) if best_file.exists() else {}
    except (OSError, SafetensorError) as broken:
        raise BadConfig(f"The checkpoint {folder.name} cannot be read ({broken}).", "Start a new job.") from broken
    with torch.no_grad():
        for name, tensor in adapter.state().items():
            tensor.copy_(trained[name])
    for name, parameter in adapter.parameters().items():
        fields = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items() if key.rpartition(".")[0] == name}
        optimizer.state[parameter] = {field: _beside(parameter, tensor) for field, tensor in fields.items()}
    if f"cpu.{rank}" not in random_states:
        raise BadConfig(
            f"The checkpoint {folder.name} belongs to a run on fewer GPUs.", "Resume with the same number of GPUs."
        )
    torch.set_rng_state(random_states[f"cpu.{rank}"])
    if f"cuda.{rank}" in random_states and torch.cuda.is_available():
        torch.cuda.set_rng_state(random_states[f"cuda.{rank}"])
    return best


def collect_random_states(ranks: Ranks, device: str) -> dict[str, Tensor]:
    """Return the states of every rank's random number generators; all ranks must call it together."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {
        f"{kind}.{rank}": state
        for kind, tensor in own.items()
        for rank, state in enumerate(ranks.gather(tensor, device))
    }


def _beside(parameter: nn.Parameter, tensor: Tensor) -> Tensor | int:
    """Move to the parameter's device; bitsandbytes stores the step count as a number, torch as a float32 tensor."""
    return int(tensor) if tensor.dtype == torch.int64 else tensor.to(parameter.device)


def _optimizer_tensors(adapter: Adapter, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return each field of each parameter's state; shared fields (a table of 8-bit values) are copied."""
    tensors = {}
    for name, parameter in adapter.parameters().items():
        averages: Mapping[str, Tensor | int] = optimizer.state[parameter]
        for field, value in averages.items():
            tensors[f"{name}.{field}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    return tensors


def _flush(folder: Path) -> None:
    """Flush all files and folders in the folder, deepest first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
