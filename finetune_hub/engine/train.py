"""The training loop, from the base model's folder to the adapter's files; read it from top to bottom.

    step k   rows [k·G, (k+1)·G) of the data order, in micro batches      G = micro batch × gradient accumulation
             loss = Σ over supervised tokens / their number in the whole step
             clip, AdamW at the schedule's learning rate, one `step` event

Within a step nothing waits for the device; the loss and the gradient's norm are read once, before the update.
"""

from __future__ import annotations

import math
import signal
import time
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
from finetune_hub.engine import fast_modules, held_out, optimizers, peft_format, verify
from finetune_hub.engine.adapters import registry
from finetune_hub.engine.checkpoint import (
    CheckpointState,
    check_identity,
    collect_random_states,
    read_state,
    restore,
    write_checkpoint,
)
from finetune_hub.engine.dataset import RowOrder, load_dataset
from finetune_hub.engine.errors import BadConfig, Diverged, Stopped
from finetune_hub.engine.events import EventLog
from finetune_hub.engine.held_out import BestWeights
from finetune_hub.engine.kernels import fused
from finetune_hub.engine.kernels.document_attention import take_learned_on
from finetune_hub.engine.loss_scale import LossScale
from finetune_hub.engine.memory import bound_kernel_caches, peak_memory_bytes
from finetune_hub.engine.model import (
    DTYPES,
    choose_dtype,
    compile_layers,
    fingerprint,
    load_base_model,
    plain_attention,
    prove_fast_paths,
)
from finetune_hub.engine.objectives import registry as objectives
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.quantization import quantization_of
from finetune_hub.engine.ranks import Ranks
from finetune_hub.engine.sharding import shard_base_model
from finetune_hub.engine.transfer import read
from finetune_hub.spec.events import Evaluation, Plan, Step
from finetune_hub.spec.run import TrainResult, TrainRun
from finetune_hub.spec.training import RuntimeOptions, TrainingOptions

ADAPTER_DIR = "adapter"
PROBE_FILE = "probe.safetensors"
_NAMED_ROWS = 8


