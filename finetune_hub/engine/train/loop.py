"""The training loop, from the base model's folder to the adapter's files.

step k   rows [k·G, (k+1)·G) of the data order, in micro-batches      G = micro-batch size × gradient accumulation steps
         forward, backward, clip, AdamW: `step.py`
         at intervals, evaluate the held-out rows and write a checkpoint
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import Literal

from torch import nn

from finetune_hub.engine import verify
from finetune_hub.engine.errors import StopRequested
from finetune_hub.engine.kernels.document_attention import take_learned_on
from finetune_hub.engine.model import plain_attention
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.process_memory import bound_kernel_caches
from finetune_hub.engine.train import held_out
from finetune_hub.engine.train.checkpoint import collect_random_states, write_checkpoint
from finetune_hub.engine.train.data import read_data
from finetune_hub.engine.train.ranks import Ranks
from finetune_hub.engine.train.setup import Training, set_up, tell_plan
from finetune_hub.engine.train.step import take_step
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Evaluated
from finetune_hub.spec.run import TrainResult, TrainRun

ADAPTER_DIR = "adapter"
PROBE_FILE = "probe.safetensors"

StoppedBy = Literal["early_stopping", "max_duration"]


def train(run: TrainRun, log: EventLog) -> TrainResult:
    """Train one adapter, or resume from `run.resume_from`.

    Raises:
        EngineError: the run cannot start or continue.
        StopRequested: after SIGTERM or SIGINT, once the current step is finished and a checkpoint written.
    """
    ends_at, stop_was_asked = _end_of(run), _catch_stop_signals()
    bound_kernel_caches()
    ranks = Ranks.join(run.device)
    data = read_data(run, log)  # First, so that defects show within a second, before the base model is loaded.
    training = set_up(run, data, ranks, log)
    tell_plan(training)
    training.model.train()

    last_step, first_step = data.total_steps, training.state.step + 1
    checkpointed_step = training.state.step
    patience = run.spec.evaluation.early_stopping_patience or math.inf
    # If the checkpoint is from early stopping, only publishing is left.
    stopped_by: StoppedBy | None = "early_stopping" if training.best.worse_evaluations >= patience else None
    take_learned_on()  # Discard passes of an earlier run in this process.
    while (step := training.state.step + 1) <= last_step and stopped_by is None:
        if ranks.any(stop_was_asked(), run.device):
            if training.state.step > checkpointed_step:
                _write_checkpoint(training)
            ranks.leave()
            raise StopRequested(training.state.step)

        log_step = take_step(training)
        if step == first_step:
            log.info(f"Attention: {'; '.join(take_learned_on()) or 'computed by the base model'}.")
        log.emit(log_step)

        if ends_at < math.inf and step < last_step and ranks.any(time.monotonic() >= ends_at, run.device):
            stopped_by = "max_duration"
        if data.held_out_rows and (step % run.spec.evaluation.every_steps == 0 or step == last_step or stopped_by):
            log.emit(_evaluate(training))
        if training.best.worse_evaluations >= patience:
            stopped_by = "early_stopping"
        # Also after the last step, so that a job stopped during verification can resume with it.
        if step % run.spec.training.checkpoint_every_steps == 0 or step == last_step or stopped_by:
            _write_checkpoint(training)
            checkpointed_step = step
        if stopped_by:
            _tell_why_it_stops(training, stopped_by)
    return _finish(training, stopped_by)


def _evaluate(training: Training) -> Evaluated:
    """Measure the held-out rows, keep the best weights, and answer a few of the rows."""
    started = time.perf_counter()
    options, rows = training.run.spec.evaluation, training.data.held_out_rows
    step, best = training.state.step, training.best
    loss = held_out.measure(training.objective, rows, training.run.spec.training.micro_batch_size, training.ranks)
    is_best = best.offer(loss, step, training.adapter)
    training.state = training.state.after_evaluation(loss, best)
    return Evaluated(
        step=step,
        loss=loss,
        is_best=is_best,
        rows=len(rows),
        samples=held_out.answer(training.model, rows[: options.samples], training.data.template, options.sample_tokens),
        seconds=time.perf_counter() - started,
    )


def _write_checkpoint(training: Training) -> None:
    """Collect the random states of all ranks and write the checkpoint on the first one."""
    random_states = collect_random_states(training.ranks, training.run.device)
    if training.ranks.is_first:
        checkpoint = write_checkpoint(
            training.run.output_dir,
            training.adapter,
            training.optimizer,
            training.state,
            best=training.best.tensors,
            random_states=random_states,
            base_model_name=training.run.base_model_name,
        )
        training.log.emit(checkpoint)


def _finish(training: Training, stopped_by: StoppedBy | None) -> TrainResult:
    """Write the adapter (of the best step if configured) and the probe for `verify`."""
    run, state, best = training.run, training.state, training.best
    assert state.loss is not None  # A run has at least one step.
    published_step, held_out_loss = state.step, state.held_out_loss
    if run.spec.evaluation.keep_best and best.tensors:
        best.put_back(training.adapter)
        held_out_loss, published_step = best.loss, best.step
    nn.Module.eval(training.model)
    if training.ranks.is_first:
        adapter_dir = run.output_dir / ADAPTER_DIR
        peft_format.write_adapter(adapter_dir, training.adapter, base_model_name=run.base_model_name)
    with plain_attention(training.model):  # As in `verify`, and on every rank, as a sharded base needs all of them.
        verify.write_probe(run.output_dir / PROBE_FILE, training.model, training.data.rows)
    training.ranks.leave()
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
        chat_template_sha256=training.data.template.sha256,
    )


def _tell_why_it_stops(training: Training, stopped_by: StoppedBy) -> None:
    step, limit = training.state.step, training.run.spec.runtime.max_duration
    if stopped_by == "early_stopping":
        training.log.info(f"Stopping at step {step}: the held-out loss was lowest at step {training.best.step}.")
    else:
        total = training.data.total_steps
        training.log.warn(f"Stopping at step {step} of {total}: the maximum duration of {limit} has been reached.")


def _end_of(run: TrainRun) -> float:
    """Return when the run's time ends, in terms of `time.monotonic()`."""
    seconds = run.spec.runtime.max_duration_seconds if run.seconds_left is None else run.seconds_left
    return math.inf if seconds is None else time.monotonic() + seconds


def _catch_stop_signals() -> Callable[[], bool]:
    """Let SIGTERM and SIGINT only set a flag; return a function that reads it."""
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)
