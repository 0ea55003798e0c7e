"""The command line: quick to answer, silent on stderr, and every ending has its event and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_hub.engine.commands import main
from finetune_hub.engine.errors import Diverged
from finetune_hub.engine.train import loop
from finetune_hub.spec import events
from finetune_hub.spec.run import TrainResult, VerifyResult
from tests.engine.conftest import MakeRun, events_of


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_hub.engine.commands._silence_libraries", lambda: None)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_help_and_bad_documents_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    code = (
        "import sys, contextlib, io\nfrom finetune_hub.engine.commands import main\n"
        "with contextlib.redirect_stderr(io.StringIO()):\n"
        f"    assert main(['train', {str(tmp_path / 'run.json')!r}]) == 10\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    assert "evaluate" in python(code).stdout


def test_layers_below_and_beside_stay_away() -> None:
    python(
        "import sys\nimport finetune_hub.engine.train.loop, finetune_hub.engine.evaluate\n"
        "import finetune_hub.engine.import_model\n"
        "assert not {'django', 'celery'} & set(sys.modules)"
    )
    python(
        "import sys\nimport finetune_hub.data.report, finetune_hub.data.chat_template\n"
        "import finetune_hub.spec.run, finetune_hub.spec.events\n"
        "assert not {'torch', 'transformers', 'numpy', 'django'} & set(sys.modules)"
    )


def test_a_full_disk_has_an_exit_status_of_its_own(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    run = make_run(max_steps=1)
    run.output_dir.mkdir(parents=True, exist_ok=True)
    (run.output_dir / "events.jsonl").symlink_to("/dev/full")
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert main(["train", str(tmp_path / "run.json")]) == events.EXIT_UNSAID
    assert "No space left on device" in capsys.readouterr().err


def test_train_then_verify_as_processes(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(max_steps=2)
    verification = {
        "base_model_dir": str(run.base_model_dir),
        "adapter_dir": str(run.output_dir / "adapter"),
        "probe_file": str(run.output_dir / "probe.safetensors"),
        "output_dir": str(tmp_path / "verify"),
    }
    for command, document, said, status in (
        (["train"], run.model_dump_json(), None, events.EXIT_SUCCEEDED),
        (["verify", "--wait"], json.dumps(verification), "", events.EXIT_STOPPED),  # Its turn never comes.
        (["verify", "--wait"], json.dumps(verification), "Go.\n", events.EXIT_SUCCEEDED),
    ):
        (tmp_path / "document.json").write_text(document)
        done = subprocess.run(
            [sys.executable, "-m", "finetune_hub.engine", *command, str(tmp_path / "document.json")],
            input=said,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    result = TrainResult.model_validate_json((run.output_dir / "result.json").read_bytes())
    assert result.steps == 2
    assert VerifyResult.model_validate_json((tmp_path / "verify" / "result.json").read_bytes()).changes_something


@pytest.mark.parametrize(
    ("error", "failure_class", "has_traceback"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "out_of_memory", False),
        (Diverged("Step 3 has the loss nan.", "Lower it."), "diverged", False),
        (OSError("No space left on device"), "infrastructure", False),
        (ZeroDivisionError("oops"), "internal", True),
    ],
)
def test_every_failure_has_a_class_and_a_remedy(
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    failure_class: str,
    has_traceback: bool,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train", fail)
    run = make_run()
    (tmp_path / "run.json").write_text(run.model_dump_json())

    assert main(["train", str(tmp_path / "run.json")]) == events.EXIT_FAILED

    (failure,) = events_of(run.output_dir)
    assert (failure.type, failure.failure_class) == ("failure", failure_class)
    assert failure.remedy.endswith(".")
    assert ("Traceback" in capsys.readouterr().err) is has_traceback
    assert not (run.output_dir / "result.json").exists()


def test_bad_rows_fail_as_bad_data(make_run: MakeRun, tmp_path: Path) -> None:
    rows = tmp_path / "bad.jsonl"
    rows.write_text('{"messages": 3}\n')
    run = make_run(rows=rows)
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert main(["train", str(tmp_path / "run.json")]) == events.EXIT_FAILED
    (failure,) = events_of(run.output_dir)
    assert failure.failure_class == "bad_data"
    assert "bad.jsonl: Line 1, column 14: `messages` is a number, not a list." in failure.message