def train(run: TrainRun, log: EventLog) -> TrainResult:  # noqa: C901 (listed in tests/gates/test_sizes.py)
    """Train one adapter, or go on training it from `run.resume_from`.

    Raises:
        EngineError: the run cannot start or go on; says why.
        Stopped: SIGTERM or SIGINT came; the step at hand was finished and a checkpoint written.
    """
    options, evaluation, runtime = run.spec.training, run.spec.evaluation, run.spec.runtime
    ends_at = _end_of(run)
    wants_stop = _catch_stop_signals()
    bound_kernel_caches()
    ranks = Ranks.join(run.device)

    # The data first: a defect in it shows within a second, before the base model is read.
    template = _read_template(run)
    encode = objectives.OBJECTIVES[run.spec.objective.type].encode
    loaded = [load_dataset(file, template, options.max_seq_len, log, encode) for file in run.datasets]
    datasets, held_out_rows = held_out.split(loaded, evaluation.fraction, options.seed)
    order = RowOrder(datasets, options.seed)
    rows_per_step = options.micro_batch_size * options.gradient_accumulation_steps
    total_rows = (
        options.max_steps * rows_per_step if options.max_steps else math.ceil(order.rows_per_epoch * options.epochs)
    )
    total_steps = math.ceil(total_rows / rows_per_step)

    identity = _identity_of(run, template)
    resumed = None if run.resume_from is None else read_state(run.resume_from)
    if resumed is not None:
        check_identity(resumed, identity)

    # The base model, frozen, and the adapter on it.
    _check_device(run)
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
    adapter = registry.attach(model, run.spec.method, seed=options.seed)
    paths = prove_fast_paths(model)  # With the adapter: behind a prefix some models cannot keep rows apart.
    trained = list(adapter.parameters().values())
    _use_runtime(model, runtime)
    if runtime.shard_base_model:
        kept_bytes = shard_base_model(model, trained, run.device, ranks.count)
        log.info(f"The layers' weights are spread over {ranks.count} ranks; each keeps {kept_bytes:,} bytes of them.")
    optimizer = optimizers.build(registry.parameter_groups(adapter, options.learning_rate), options, run.device)
    best = BestWeights()
    if resumed is None:
        torch.manual_seed(options.seed + ranks.rank)  # Each rank draws a dropout of its own.
        state = CheckpointState(
            step=0, rows_drawn=0, trained_tokens=0, supervised_tokens=0, dtype=str(dtype)[6:], identity=identity
        )
    else:
        assert run.resume_from is not None
        best.tensors = restore(run.resume_from, adapter, optimizer, ranks.rank)
        best.loss, best.step, best.worse_evaluations = resumed.best_loss, resumed.best_step, resumed.worse_evaluations
        state = resumed
    scale = LossScale(dtype, state.loss_scale, state.good_steps)

    rows = [row for dataset in datasets for row in dataset.rows]
    log.emit(
        Plan(
            total_steps=total_steps,
            first_step=state.step,
            rows=len(rows),
            held_out_rows=len(held_out_rows),
            supervised_tokens=sum(row.supervised_tokens for row in order.rows(0, order.rows_per_epoch)),
            truncated_rows=sum(row.truncated_tokens > 0 for row in rows),
            trainable_parameters=sum(tensor.numel() for tensor in trained),
            total_parameters=registry.total_parameters(adapter),
            dtype=state.dtype,
            device=run.device,
        )
    )
    if run.device == "cuda":
        unfused = fused.why_not(torch.device(run.device))
        log.info(f"Element-wise work: {f'not fused, {unfused}' if unfused else 'fused by torch.compile'}.")
    if not paths.packed:
        log.warn("This base model cannot keep packed rows apart, so every row is a pass of its own, which is slower.")
    setting = Setting(
        model,
        paths,
        adapter,
        packing=options.packing,
        label_smoothing=options.label_smoothing,
        neftune_alpha=options.neftune_alpha,
        offload=runtime.activation_offload,
    )
    objective = objectives.build(run.spec.objective, setting)

    model.train()
    checkpointed_step = state.step
    stopped_by: Literal["early_stopping", "max_duration"] | None = None
    patience = evaluation.early_stopping_patience or math.inf
    if best.worse_evaluations >= patience:
        stopped_by = "early_stopping"  # The checkpoint is the run's last: what is left is to publish.
    first_step = state.step + 1
    take_learned_on()  # Passes of an earlier run in this process are no part of what is told of this one.
    for step in () if stopped_by else range(first_step, total_steps + 1):
        if ranks.any(wants_stop(), run.device):
            break
        started = time.perf_counter()
        learning_rate = options.learning_rate * schedule(step, total_steps, options)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        step_rows = order.rows(state.rows_drawn, min(state.rows_drawn + rows_per_step, total_rows))
        supervised_tokens, weight = sum(row.supervised_tokens for row in step_rows), objective.weight_of(step_rows)
        micro_batches = [
            step_rows[start : start + options.micro_batch_size]
            for start in range(0, len(step_rows), options.micro_batch_size)
        ]

        while True:  # Once, unless float16 overflows: then again with a smaller scale.
            for tensor in trained:
                tensor.grad = None if ranks.count == 1 else torch.zeros_like(tensor)
            parts_on_device = torch.zeros(1 + len(objective.measures), device=run.device)
            for micro_batch, counts in ranks.share(micro_batches):
                parts_on_device += backward(
                    objective, micro_batch, weight if counts else math.inf, loss_scale=scale.value
                )
            gradients = [tensor.grad for tensor in trained if tensor.grad is not None]
            ranks.add_up([parts_on_device, *gradients])
            scale.unscale(gradients)
            norm_on_device = nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            loss, *measures, grad_norm = read(torch.cat([parts_on_device, norm_on_device[None]]))
            is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
            if is_finite or not scale.halve():
                break
        if not is_finite:
            named = ", ".join(row.name for row in step_rows[:_NAMED_ROWS])
            raise Diverged(
                f"Step {step} has the loss {loss} and the gradient norm {grad_norm}; its rows are {named}.",
                "Lower `learning_rate`, raise `warmup_ratio`, or look at these rows.",
            )
        optimizer.step()
        scale.grow()
        if step == first_step:
            log.info(f"Attention: {'; '.join(take_learned_on()) or 'as the base model computes it itself'}.")

        tokens = sum(row.tokens for row in step_rows)
        state = state.model_copy(
            update={
                "step": step,
                "rows_drawn": state.rows_drawn + len(step_rows),
                "trained_tokens": state.trained_tokens + tokens,
                "supervised_tokens": state.supervised_tokens + supervised_tokens,
                "loss": loss,
                "loss_scale": scale.value,
                "good_steps": scale.good_steps,
            }
        )
        log.emit(
            Step(
                step=step,
                epoch=state.rows_drawn / order.rows_per_epoch,
                loss=loss,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                tokens=tokens,
                supervised_tokens=supervised_tokens,
                seconds=time.perf_counter() - started,
                peak_memory_bytes=peak_memory_bytes(run.device),
                **dict(zip(objective.measures, measures, strict=True)),
            )
        )

        if ends_at < math.inf and step < total_steps and ranks.any(time.monotonic() >= ends_at, run.device):
            stopped_by = "max_duration"
        if held_out_rows and (step % evaluation.every_steps == 0 or step == total_steps or stopped_by):
            started = time.perf_counter()
            measured = held_out.measure(objective, held_out_rows, options.micro_batch_size, ranks)
            log.emit(
                Evaluation(
                    step=step,
                    loss=measured,
                    is_best=best.offer(measured, step, adapter),
                    rows=len(held_out_rows),
                    samples=held_out.answer(
                        model, held_out_rows[: evaluation.samples], template, evaluation.sample_tokens
                    ),
                    seconds=time.perf_counter() - started,
                )
            )
            state = state.model_copy(
                update={
                    "held_out_loss": measured,
                    "best_loss": best.loss,
                    "best_step": best.step,
                    "worse_evaluations": best.worse_evaluations,
                }
            )
        if best.worse_evaluations >= patience:
            stopped_by = "early_stopping"
        # After the last step too: whoever is stopped while the adapter is verified goes on with that.
        if step % options.checkpoint_every_steps == 0 or step == total_steps or stopped_by is not None:
            _write_checkpoint(run, log, ranks, adapter, optimizer, state, best)
            checkpointed_step = step
        if stopped_by == "early_stopping":
            log.info(f"Stopping at step {step}: the held-out loss was lowest at step {best.step}.")
        elif stopped_by == "max_duration":
            log.warn(f"Stopping at step {step} of {total_steps}: the maximum duration {runtime.max_duration} is over.")
        if stopped_by is not None:
            break

    if state.step < total_steps and stopped_by is None:
        if state.step > checkpointed_step:
            _write_checkpoint(run, log, ranks, adapter, optimizer, state, best)
        ranks.leave()
        raise Stopped(state.step)

    assert state.loss is not None  # A run has one step at least.
    published_step, held_out_loss = state.step, state.held_out_loss
    if evaluation.keep_best and best.tensors:
        best.put_back(adapter)
        held_out_loss, published_step = best.loss, best.step
    nn.Module.eval(model)
    if ranks.is_first:
        peft_format.write_adapter(run.output_dir / ADAPTER_DIR, adapter, base_model_name=run.base_model_name)
    with plain_attention(model):  # As `verify` computes it; on every rank, since a sharded base takes all of them.
        verify.write_probe(run.output_dir / PROBE_FILE, model, rows)
    ranks.leave()
    return TrainResult(
        adapter_dir=ADAPTER_DIR,
        probe_file=PROBE_FILE,
        steps=state.step,
        trained_tokens=state.trained_tokens,
        supervised_tokens=state.supervised_tokens,
        final_loss=state.loss,
        evaluation_loss=held_out_loss,
        published_step=published_step,
        stopped_by=stopped_by,
        dtype=state.dtype,
        chat_template_sha256=template.sha256,
    )


