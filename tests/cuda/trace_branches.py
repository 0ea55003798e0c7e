"""Go the ways that only a GPU goes, over fake tensors of one, and tell which of the engine's branches were gone.

A branch is found by its condition: one that names "cuda", `is_cuda` or `torch.cuda`. So a new one is in the table from
the day on which it is written, traced or not.
"""

from __future__ import annotations

import ast
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import coverage
import torch

from finetune_hub.engine.kernels import document_attention, fused, varlen_attention
from finetune_hub.engine.train import setup
from finetune_hub.spec.run import TrainRun
from tests.engine.conftest import events_of
from tests.engine.stand_in import StandIn
from tests.engine.stand_in_runs import (
    EXPERTS,
    EXPERTS_BASE,
    LORA,
    METHOD_CASES,
    METHODS_AS_THEY_COME,
    OBJECTIVE_CASES,
    OBJECTIVES_AS_THEY_COME,
    SFT,
    Kind,
    make_run,
    train_on,
    words_of,
)
from tests.tiny_models import make_tiny_model

ENGINE = Path(__file__).parents[2] / "finetune_hub" / "engine"
_aten = torch.ops.aten


@dataclass(frozen=True)
class Branch:
    """A condition on CUDA, and whether the code under it ran."""

    file: str
    line: int
    condition: str
    traced: bool


class Gpu(StandIn):
    """The stand-in, which the engine takes for a GPU; the host's memory can be pinned, too."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is _aten.is_pinned.default:
            return False
        if operation is _aten._pin_memory.default:
            return args[0].clone()
        return super().__torch_dispatch__(operation, types, args, kwargs)


def trace() -> tuple[dict[str, str], list[Branch]]:
    """What became of every run, `traced` or its error, and the branches."""
    # `fast_modules` tries what must fail, and torch tells of it at length.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    measured = coverage.Coverage(data_file=None, include=[f"{ENGINE}/*"], messages=False)
    outcomes = {}
    with tempfile.TemporaryDirectory() as name, _as_on_a_gpu():
        measured.start()
        for words, run in _runs(Path(name)):
            outcomes[words] = _outcome(run)
            print(f"{words}: {outcomes[words]}", flush=True)
        measured.stop()
    return outcomes, list(_branches(measured.get_data()))


def _runs(folder: Path) -> Iterator[tuple[str, TrainRun]]:
    """The runs of `tests/engine/test_stand_in.py`."""
    bases = {
        "llama": make_tiny_model(folder / "llama", layers=1),
        "mixtral": make_tiny_model(folder / "mixtral", **EXPERTS_BASE),
    }
    cases: list[tuple[str, Kind, Kind, Kind]] = [("llama", method, SFT, {}) for method in METHOD_CASES]
    cases += [("llama", LORA, objective, {}) for objective in OBJECTIVE_CASES[1:]]
    cases += [("llama", *pair, {}) for pair in product(METHODS_AS_THEY_COME[1:], OBJECTIVES_AS_THEY_COME[1:])]
    cases += [("llama", LORA, SFT, {"runtime": {"dtype": dtype}}) for dtype in ("float16", "float32", "auto")]
    cases += [("llama", LORA, SFT, {"training": {"optimizer": "adamw_8bit", "neftune_alpha": 5}})]
    cases += [("llama", LORA, SFT, {"evaluation": {"fraction": 0.25}}), ("mixtral", EXPERTS, SFT, {})]
    for number, (base, method, objective, parts) in enumerate(cases):
        work = folder / str(number)
        work.mkdir()
        words = [base, words_of(method), words_of(objective), *(words_of(part) for part in parts.values())]
        yield ", ".join(words), make_run(work, bases[base], method, objective, **parts)


def _outcome(run: TrainRun) -> str:
    document_attention.take_learned_on()
    try:
        train_on(Gpu(), run)
    except Exception as failed:  # noqa: BLE001 (whatever it dies of belongs into the report)
        return f"{type(failed).__name__}: {str(failed).splitlines()[0][:200]}"
    said = [event.message for event in events_of(run.output_dir, "log")]
    assert "Element-wise work: fused by torch.compile." in said
    return "traced, " + next(line for line in said if line.startswith("Attention"))


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """What the engine asks torch about its GPU, answered as an H100 would; proofs, which compare numbers, pass."""

    def check_device(run: TrainRun, own: Callable[[TrainRun], None] = setup.check_device) -> None:
        with (
            mock.patch.object(torch.cuda, "is_available", return_value=True),
            mock.patch.object(torch.cuda, "device_count", return_value=1),
        ):
            own(run)

    with ExitStack() as stack:
        for owner, name, answer in (
            (setup, "check_device", check_device),
            (torch.cuda, "synchronize", lambda: None),
            (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            (varlen_attention, "can_use_flash_attention", lambda given: given.query.dtype != torch.float32),
            (varlen_attention, "is_proven", lambda *_: True),
            (fused, "why_not", lambda _: None),
            # `compile_kernels` compiles them; here they run as they stand, over fake tensors.
            (torch, "compile", lambda function, **_: function),
        ):
            stack.enter_context(mock.patch.object(owner, name, answer))
        yield


def _branches(lines: coverage.CoverageData) -> Iterator[Branch]:
    """Each statement of a function that names CUDA; of an `if`, whether a GPU's way on from it ran."""
    for path in sorted(ENGINE.rglob("*.py")):
        ran = set(lines.lines(str(path)) or ())
        for statement, following in _statements(ast.parse(path.read_text(encoding="utf-8"))):
            named = _own_part(statement)
            if any(_names_cuda(part) for part in ast.walk(named)):
                is_if = isinstance(statement, ast.If)
                gone = _behind(statement, following) if is_if else statement
                file, text = path.relative_to(ENGINE).as_posix(), ast.unparse(named)
                yield Branch(file, statement.lineno, f"if {text}" if is_if else text, gone.lineno in ran)


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Every statement within functions, in order, with the one behind it in its block."""
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if id(node) in inside and isinstance(block, list) and block:
                found += zip(block, [*block[1:], None], strict=True)
    yield from sorted(found, key=lambda pair: pair[0].lineno)


def _own_part(statement: ast.stmt) -> ast.AST:
    """The statement without those inside of it; what a GPU never does, to raise an error, counts as nothing."""
    if isinstance(statement, ast.If | ast.While):
        return statement.test
    if isinstance(statement, ast.With):
        return statement.items[0]
    return ast.Pass() if hasattr(statement, "body") or isinstance(statement, ast.Raise) else statement


def _names_cuda(part: ast.AST) -> bool:
    return (isinstance(part, ast.Constant) and part.value == "cuda") or (
        isinstance(part, ast.Attribute) and part.attr in {"cuda", "is_cuda"}
    )


def _behind(condition: ast.If, following: ast.stmt | None) -> ast.stmt:
    """Where a GPU goes on: into the block, or past it where the block is for everything else or an error."""
    is_for_others = any(isinstance(part, ast.NotEq) for part in ast.walk(condition.test))
    passes_by = is_for_others or isinstance(condition.body[0], ast.Raise)
    return following if passes_by and following is not None else condition.body[0]
