"""The README's tree: a line for each file, taken from the file's own first docstring line, so that it is never stale.

python -m tests.readme_tree        writes it into README.md; a test compares
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- files: written by `make fmt` -->\n", "<!-- end of files -->\n"
WIDTH = 24


def with_files(readme: str) -> str:
    """The README with the lines of all files between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```\n{''.join(_lines())}```\n\n{END}{after}"


def _lines() -> list[str]:
    lines, shown = [], Path()
    for path in _modules():
        if path.parent != shown:
            shown = path.parent
            lines.append(f"{shown}/\n")
        lines.append(f"  {path.name:<{WIDTH}} {_first_line(path)}\n")
    return lines


def _modules() -> list[Path]:
    """Python files of the product that say what they are, folder by folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "finetune_hub/*.py", "workers/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    return sorted((path for path in paths if _first_line(path)), key=lambda path: (path.parent, path.name))


def _first_line(path: Path) -> str:
    """The docstring's first line."""
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    README.write_text(with_files(README.read_text()))
