"""The documents in the repository say what the code does: the OpenAPI schema, and the list of error codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import yaml
from django.core.management import call_command
from django.test import Client

from finetune_hub.admission import CODE as BUSY
from finetune_hub.api.errors import REMEDIES
from finetune_hub.operations.deletion.actions import DELETABLE

ROOT = Path(__file__).parents[2]
GENERATE = "spectacular --custom-settings finetune_hub.api.schema.SCHEMA_SETTINGS --fail-on-warn"


def test_the_schema_in_the_repository_is_current() -> None:
    """After a wanted change: `make answers`."""
    generated = StringIO()
    call_command(*GENERATE.split(), stdout=generated)
    assert yaml.safe_load(generated.getvalue()) == yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())


def test_the_schema_is_served_to_anybody() -> None:
    served = yaml.safe_load(Client().get("/api/schema").content)
    assert served == yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())


def test_every_error_code_is_documented() -> None:
    service, terminal, rows = documented()
    made = raised("Refusal") | raised("__init__") | raised("Problem", "finetune_hub/data")
    made |= {f"{kind}_in_use" for kind in DELETABLE}
    assert service == made | {code for code, _ in REMEDIES.values()} | defaults_of("code") | {BUSY}
    said = raised("HubError") | raised("HuggingFaceRefusal") | raised("Problem", "finetune_hub/cli")
    assert terminal == said - service - rows
    assert rows == row_codes()


def documented() -> list[set[str]]:
    """The codes of each table of docs/api-errors.md."""
    parts = re.split(r"^## ", (ROOT / "docs/api-errors.md").read_text(), flags=re.MULTILINE)[1:]
    return [set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in parts]


def calls(*folders: str) -> Iterator[ast.Call]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def raised(exception: str, *folders: str) -> set[str]:
    """The literal codes with which the exception, or problem, is made in these folders; anywhere when none is named."""
    found = calls(*(folders or ("finetune_hub", "workers")))
    named = (call for call in found if exception in {getattr(call.func, "id", ""), getattr(call.func, "attr", "")})
    return {call.args[0].value for call in named if call.args and isinstance(call.args[0], ast.Constant)}  # type: ignore[misc]


def defaults_of(parameter: str) -> set[str]:
    """The codes that reach `refuse_document` and `as_refusal` by a variable."""
    source = (ROOT / "finetune_hub/api").rglob("*.py")
    text = "".join(path.read_text() for path in source)
    return set(re.findall(rf'{parameter}(?:: str)? ?= ?"(\w+)"', text)) | set(re.findall(r'\("(invalid_\w+)", ', text))


def row_codes() -> set[str]:
    """The codes of defects in dataset files: each is a literal where a defect is made, below finetune_hub/data/."""
    makers = {"BrokenFile": 0, "problem": 0, "RowProblem": 0, "unread": 1, "_unparsed": 3}
    found: list[ast.expr] = []
    for call in calls("finetune_hub/data"):
        place = makers.get(getattr(call.func, "id", ""), len(call.args))
        found += call.args[place : place + 1]
        if getattr(call.func, "id", "") == "Defect":
            found += [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    return {node.value for node in found if isinstance(node, ast.Constant)}  # type: ignore[misc]
