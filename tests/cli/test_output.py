"""JobLook: a bar where somebody watches, plain lines elsewhere, and both end with the ended job."""

from __future__ import annotations

import pytest

from finetune_hub.cli import output
from finetune_hub.cli.answers import JobDetail, JobEvent, MetricPoint
from finetune_hub.cli.client import JobLook


def look(state: str, step: int, *, total: int | None = 10, loss: float | None = None, message: str = "") -> JobLook:
    job = JobDetail.model_construct(
        state=state,
        step=step,
        total_steps=total,
        progress_unit="steps",
        eta_seconds=65.4,
        waiting_reason="Every device is taken.",
    )
    point = MetricPoint.model_construct(step=step, loss=loss) if loss else None
    events = [JobEvent.model_construct(number=step, level="warn", created_at="2026-01-31T12:34:56Z", message=message)]
    return JobLook(job, events if message else [], [point] if point else [], point)


LOOKS = [
    look("queued", 0, total=None, message="Attempt 1 [ended]."),
    look("running", 3, loss=1.23456),
    look("succeeded", 10, loss=0.5),
]


def test_a_progress_line_says_what_is_known() -> None:
    assert output.progress_line(LOOKS[0]) == "Every device is taken."
    assert output.progress_line(LOOKS[1]) == "steps 3/10, loss 1.2346, 0:01:05 left"


def test_a_progress_line_of_pairs_says_how_well_they_are_told_apart() -> None:
    pairs = look("running", 3, loss=0.5)
    assert pairs.newest
    pairs.newest.reward_margin, pairs.newest.reward_accuracy = 0.25, 0.875
    assert output.progress_line(pairs) == "steps 3/10, loss 0.5000, margin 0.250, accuracy 88%, 0:01:05 left"


def test_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PLAIN_LINE_EVERY_SECONDS", -1.0)
    assert output._show_lines(iter(LOOKS)) == LOOKS[-1].job
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[:2] == [
        "12:34:56  warning: Attempt 1 [ended].",
        "steps 3/10, loss 1.2346, 0:01:05 left",
    ]


def test_a_bar_where_somebody_watches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert output._show_bar(iter(LOOKS)) == LOOKS[-1].job
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Attempt 1 [ended]." in shown.err
    assert "steps 10/10, loss 0.5000" in shown.err


def test_sizes_are_for_people() -> None:
    assert [output.size(number) for number in (None, 1, 12, 2048, 5_100_000, 134_000_000, 25.3e9)] == [
        "-",
        "1 byte",
        "12 bytes",
        "2.0 kB",
        "5.1 MB",
        "134 MB",
        "25.3 GB",
    ]


def test_a_table_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["NAME", "N"], [("x" * 200, 1), ("y", None)])
    assert capsys.readouterr().out.splitlines()[1:] == [f"{'x' * 200}  1", f"{'y'.ljust(200)}  -"]
