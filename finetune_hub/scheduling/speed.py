"""How long an optimizer step takes: its matrix products or its memory reads, whichever is slower.

    products   T · (4 L + 6 P) + 4 S · H · V + T · attention      forward and the inputs' gradients of L, all three of P
               + 2 T · L                                          the second forward of activation checkpointing
               + 2 T · L + 2 S · H · V + T · attention            each of the base model's own passes, for DPO
    memory     weights once per pass; packed ones are written out and read again
    step       Σ over micro-batches  max(products / reached rate, memory / bandwidth)  +  28 P / bandwidth of AdamW

Communication between GPUs that share a base model is not counted.
The result is a rough figure until the device has finished a run: see `learning`. The reached share of a CPU's rate is
from benchmarks/README.md, a GPU's is assumed.
Shape letters:  T tokens,  S supervised tokens,  L parameters of the linear layers,  P trained parameters,  H hidden,
V vocabulary.
"""

from __future__ import annotations

from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import PlannedDevice
from finetune_hub.scheduling.facts import BYTES_OF
from finetune_hub.scheduling.memory import dtype_on, weight_bytes
from finetune_hub.scheduling.workload import Workload
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.training import TrainingSpec

_REACHED = {("cpu", 2): 0.32, ("cpu", 4): 0.54, ("cuda", 2): 0.35, ("cuda", 4): 0.5}
_OPTIMIZER_BYTES = 28  # Parameter, gradient and both averages read; all but the gradient written.


def seconds_per_step(spec: TrainingSpec, shape: Shape, device: PlannedDevice, load: Workload) -> float | None:
    """Return the wall time of an optimizer step in seconds; None: such a device was never measured."""
    dtype = dtype_on(spec, device)
    width, rate = BYTES_OF[dtype], device.flops(dtype)
    if rate is None or device.bandwidth is None:
        return None
    trained, linear = spec.method.trained_parameters(shape), shape.linear_parameters
    passes = 3 if spec.runtime.activation_checkpointing else 2
    tokens = load.tokens_per_step / load.micro_batches_per_step
    attention = 4 * shape.facts.layers * shape.query * load.longest_row / 2  # Of one pass; causal, so half of it.
    head = 4 * shape.hidden * shape.facts.vocabulary_size * load.supervised_share
    products = tokens * (passes * (2 * linear + attention) + attention + 6 * trained + head)
    references = spec.objective.reference_passes
    products += references * tokens * (2 * linear + attention + head / 2)
    passes += references
    # All weights are read, sharded or not.
    whole = changed(spec, {"runtime.shard_base_model": False}) if spec.runtime.shard_base_model else spec
    weights = weight_bytes(whole, shape, dtype, device).used
    if spec.method.base_bits is not None:
        weights += 2 * linear * width
    computing = products / (rate * _REACHED[device.kind, width])
    reading = passes * weights / device.bandwidth
    shared = -(-load.micro_batches_per_step // spec.runtime.gpus)  # Micro-batches of the busiest GPU.
    return shared * max(computing, reading) + _OPTIMIZER_BYTES * trained / device.bandwidth
