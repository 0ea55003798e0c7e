"""Read "cuda" as the stand-in's name in the engine's sources, so that its code for a GPU runs over the stand-in.

Where there is no driver, torch's backward refuses fake tensors of `cuda`, but takes those of a device that somebody
else defines. So the engine's modules are compiled with the one name in the place of the other; nothing else is changed.
Import this before anything of the engine.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

PACKAGE = "finetune_hub.engine."
NAME = "standin"


class _Rename(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if node.value == "cuda":
            node.value = NAME
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if node.attr == "is_cuda":
            node.attr = f"is_{NAME}"
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:  # Not from the cache of compiled modules, nor into it.
        tree = _Rename().visit(ast.parse(self.get_data(self.path)))
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder(PathFinder):
    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec: Any = super().find_spec(fullname, path, target) if fullname.startswith(PACKAGE) else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


assert not any(name.startswith(PACKAGE) for name in sys.modules)
sys.meta_path.insert(0, _Finder)
