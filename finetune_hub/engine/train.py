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
from typing import Any

import torch
from torch import nn

from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
from finetune_hub.engine import fast_modules, peft_format, verify
from finetune_hub.engine.adapters import registry
from finetune_hub.engine.checkpoint import (
    CheckpointState,
    check_identity,
    read_state,
    restore,
    write_checkpoint,
)
from finetune_hub.engine.dataset import RowOrder, load_dataset
from finetune_hub.engine.errors import BadConfig, Diverged, Stopped
from finetune_hub.engine.events import EventLog
from finetune_hub.engine.memory import keep_freed_memory, peak_memory_bytes
from finetune_hub.engine.model import DTYPES, choose_dtype, fingerprint, load_base_model, prove_fast_paths
from finetune_hub.engine.objectives import sft
from finetune_hub.engine.quantization import quantization_of
from finetune_hub.spec.events import Plan, Step
from finetune_hub.spec.run import TrainResult, TrainRun
from finetune_hub.spec.training import TrainingOptions

ADAPTER_DIR = "adapter"
PROBE_FILE = "probe.safetensors"
_NAMED_ROWS = 8


def train(run: TrainRun, log: EventLog) -> TrainResult:
    """Train one adapter, or go on training it from `run.resume_from`.

    Raises:
        EngineError: the run cannot start or go on; says why.
        Stopped: SIGTERM or SIGINT came; the step at hand was finished and a checkpoint written.
    """
    options = run.spec.training
    wants_stop = _catch_stop_signals()
    keep_freed_memory()

    # The data first: a defect in it shows within a second, before the base model is read.
    template = _read_template(run)
    datasets = [load_dataset(file, template, options.max_seq_len, log) for file in run.datasets]
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
    if run.device == "cuda" and not torch.cuda.is_available():
        raise BadConfig("The run wants a CUDA GPU, and this machine has none.", "Run it on a GPU worker or on the CPU.")
    torch.manual_seed(options.seed)
    if resumed is None:
        dtype = choose_dtype(run.spec.runtime.dtype, run.base_model_dir, run.device, log)
    else:
        dtype = DTYPES[resumed.dtype]
    model = load_base_model(
        run.base_model_dir, dtype=dtype, device=run.device, quantization=quantization_of(run.spec.method)
    )
    adapter = registry.attach(model, run.spec.method, seed=options.seed)
    paths = prove_fast_paths(model)  # With the adapter: behind a prefix some models cannot keep rows apart.
    fast_modules.install(model)
    trained = list(adapter.parameters().values())
    optimizer = torch.optim.AdamW(
        registry.parameter_groups(adapter, options.learning_rate), weight_decay=options.weight_decay, fused=True
    )
    if resumed is None:
        state = CheckpointState(
            step=0, rows_drawn=0, trained_tokens=0, supervised_tokens=0, dtype=str(dtype)[6:], identity=identity
        )
    else:
        assert run.resume_from is not None
        restore(run.resume_from, adapter, optimizer)
        state = resumed

    rows = [row for dataset in datasets for row in dataset.rows]
    log.emit(
        Plan(
            total_steps=total_steps,
            first_step=state.step,
            rows=len(rows),
            supervised_tokens=sum(len(row.targets) for row in order.rows(0, order.rows_per_epoch)),
            truncated_rows=sum(row.truncated_tokens > 0 for row in rows),
            trainable_parameters=sum(tensor.numel() for tensor in trained),
            total_parameters=registry.total_parameters(adapter),
            dtype=state.dtype,
            device=run.device,
        )
    )
    if not paths.packed:
        log.warn("This base model cannot keep packed rows apart, so every row is a pass of its own, which is slower.")

    model.train()
    loss, checkpointed_step = math.nan, state.step
    for step in range(state.step + 1, total_steps + 1):
        if wants_stop():
            break
        started = time.perf_counter()
        learning_rate = options.learning_rate * schedule(step, total_steps, options)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        step_rows = order.rows(state.rows_drawn, min(state.rows_drawn + rows_per_step, total_rows))
        supervised_tokens = sum(len(row.targets) for row in step_rows)

        loss_on_device = torch.zeros((), device=run.device)
        for start in range(0, len(step_rows), options.micro_batch_size):
            micro_batch = step_rows[start : start + options.micro_batch_size]
            loss_on_device += sft.backward(model, paths, micro_batch, supervised_tokens)
        norm_on_device = nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
        loss, grad_norm = torch.stack([loss_on_device, norm_on_device]).tolist()
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            named = ", ".join(row.name for row in step_rows[:_NAMED_ROWS])
            raise Diverged(
                f"Step {step} has the loss {loss} and the gradient norm {grad_norm}; its rows are {named}.",
                "Lower `learning_rate`, raise `warmup_ratio`, or look at these rows.",
            )
        optimizer.step()
        optimizer.zero_grad()

        tokens = sum(row.tokens for row in step_rows)
        state = state.model_copy(
            update={
                "step": step,
                "rows_drawn": state.rows_drawn + len(step_rows),
                "trained_tokens": state.trained_tokens + tokens,
                "supervised_tokens": state.supervised_tokens + supervised_tokens,
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
            )
        )
        if step % options.checkpoint_every_steps == 0 and step < total_steps:
            log.emit(write_checkpoint(run.output_dir, adapter, optimizer, state, base_model_name=run.base_model_name))
            checkpointed_step = step

    if state.step < total_steps:
        if state.step > checkpointed_step:
            log.emit(write_checkpoint(run.output_dir, adapter, optimizer, state, base_model_name=run.base_model_name))
        raise Stopped(state.step)

    nn.Module.eval(model)
    peft_format.write_adapter(run.output_dir / ADAPTER_DIR, adapter, base_model_name=run.base_model_name)
    verify.write_probe(run.output_dir / PROBE_FILE, model, rows)
    return TrainResult(
        adapter_dir=ADAPTER_DIR,
        probe_file=PROBE_FILE,
        steps=state.step,
        trained_tokens=state.trained_tokens,
        supervised_tokens=state.supervised_tokens,
        final_loss=loss,
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
    """What two halves of one run must have in common. How often it writes checkpoints is not among it."""
    return {
        "base_model": fingerprint(run.base_model_dir),
        "chat_template": template.sha256,
        "datasets": [[file.sha256, file.weight] for file in run.datasets],
        "method": run.spec.method.model_dump(mode="json"),
        "objective": run.spec.objective.model_dump(mode="json"),
        **{
            f"training.{key}": value
            for key, value in run.spec.training.model_dump(mode="json", exclude={"checkpoint_every_steps"}).items()
        },
    }
