"""The training loop's promises: exact accumulation, exact resuming, a seed that decides, failures that name rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_hub.data.defects import InvalidDataset
from finetune_hub.engine.dataset import RowOrder, TokenRow, WeightedRows
from finetune_hub.engine.errors import BadConfig, BadData, Diverged
from finetune_hub.engine.train.step import schedule
from finetune_hub.spec import events
from finetune_hub.spec.training import TrainingOptions
from tests.engine.conftest import MakeRun, adapter_bytes, dataset_file, events_of, train
from tests.engine.test_verify import check
from tests.tiny_models import make_chat_rows, make_tiny_model


def test_a_run_learns_and_reports(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(epochs=6, warmup_ratio=0.1)
    result = train(run)

    (plan,) = events_of(run.output_dir, "plan")
    steps = events_of(run.output_dir, "step")
    assert (plan.total_steps, plan.rows, plan.first_step) == (36, 12, 0)
    assert [step.step for step in steps] == list(range(1, 37))
    assert steps[-1].epoch == 6
    assert sum(step.supervised_tokens for step in steps) == 6 * plan.supervised_tokens == result.supervised_tokens
    assert sum(step.tokens for step in steps) == result.trained_tokens
    assert result.final_loss == steps[-1].loss < steps[0].loss - 1
    assert (run.output_dir / result.adapter_dir / "adapter_config.json").is_file()


def test_a_run_says_once_how_attention_was_computed(make_run: MakeRun) -> None:
    run = make_run(max_steps=2)
    train(run)
    messages = [event.message for event in events_of(run.output_dir, "log")]
    said = [message for message in messages if message.startswith("Attention")]
    assert said == ["Attention: batched products over blocks of queries."]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_oss"])
def test_a_model_without_fused_attention_trains_too(make_run: MakeRun, tmp_path: Path, architecture: str) -> None:
    base = make_tiny_model(tmp_path / "base", architecture=architecture, layers=1)
    run = make_run(max_steps=2, run={"base_model_dir": base})
    train(run)
    assert check(run).changes_something


def test_micro_batches_times_accumulation_is_all_that_counts(make_run: MakeRun, tmp_path: Path) -> None:
    adapters, losses = [], []
    for micro, accumulation in ((8, 1), (4, 2), (1, 8)):
        run = make_run(
            micro_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            run={"output_dir": tmp_path / f"{micro}x{accumulation}"},
        )
        train(run)
        adapters.append(load_file(run.output_dir / "adapter" / "adapter_model.safetensors"))
        losses.append(torch.tensor([step.loss for step in events_of(run.output_dir, "step")]))
    for adapter, loss in zip(adapters[1:], losses[1:], strict=True):
        # AdamW divides by the gradient's own size, so rounding shows where a gradient is almost nothing.
        torch.testing.assert_close(adapter, adapters[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_equals_uninterrupted_bit_for_bit(make_run: MakeRun, tmp_path: Path, dropout: float) -> None:
    options = {"epochs": 2, "schedule": "cosine", "warmup_ratio": 0.2, "method": {"dropout": dropout}}
    whole = make_run(**options, checkpoint_every_steps=7, run={"output_dir": tmp_path / "whole"})
    expected = train(whole)
    assert sorted(path.name for path in (whole.output_dir / "checkpoints").iterdir()) == ["step-12", "step-7"]

    half = {"output_dir": tmp_path / "half", "resume_from": whole.output_dir / "checkpoints" / "step-7"}
    resumed = make_run(**options, run=half)
    torch.rand(3)  # Whatever the process did before must not matter.

    assert train(resumed) == expected
    assert adapter_bytes(resumed.output_dir) == adapter_bytes(whole.output_dir)
    assert events_of(resumed.output_dir, "plan")[0].first_step == 7
    assert [s.loss for s in events_of(resumed.output_dir, "step")] == [
        s.loss for s in events_of(whole.output_dir, "step")
    ][7:]


def test_the_seed_decides(make_run: MakeRun, tmp_path: Path) -> None:
    adapters = []
    for number, seed in enumerate((1, 1, 2)):
        run = make_run(max_steps=2, seed=seed, method={"dropout": 0.1}, run={"output_dir": tmp_path / str(number)})
        train(run)
        adapters.append(adapter_bytes(run.output_dir))
    assert adapters[0] == adapters[1] != adapters[2]


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(make_run: MakeRun, tmp_path: Path) -> None:
    options = {"epochs": 40, "method": {"dropout": 0.1}}
    whole = make_run(**options, run={"output_dir": tmp_path / "whole", "threads": 1})
    stopped = make_run(**options, run={"output_dir": tmp_path / "stopped", "threads": 1})
    document = tmp_path / "run.json"
    document.write_text(stopped.model_dump_json())
    log = tmp_path / "stopped" / "events.jsonl"
    deadline = time.monotonic() + 120
    with (tmp_path / "stderr").open("wb") as stderr:
        engine = subprocess.Popen([sys.executable, "-m", "finetune_hub.engine", "train", str(document)], stderr=stderr)
    while not (log.is_file() and b'"step"' in log.read_bytes()):
        assert engine.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.send_signal(signal.SIGTERM)

    assert engine.wait(60) == events.EXIT_STOPPED
    assert (tmp_path / "stderr").read_bytes() == b""
    last, before = events_of(stopped.output_dir)[-1], events_of(stopped.output_dir)[-2]
    assert (last.type, before.type, before.step) == ("stopped", "checkpoint", last.step)
    assert 0 < last.step < 240
    assert not (stopped.output_dir / "result.json").exists()

    train(whole)
    train(stopped.model_copy(update={"resume_from": stopped.output_dir / before.path}))
    assert adapter_bytes(stopped.output_dir) == adapter_bytes(whole.output_dir)


def test_a_checkpoint_of_another_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    train(make_run(max_steps=2, checkpoint_every_steps=1, run={"output_dir": tmp_path / "first"}))
    resume = {"resume_from": tmp_path / "first" / "checkpoints" / "step-1"}
    with pytest.raises(BadConfig, match=r"differs in training\.learning_rate, training\.seed\."):
        train(make_run(max_steps=2, seed=3, learning_rate=0.5, run=resume))
    with pytest.raises(BadConfig, match="differs in method"):
        train(make_run(max_steps=2, method={"rank": 8}, run=resume))
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(BadConfig, match="differs in base_model"):
        train(make_run(max_steps=2, run=resume | {"base_model_dir": other}))
    with pytest.raises(BadConfig, match="cannot be read"):
        train(make_run(run={"resume_from": tmp_path}))


def test_no_checkpoint_holds_a_pickle(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(max_steps=3, checkpoint_every_steps=2)
    train(run)
    checkpoint, _ = events_of(run.output_dir, "checkpoint")
    suffixes = {Path(entry.path).suffix for entry in checkpoint.files}
    assert suffixes == {".json", ".safetensors"}
    for entry in checkpoint.files:
        assert (run.output_dir / checkpoint.path / entry.path).stat().st_size == entry.size_bytes


def test_divergence_names_the_step_and_the_rows(make_run: MakeRun, tmp_path: Path, base_model_dir: Path) -> None:
    broken = make_tiny_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(float("inf"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match=r"Step 1 has the loss nan .* rows\.jsonl line \d+, rows\.jsonl line \d+"):
        train(make_run(run={"base_model_dir": broken}))


def test_bad_rows_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    rows = make_chat_rows(tmp_path / "bad.jsonl", 3)
    rows.write_text(rows.read_text() + '{"messages": []}\n')
    with pytest.raises(InvalidDataset, match=r"bad\.jsonl: Line 4, column 14: `messages` is empty"):
        train(make_run(rows=rows))


def test_a_changed_or_missing_file_is_bad_data(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    run.datasets[0].path.write_text("")
    with pytest.raises(BadData, match="SHA-256"):
        train(run)
    run.datasets[0].path.unlink()
    with pytest.raises(BadData, match="missing"):
        train(run)


def test_truncation_is_counted_and_mute_rows_are_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    rows = make_chat_rows(tmp_path / "rows.jsonl", 4)
    long = {"messages": [{"role": "user", "content": "a" * 200}, {"role": "assistant", "content": "b"}]}
    cut = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 200}]}
    rows.write_text(rows.read_text() + json.dumps(long) + "\n" + json.dumps(cut) + "\n")
    run = make_run(rows=rows, max_seq_len=128, max_steps=1)
    train(run)
    (plan,) = events_of(run.output_dir, "plan")
    assert (plan.rows, plan.truncated_rows) == (5, 1)
    assert any("line 5" in event.message for event in events_of(run.output_dir, "log"))

    with pytest.raises(BadData, match=r"No row .* within 16 tokens"):
        train(make_run(rows=rows, max_seq_len=16))


def test_dataset_weights_say_how_often_rows_are_drawn() -> None:
    def rows(name: str, count: int) -> list[TokenRow]:
        empty = torch.zeros(0, dtype=torch.int32)
        return [TokenRow(f"{name}{i}", empty, empty, 0) for i in range(count)]

    order = RowOrder(
        [WeightedRows(rows("a", 4), 2.0), WeightedRows(rows("b", 6), 0.8), WeightedRows(rows("c", 4), 1.0)], seed=3
    )
    assert order.rows_per_epoch == 10 + 6 + 5
    epoch = [row.name for row in order.rows(0, 21)]
    assert {epoch.count(f"a{i}") for i in range(4)} <= {2, 3}
    assert {epoch.count(f"b{i}") for i in range(6)} == {1}
    assert [row.name for row in order.rows(21, 42)] != epoch
    assert [row.name for row in order.rows(0, 21)] == epoch


def test_two_datasets_train_together(make_run: MakeRun, tmp_path: Path) -> None:
    files = [make_chat_rows(tmp_path / f"{seed}.jsonl", 4, seed=seed) for seed in (1, 2)]
    run = make_run(run={"datasets": [dataset_file(files[0]), dataset_file(files[1], weight=2.0)]})
    assert train(run).steps == 6


def test_schedules_rise_and_fall() -> None:
    def shares(**options: object) -> list[float]:
        return [round(schedule(step, 10, TrainingOptions(**options)), 3) for step in range(1, 11)]

    assert shares(schedule="constant", warmup_ratio=0) == [1.0] * 10
    assert shares(schedule="linear", warmup_ratio=0.2) == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    cosine = shares(schedule="cosine", warmup_ratio=0)
    assert (cosine[0], cosine[5]) == (1.0, 0.5)
    assert cosine == sorted(cosine, reverse=True)


def test_a_missing_gpu_is_told(make_run: MakeRun) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadConfig, match="needs a CUDA GPU"):
        train(make_run(run={"device": "cuda"}))