def schedule(step: int, total_steps: int, options: TrainingOptions) -> float:
    """The learning rate of a step (from 1), as a share of the peak: a linear rise, then the chosen fall towards 0."""
    warmup_steps = math.ceil(total_steps * options.warmup_ratio)
    if step <= warmup_steps:
        return step / warmup_steps
    progress = (step - 1 - warmup_steps) / max(1, total_steps - warmup_steps)
    if options.schedule == "linear":
        return 1 - progress
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def _end_of(run: TrainRun) -> float:
    """When the run's time is over, on `time.monotonic()`."""
    seconds = run.spec.runtime.max_duration_seconds if run.seconds_left is None else run.seconds_left
    return math.inf if seconds is None else time.monotonic() + seconds


def _check_device(run: TrainRun) -> None:
    """Raises:
    BadConfig: the run wants what this machine has not.
    """
    if run.device == "cuda" and not torch.cuda.is_available():
        raise BadConfig("The run wants a CUDA GPU, and this machine has none.", "Run it on a GPU worker or on the CPU.")
    if run.device == "cuda" and run.spec.runtime.gpus > torch.cuda.device_count():
        raise BadConfig(
            f"The run wants {run.spec.runtime.gpus} GPUs, and this machine has {torch.cuda.device_count()}.",
            "Lower `runtime.gpus`.",
        )
    if run.device == "cpu" and run.spec.runtime.activation_offload:
        raise BadConfig(
            "`activation_offload` moves memory from a GPU to the host, and this run is on the CPU.",
            "Set `runtime.activation_offload` to false, or `activation_checkpointing` to true.",
        )


