"""The peak memory of a training run, part by part, as this engine's code keeps it.

    weights          parameters · bytes of their dtype; packed linear layers at 4.13 or 8.02 bits (QLoRA)
                     sharded over n GPUs: the layers' divided by n, and two gathered layers; everything else on each
    adapters         4 · P: float32 for any base; twice with PiSSA and OLoRA, which keep their initial weights
    gradients        4 · P
    optimizer        8 · P of AdamW, 2.03 · P in 8 bits; on a CPU the best weights so far too, 4 · P
    activations      T · layers · what one layer saves for the backward pass (below), and one layer's working space
    logits           rows of a chunk of the head · V, in the compute dtype and in float32
    dequantisation   the largest packed matrix, unpacked for one product
    allocator        the runtime itself, and what the allocator holds without using it

What one layer saves per token, in values of the compute dtype (`engine/kernels/` explain why):
    norms            2H                 the residual stream, where each norm reads it
    attention        Q + 2K             rotated query, key, value
    the method's     what its adapters read, and the MLP, of which LoRA's kernel keeps less: `spec.methods`
With activation checkpointing all layers but one keep only H.

On a CPU the peak is the process's resident memory. Weights that are used in their stored dtype stay memory-mapped;
others are packed or converted, and file and copy are in memory together for a moment. If that is the peak, the file's
pages are part of it, but they do not count for whether the run fits, because the kernel can reclaim them.
Shape letters:  T tokens of a micro-batch,  H hidden,  I intermediate,  Q, K widths of query and key,  P
trained parameters,  V vocabulary.
Source: the engine's kernels; Dettmers et al., "QLoRA", arXiv:2305.14314, section 3 (4 bits, and 0.127 for scales).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from finetune_hub.scheduling.devices import Dtype, PlannedDevice
from finetune_hub.scheduling.facts import BYTES_OF
from finetune_hub.scheduling.workload import Workload
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.training import TrainingSpec

_HEAD_NUMBERS, _LEAST_HEAD_ROWS, _MOST_HEAD_ROWS = 1 << 24, 64, 256  # Of a chunk of the head.
_ATTENTION_ROWS = 128  # At most this many queries per block, of one document: `block_attention`.
_EIGHT_BIT_AVERAGES = 2.03

# Fitted on the calibration runs of `benchmarks.planner`, which are separate from its test runs.
_CPU_RUNTIME_BYTES = 480e6  # Python, torch and transformers, their libraries and threads.
_CPU_QUANTISED_BYTES = 50e6  # bitsandbytes, and what packing leaves in use.
_CPU_SLACK = {"float32": 0.1, "bfloat16": 0.2, "float16": 0.2}  # Heap fragmentation, as a share of what a step frees.
_CUDA_CONTEXT_BYTES = 550e6
_CUDA_SLACK = 0.06


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part; the peak is their sum."""

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    dequantisation: float
    allocator: float
    reclaimable: float = 0.0
    """Pages of the weights' file in the peak, which the kernel reclaims when memory is short. Not a part of the sum."""

    @property
    def peak_bytes(self) -> float:
        return sum(self.parts().values())

    @property
    def needed_bytes(self) -> float:
        """Bytes that must be available for the run to succeed."""
        return self.peak_bytes - self.reclaimable

    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "reclaimable"}

    def measurable_bytes(self, device_kind: str) -> float:
        """Return what the engine measures of it: on a GPU the allocated memory, without context and reserves."""
        return self.peak_bytes - (self.allocator if device_kind == "cuda" else 0.0)

    def corrected(self, factor: float) -> MemoryEstimate:
        """Return the estimate with its peak scaled; the allocator's part, the least certain, absorbs it first."""
        allocator = self.allocator + (factor - 1) * self.peak_bytes
        if allocator >= 0:
            return replace(self, allocator=allocator)
        parts = {name: factor * part for name, part in self.parts().items()}
        return MemoryEstimate(**parts, reclaimable=factor * self.reclaimable)


