"""The methods of peft and the fields of their configs, parsed from its source files, as importing peft loads torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OURS = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
        "task_type",
    }
)  # fmt: skip
"""Fields of every config that the adapter fills in itself."""


@cache
def methods() -> Mapping[str, frozenset[str]]:
    """Each method of peft (lower-case name) with the fields of its config."""
    folder = Path(str(find_spec("peft").origin)).parent  # type: ignore[union-attr] # peft is a dependency
    files = [folder / "config.py", *sorted((folder / "tuners").glob("*.py")), *(folder / "tuners").glob("*/config.py")]
    classes = {
        node.name: node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    return {
        method: frozenset(_fields(node, classes)) - OURS for node in classes.values() for method in _method_of(node)
    }


def _method_of(node: ast.ClassDef) -> Iterator[str]:
    """The method that a config class names: `self.peft_type = PeftType.IA3`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign) and ast.unparse(inner.targets[0]) == "self.peft_type":
            kind, _, method = ast.unparse(inner.value).rpartition(".")
            if kind == "PeftType":
                yield method.lower()


def _fields(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[str]:
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _fields(classes[base.id], classes)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kind = ast.unparse(statement.annotation)
            made = "" if statement.value is None else ast.unparse(statement.value)
            if "ClassVar" not in kind and "init=False" not in made:
                yield statement.target.id
