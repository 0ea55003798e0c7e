"""What the README says of the repository is so."""

from __future__ import annotations

import re

from tests.readme_tree import README, ROOT, with_files


def test_the_tree_names_each_file_as_it_is() -> None:
    assert README.read_text() == with_files(README.read_text()), "Run `make fmt`."


def test_the_tree_names_folders_that_exist() -> None:
    tree = README.read_text().partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    parent = ""
    for line in tree.splitlines():
        names = re.findall(r"[\w.-]+/?", line[:22].strip())
        if not line.startswith(" "):
            parent = ""
        for name in names:
            assert (ROOT / parent / name).exists(), f"{parent}{name}"
        if not line.startswith(" ") and names == ["finetune_hub/"]:
            parent = "finetune_hub/"


def test_every_command_and_path_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = README.read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE)) <= targets
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
