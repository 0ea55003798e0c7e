"""Dead links and paths in the documentation: what a Markdown file names must be there.

python -m tests.gates.dead_links     prints a line for each defect, and exits with 1 if there is one

Looked at are links to files and to headings, and in backticks and code blocks: paths below a folder of the repository,
names of Python and Markdown files, our modules and what they define, and targets of make. `…` and `*` stand for any
text; words with a segment in capitals, or with brackets, stand for something else. Addresses on the web are not asked.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from posixpath import normpath

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

_BETWEEN_WORDS = re.compile(r"[\s\"'`,;=|()\[\]]+")
_PLACEHOLDER = re.compile(r"(^|/)[A-Z_-]+(/|$)|[<>{}$~@]")
_MODULE = re.compile(r"(?<![\w./-])(?:finetune_hub|workers|tests|benchmarks)(?:\.(?!py\b)\w+)+(?![\w./-]*/)")
_MAKE = re.compile(r"^(?:\$ )?make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", flags=re.MULTILINE)
_HTML_LINK = re.compile(r"""(?:href|src|srcset)=["']([^"']+)["']""")
_HTML_ANCHOR = re.compile(r"""<\w+[^>]*\s(?:id|name)=["']([^"']+)["']""")


def files_of_the_repository(root: Path = ROOT) -> list[str]:
    """What a fresh clone would hold, and files that are new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in sorted(set(listed.stdout.splitlines())) if (root / name).is_file()]


class Documentation:
    """The Markdown files of a repository, and all that they may name."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.files = files_of_the_repository(root)
        self.folders = {str(folder) for name in self.files for folder in Path(name).parents}
        self.pages = {
            name: MarkdownIt("commonmark").enable("table").parse((root / name).read_text())
            for name in self.files
            if name.endswith(".md")
        }

    def defects(self) -> Iterator[str]:
        """A line for each link and path that leads nowhere: where it is, and what it names."""
        for page, tokens in self.pages.items():
            for line, token in _flat(tokens):
                yield from (f"{page}:{line}: {defect}" for defect in self._defects_of(page, token))

    def _defects_of(self, page: str, token: Token) -> Iterator[str]:
        for target in _links(token):
            if not self._leads_somewhere(page, target):
                yield f"the link {target} leads nowhere"
        if token.type in {"code_inline", "code_block", "fence"}:
            for word in _BETWEEN_WORDS.split(token.content):
                if not self._path_exists(word.partition(":")[0].rstrip(".").removeprefix("./")):
                    yield f"there is no {word}"
            for module in _MODULE.findall(token.content):
                if not self._is_module(module) and not self._defines(module):
                    yield f"there is no {module}"
            for target in _MAKE.findall(token.content):
                if target not in self.make_targets:
                    yield f"make has no target {target}"

    def _leads_somewhere(self, page: str, target: str) -> bool:
        if re.match(r"[a-z][a-z+.-]*:|//", target):
            return True
        path, _, heading = target.partition("#")
        name = normpath(Path(page).parent / path) if path else page
        if name in self.pages:
            return not heading or heading in _anchors(self.pages[name])
        return name in self.files or name in self.folders

    def _path_exists(self, word: str) -> bool:
        """Whether a word is no path of ours, or names a file or folder that there is."""
        pattern = word.rstrip("/").replace("…", "*")
        if _PLACEHOLDER.search(word):
            return True
        if "/" in word and word.partition("/")[0] in self.folders - {"."}:
            return any(fnmatchcase(name, pattern) for name in (*self.folders, *self.files))
        if word.endswith((".py", ".md")) and not word.startswith("/"):
            return any(fnmatchcase(f"/{name}", f"*/{pattern}") for name in self.files)
        return True

    def _is_module(self, dotted: str) -> bool:
        path = dotted.replace(".", "/")
        return f"{path}.py" in self.files or path in self.folders

    def _defines(self, dotted: str) -> bool:
        """Whether the longest part that is a module binds the next name at its top level."""
        parts = dotted.split(".")
        for length in range(len(parts) - 1, 0, -1):
            path = self.root / ("/".join(parts[:length]) + ".py")
            if path.is_file():
                return parts[length] in _names(ast.parse(path.read_text()))
        return False

    @cached_property
    def make_targets(self) -> set[str]:
        return set(re.findall(r"^([a-z-]+):", (self.root / "Makefile").read_text(), flags=re.MULTILINE))


def _flat(tokens: list[Token]) -> Iterator[tuple[int, Token]]:
    """Each token with the line at which its block begins."""
    line = 1
    for token in tokens:
        line = token.map[0] + 1 if token.map else line
        for part in (token, *(token.children or ())):
            yield line, part


def _links(token: Token) -> list[str]:
    if token.type in {"link_open", "image"}:
        return [str(token.attrGet("href" if token.type == "link_open" else "src"))]
    return _HTML_LINK.findall(token.content) if token.type in {"html_block", "html_inline"} else []


def _anchors(tokens: list[Token]) -> set[str]:
    """Where a link can lead to in a page: its headings as GitHub spells them, and anchors in HTML."""
    anchors: set[str] = set()
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(part.content for part in following.children or () if part.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")
            repeats = (f"{slug}-{number}" for number in range(1, len(tokens)))
            anchors.add(slug if slug not in anchors else next(name for name in repeats if name not in anchors))
    for _, token in _flat(tokens):
        if token.type in {"html_block", "html_inline"}:
            anchors.update(_HTML_ANCHOR.findall(token.content))
    return anchors


def _names(module: ast.Module) -> Iterator[str]:
    """What a module binds at its top level."""
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from (alias.asname or alias.name for alias in aliases)


if __name__ == "__main__":
    found = list(Documentation().defects())
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
