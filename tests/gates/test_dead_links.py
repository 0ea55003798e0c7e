"""What documentation names must be there. `make lint` asks this of the repository's own; here are planted defects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.gates.dead_links import Documentation

PAGE = """# One page

## What it's for: `names`, and more

## Twice

## Twice
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for path, text in {
        "Makefile": "quickstart: x ## Set up\n\nverify-full:\n",
        "docs/page.md": PAGE,
        "docs/images/job.png": "",
        "finetune_hub/spec/methods.py": "import json\nLORA: int = 1\nDORA = 2\nclass Method: ...\n",
        "finetune_hub/spec/__init__.py": "",
        "finetune_hub/jobs/migrations/0008_worker_policies.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def defects(root: Path, text: str) -> list[str]:
    (root / "README.md").write_text(text)
    return list(Documentation(root).defects())


@pytest.mark.parametrize(
    "text",
    [
        "[page](docs/page.md), [heading](docs/page.md#twice-1) and [folder](docs/)",
        "[heading](docs/page.md#what-its-for-names-and-more)",
        "![picture](docs/images/job.png)",
        "[web](https://example.org/docs/nothing.md)",
        '<img src="docs/images/job.png"> and <a href="docs/page.md">page</a>',
        "`docs/page.md`, `methods.py:3`, `spec/methods.py`, `finetune_hub/spec/`, `./docs/page.md`",
        "`finetune_hub/jobs/migrations/…_worker_policies.py` and `docs/*.md`",
        "`docs/NAME/other` and `docs/<name>.md`, neither a path; `recipe.yaml` is the reader's own",
        "`finetune_hub.spec`, `finetune_hub.spec.methods`, `finetune_hub.spec.methods.Method` and `….methods.DORA`",
        "`finetune_hub.spec.methods:LORA` and `python -m finetune_hub.spec.methods docs/page.md`",
        "```\nmake quickstart ARGS=1  # and make it quick\nmake TORCH=cpu verify-full\n```",
        "docs/nothing.md without backticks is prose",
    ],
)
def test_what_is_there_is_no_defect(repository: Path, text: str) -> None:
    assert defects(repository, text) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[page](docs/nothing.md)", "docs/nothing.md"),
        ("[page](page.md)", "page.md"),
        ("[heading](docs/page.md#nothing)", "docs/page.md#nothing"),
        ("[heading](docs/page.md#twice-2)", "docs/page.md#twice-2"),
        ("[heading](#nothing)", "#nothing"),
        ("| table |\n|---|\n| [page](nothing.md) |", "nothing.md"),
        ("![picture](docs/images/nothing.png)", "docs/images/nothing.png"),
        ('<picture><source srcset="docs/nothing.png"></picture>', "docs/nothing.png"),
        ("see `docs/nothing.md`.", "docs/nothing.md"),
        ("`finetune_hub/spec/nothing/`", "finetune_hub/spec/nothing/"),
        ("`spec/nothing.py`", "spec/nothing.py"),
        ("`ethods.py`", "ethods.py"),
        ("`finetune_hub/jobs/migrations/…_nothing.py`", "finetune_hub/jobs/migrations/…_nothing.py"),
        ("`finetune_hub.spec.nothing`", "finetune_hub.spec.nothing"),
        ("`finetune_hub.spec.methods.Nothing`", "finetune_hub.spec.methods.Nothing"),
        ("```sh\npython -m finetune_hub.nothing --out docs/page.md\n```", "finetune_hub.nothing"),
        ("```\nmake nothing\n```", "nothing"),
    ],
)
def test_what_is_not_there_is_named_with_its_line(repository: Path, text: str, named: str) -> None:
    (found,) = defects(repository, f"# Title\n\n{text}\n")
    assert found.startswith("README.md:")
    assert found.endswith((named, f"{named} leads nowhere"))
    assert int(found.split(":")[1]) >= 3
