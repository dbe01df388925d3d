"""Private parts of libraries are used in `compat.py` alone: ruff (SLF001) holds attributes to it, this the rest."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {path.name for path in ROOT.glob("plugins/loraplug_*")} | {"loraplug"}
MODULES = [
    path
    for top in ("loraplug", "plugins")
    for path in (ROOT / top).rglob("*.py")
    if "package-templates" not in path.parts
]


def foreign(text: str) -> list[str]:
    """The private names of others that a module imports, asks for by `getattr` or `hasattr`, or gives as keywords."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] not in OURS:
            names = [*(node.module or "").split("."), *(one.name for one in node.names)]
            found += [f"from {node.module} import {name}" for name in names if _private(name)]
        elif isinstance(node, ast.Import):
            found += [one.name for one in node.names if any(map(_private, one.name.split(".")))]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and _private(str(name.value)):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
            found += [key for key in keys if _private(key) and key.isidentifier()]
    return found


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_the_check_sees_them() -> None:
    """Each of the ways, and none that is ours."""
    text = (
        "import a._b\nfrom a import _c\nfrom _d import e\ngetattr(f, '_g')\nfrom loraplug import _h\nimport i.__j__\n"
        "k(**{'_l': 1})\n"
    )
    assert foreign(text) == ["a._b", "from a import _c", "from _d import _d", "getattr(f, '_g')", "_l"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_private_names_are_used_in_compat_modules_alone(path: Path) -> None:
    """One module of each package, which its contract tests hold."""
    found = foreign(path.read_text(encoding="utf-8"))
    assert not found or path.name == "compat.py"


def test_every_compat_module_has_its_contract_tests() -> None:
    """Where `make canary` finds them."""
    packages = {path.parent.name.removeprefix("loraplug_") for path in MODULES if path.name == "compat.py"}
    tests = {path.stem.removeprefix("test_").removesuffix("_compat") for path in ROOT.glob("tests/**/test_*_compat.py")}
    assert packages == tests


def test_bounds_of_pyproject_let_in_what_is_installed_and_no_next_minor_version() -> None:
    """The libraries whose private parts are used, and those that decide what is computed."""
    import tomllib
    from importlib.metadata import version

    from packaging.requirements import Requirement
    from packaging.version import Version

    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    bounds = {found.name: found.specifier for found in map(Requirement, table["project"]["dependencies"])}
    for name in ("accelerate", "bitsandbytes", "datasets", "peft", "torch", "transformers", "trl"):
        here = Version(version(name))
        assert here in bounds[name], f"{name} {here} is installed, {bounds[name]} asked for: tests say nothing of that"
        assert not bounds[name].contains(f"{here.major}.{here.minor + 2}"), name
        assert not bounds[name].contains(f"{here.major + 1}.0"), name
