"""Set up a training run before its first step: base model, adapter, optimizer, objective and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.engine.adapters.adapter import Adapter, parameter_groups, total_parameters
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels import fused
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import (
    DTYPES,
    choose_dtype,
    compile_layers,
    fingerprint,
    load_base_model,
    prove_fast_paths,
)
from finetune_hub.engine.objectives import registry as objectives
from finetune_hub.engine.objectives.objective import Objective, Setting
from finetune_hub.engine.quantization import quantization_of
from finetune_hub.engine.train import optimizers
from finetune_hub.engine.train.checkpoint import CheckpointState, check_identity, read_state, restore
from finetune_hub.engine.train.data import TrainingData
from finetune_hub.engine.train.held_out import BestWeights
from finetune_hub.engine.train.loss_scale import LossScale
from finetune_hub.engine.train.ranks import Ranks
from finetune_hub.engine.train.sharding import shard_base_model
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Plan
from finetune_hub.spec.run import TrainRun
from finetune_hub.spec.training import RuntimeOptions


@dataclass
class Training:
    """A running training. Steps change only the adapter's tensors, `optimizer`, `scale`, `best` and `state`."""

    run: TrainRun
    log: EventLog
    ranks: Ranks
    data: TrainingData
    model: PreTrainedModel
    adapter: Adapter
    objective: Objective
    optimizer: torch.optim.Optimizer
    scale: LossScale
    best: BestWeights
    state: CheckpointState

    @property
    def trained(self) -> list[nn.Parameter]:
        return list(self.adapter.parameters().values())


def set_up(run: TrainRun, data: TrainingData, ranks: Ranks, log: EventLog) -> Training:
    """Load the frozen base model, attach the adapter, and restore `run.resume_from` if given.

    Raises:
        EngineError: the run cannot start or continue.
    """
    options, runtime = run.spec.training, run.spec.runtime
    identity = _identity_of(run, data.template)
    resumed = None if run.resume_from is None else read_state(run.resume_from)
    if resumed is not None:
        check_identity(resumed, identity)

    check_device(run)
    torch.manual_seed(options.seed)
    if resumed is None:
        chosen = choose_dtype(runtime.dtype, run.base_model_dir, run.device, log)
        dtype = ranks.choice_of_first(chosen, list(DTYPES.values()), run.device)
    else:
        dtype = DTYPES[resumed.dtype]
    model = load_base_model(
        run.base_model_dir,
        dtype=dtype,
        device="cpu" if runtime.shard_base_model else run.device,
        quantization=quantization_of(run.spec.method),
    )
    adapter = attach_method(model, run.spec.method, seed=options.seed)
    paths = prove_fast_paths(model)  # With the adapter, as some models cannot isolate rows behind a prefix.
    _use_runtime(model, runtime)
    if runtime.shard_base_model:
        kept_bytes = shard_base_model(model, list(adapter.parameters().values()), run.device, ranks.count)
        log.info(
            f"The layers' weights are sharded over {ranks.count} ranks; this one keeps {kept_bytes:,} bytes of them."
        )
    optimizer = optimizers.build(parameter_groups(adapter, options.learning_rate), options, run.device)
    setting = Setting(
        model,
        paths,
        adapter,
        packing=options.packing,
        label_smoothing=options.label_smoothing,
        neftune_alpha=options.neftune_alpha,
        offload=runtime.activation_offload,
    )

    best = BestWeights()
    if resumed is None:
        torch.manual_seed(options.seed + ranks.rank)  # Each rank draws its own dropout.
        state = CheckpointState.at_start(dtype, identity)
    else:
        assert run.resume_from is not None
        best.tensors = restore(run.resume_from, adapter, optimizer, ranks.rank)
        best.loss, best.step, best.worse_evaluations = resumed.best_loss, resumed.best_step, resumed.worse_evaluations
        state = resumed
    scale = LossScale(dtype, state.loss_scale, state.good_steps)
    objective = objectives.build(run.spec.objective, setting)
    return Training(run, log, ranks, data, model, adapter, objective, optimizer, scale, best, state)


def tell_plan(training: Training) -> None:
    """Send the `plan` event, and log how the model computes."""
    run, data, log = training.run, training.data, training.log
    log.emit(
        Plan(
            total_steps=data.total_steps,
            first_step=training.state.step,
            rows=len(data.rows),
            held_out_rows=len(data.held_out_rows),
            supervised_tokens=sum(row.supervised_tokens for row in data.order.rows(0, data.order.rows_per_epoch)),
            truncated_rows=sum(row.truncated_tokens > 0 for row in data.rows),
            trainable_parameters=sum(tensor.numel() for tensor in training.trained),
            total_parameters=total_parameters(training.adapter),
            dtype=training.state.dtype,
            device=run.device,
        )
    )
    if run.device == "cuda":
        unfused = fused.why_not(torch.device(run.device))
        log.info(f"Element-wise work: {f'not fused, {unfused}' if unfused else 'fused by torch.compile'}.")
    if not training.objective.setting.paths.packed:
        log.warn("This base model cannot isolate packed rows, so every row is a separate pass, which is slower.")


def check_device(run: TrainRun) -> None:
    """Raises:
    BadConfig: the run needs something that this machine does not have.
    """
    if run.device == "cuda" and not torch.cuda.is_available():
        raise BadConfig("The run needs a CUDA GPU, and this machine has none.", "Run it on a GPU worker or on the CPU.")
    if run.device == "cuda" and run.spec.runtime.gpus > torch.cuda.device_count():
        raise BadConfig(
            f"The run needs {run.spec.runtime.gpus} GPUs, and this machine has {torch.cuda.device_count()}.",
            "Lower `runtime.gpus`.",
        )
    if run.device == "cpu" and run.spec.runtime.activation_offload:
        raise BadConfig(
            "`activation_offload` moves activations from a GPU to the host, but this run is on the CPU.",
            "Set `runtime.activation_offload` to false, or `activation_checkpointing` to true.",
        )


def _use_runtime(model: PreTrainedModel, runtime: RuntimeOptions) -> None:
    """Install our kernels or torch.compile's, and activation checkpointing."""
    if runtime.compile:
        compile_layers(model)
    else:
        fast_modules.install(model)
    if runtime.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise BadConfig(
                f"{type(model).__name__} does not support activation checkpointing.",
                "Set `runtime.activation_checkpointing` to false, or lower `micro_batch_size`.",
            )
        # Older releases of transformers 5 have only the second name; newer ones deprecate it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def _identity_of(run: TrainRun, template: ChatTemplate) -> dict[str, Any]:
    """Return what must not change when a run is resumed.

    The checkpoint interval may change, and so may the split of a step's rows into micro-batches: a run that was out
    of memory resumes with smaller ones.
    """
    options = run.spec.training
    own = options.model_dump(
        mode="json", exclude={"checkpoint_every_steps", "micro_batch_size", "gradient_accumulation_steps"}
    )
    return {
        "base_model": fingerprint(run.base_model_dir),
        "chat_template": template.sha256,
        "datasets": [[file.sha256, file.weight] for file in run.datasets],
        "method": run.spec.method.model_dump(mode="json"),
        "objective": run.spec.objective.model_dump(mode="json"),
        "evaluation.fraction": run.spec.evaluation.fraction,
        "runtime.gpus": run.spec.runtime.gpus,
        "rows of a step": options.micro_batch_size * options.gradient_accumulation_steps,
        **{f"training.{key}": value for key, value in own.items()},
    }