def estimate_memory(spec: TrainingSpec, shape: Shape, device: PlannedDevice, load: Workload) -> MemoryEstimate:
    """Estimate the run's peak memory on this device: the process's on a CPU, the device's on a GPU."""
    dtype = dtype_on(spec, device)
    width = BYTES_OF[dtype]
    trained = spec.method.trained_parameters(shape)
    is_packed = spec.method.base_bits is not None
    weights = weight_bytes(spec, shape, dtype, device)
    optimizer = trained * (8.0 if spec.training.optimizer == "adamw" else _EIGHT_BIT_AVERAGES)
    if device.kind == "cpu" and spec.evaluation.fraction and spec.evaluation.keep_best:
        optimizer += 4.0 * trained
    activations = saved_bytes(spec, shape, load, device) + _working_bytes(shape, load, width, device)
    logits = _logit_bytes(shape, load, width)
    dequantisation = float(max(linear.parameters for linear in shape.linears) * width) if is_packed else 0.0
    running = MemoryEstimate(
        weights=weights.used,
        adapters=4.0 * trained * spec.method.kept_copies,
        gradients=4.0 * trained,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        dequantisation=dequantisation,
        allocator=0.0,
    )
    freed = activations + logits + dequantisation
    if device.kind == "cuda":
        return replace(running, allocator=_CUDA_CONTEXT_BYTES + _CUDA_SLACK * freed)
    base = _CPU_RUNTIME_BYTES + (_CPU_QUANTISED_BYTES if is_packed else 0.0)
    slack = base + _CPU_SLACK[dtype] * freed
    # While the weights are read, nothing else is in memory. If that is the peak, the allocator's part covers it.
    peak = replace(running, allocator=max(slack, base + weights.file + weights.reading - running.peak_bytes))
    needed = max(replace(running, allocator=slack).peak_bytes, base + weights.reading)
    return replace(peak, reclaimable=peak.peak_bytes - needed)


def dtype_on(spec: TrainingSpec, device: PlannedDevice) -> Dtype:
    """Return the compute dtype. `auto` measures the device when the run starts: a GPU uses bfloat16."""
    if spec.runtime.dtype != "auto":
        return spec.runtime.dtype
    return "bfloat16" if device.kind == "cuda" else device.auto_dtype


class WeightBytes(NamedTuple):
    """The frozen weights in bytes."""

    used: float
    """What the run computes with."""
    reading: float
    """The peak while they are read, without the file."""
    file: float
    """Pages of the file while it is read."""


def weight_bytes(spec: TrainingSpec, shape: Shape, dtype: Dtype, device: PlannedDevice) -> WeightBytes:
    """Return the size of the frozen weights as this run keeps them."""
    parameters, width = shape.facts.parameter_count, BYTES_OF[dtype]
    used = float(parameters * width)
    if device.kind == "cuda" and spec.runtime.shard_base_model:
        used = float(_spread_parameters(shape, spec.runtime.gpus) * width)
    bits = spec.method.base_bits
    if bits is not None:
        used += shape.linear_parameters * (bits / 8 - width)
    if device.kind == "cuda":
        return WeightBytes(used, used, 0.0)
    is_the_file = shape.facts.dtype == dtype and bits is None
    return WeightBytes(used, 0.0 if is_the_file else used, float(shape.facts.size_bytes))


def _spread_parameters(shape: Shape, gpus: int) -> float:
    """Return each GPU's parameters: its shard of the layers, two whole layers, and everything outside the layers."""
    layers = shape.linear_parameters
    return shape.facts.parameter_count - layers + layers / gpus + 2 * layers / shape.facts.layers


def saved_bytes(spec: TrainingSpec, shape: Shape, load: Workload, device: PlannedDevice) -> float:
    """Return the bytes that the forward pass keeps for the backward pass."""
    if spec.runtime.activation_offload:
        return 0.0
    tokens, width = load.micro_batch_tokens, BYTES_OF[dtype_on(spec, device)]
    rows = spec.training.micro_batch_size if spec.training.packing else 1
    tokens += rows * spec.method.tokens_before_each_row
    own = spec.method.saved_numbers(shape, compiled=spec.runtime.compile)
    numbers = 2 * shape.hidden + shape.query + 2 * shape.keys + own.numbers
    layer = width * numbers + (width if device.kind == "cpu" else 1) * own.mask_numbers
    if spec.runtime.activation_checkpointing:
        return tokens * (shape.facts.layers * shape.hidden * width + layer)
    return tokens * shape.facts.layers * layer


def _working_bytes(shape: Shape, load: Workload, width: int, device: PlannedDevice) -> float:
    """Return a layer's working memory in backward: four tensors as wide as the MLP, and a float32 attention block."""
    tensors = load.micro_batch_tokens * width * (4 * shape.intermediate + 2 * shape.hidden)
    if device.kind == "cuda":
        return tensors
    return tensors + 3 * 4.0 * shape.facts.heads * _ATTENTION_ROWS * load.longest_row


def _logit_bytes(shape: Shape, load: Workload, width: int) -> float:
    """Return the bytes of a chunk of the head: logits and their float32 copy, hidden states and gradients."""
    rows = min(head_rows(shape.facts.vocabulary_size), load.supervised_tokens)
    copies = 4.0 if width == 4 else 4.0 + width
    return rows * shape.facts.vocabulary_size * copies + 3 * load.supervised_tokens * shape.hidden * width


def head_rows(vocabulary: int) -> int:
    """Return the most rows in a chunk of the head, as the engine's `linear_cross_entropy.chunk_size` does."""
    return max(_LEAST_HEAD_ROWS, min(_MOST_HEAD_ROWS, _HEAD_NUMBERS // vocabulary))