def _use_runtime(model: PreTrainedModel, runtime: RuntimeOptions) -> None:
    """Kernels of our own or torch.compile's, and activation checkpointing."""
    if runtime.compile:
        compile_layers(model)
    else:
        fast_modules.install(model)
    if runtime.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise BadConfig(
                f"{type(model).__name__} has no activation checkpointing.",
                "Set `runtime.activation_checkpointing` to false, or lower `micro_batch_size`.",
            )
        # Older releases of transformers 5 know only the second name, newer ones warn of it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def _write_checkpoint(
    run: TrainRun,
    log: EventLog,
    ranks: Ranks,
    adapter: registry.Adapter,
    optimizer: torch.optim.Optimizer,
    state: CheckpointState,
    best: BestWeights,
) -> None:
    """All ranks hand in their random states; the first one writes."""
    random_states = collect_random_states(ranks, run.device)
    if ranks.is_first:
        checkpoint = write_checkpoint(
            run.output_dir,
            adapter,
            optimizer,
            state,
            best=best.tensors,
            random_states=random_states,
            base_model_name=run.base_model_name,
        )
        log.emit(checkpoint)


def _catch_stop_signals() -> Any:
    """From here on SIGTERM and SIGINT only raise a flag; the returned function reads it."""
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


def _read_template(run: TrainRun) -> ChatTemplate:
    try:
        return ChatTemplate.from_folder(run.base_model_dir)
    except InvalidChatTemplate as unusable:
        raise BadConfig(unusable.message, unusable.remedy) from unusable


def _identity_of(run: TrainRun, template: ChatTemplate) -> dict[str, Any]:
    """What two halves of one run must have in common.

    How often it writes checkpoints is not among it, nor how a step's rows are spread over micro batches: a run that was
    out of memory goes on in smaller ones.
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
