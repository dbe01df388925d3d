"""Every name that a module of ours imports from another is there, also where it is imported only when it is needed.

Linters see one file at a time, and mypy does not look at every package: a name that was moved is found when a user gets
to that line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from command import ROOT

FILES = [
    path
    for top in ("loraplug", "plugins", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
    if "package-templates" not in path.parts and path.parent.name != "jail"  # programs by themselves
]


def imported(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """The imports of our own modules' names; not those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).startswith("loraplug"):
            yield node
        yield from imported(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_that_is_imported_is_there(path: Path) -> None:
    """In the module, or as a module below it."""
    missing = []
    for node in imported(ast.parse(path.read_text(encoding="utf-8"))):
        module = import_module(str(node.module))
        for alias in node.names:
            below = hasattr(module, "__path__") and find_spec(f"{node.module}.{alias.name}") is not None
            if not (hasattr(module, alias.name) or below):
                missing.append(f"line {node.lineno}: {node.module}.{alias.name}")
    assert missing == []
