"""`loraplug plugins new`: a package with one plugin in it, made from the working packages under `package-templates/`.

The templates are plain files in which `my_package`, `my-package`, `MyPart` and `my-part` stand for the names.
"""

from __future__ import annotations

import keyword
import re
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from loraplug import InputError, wrap_os_errors

SUMMARIES = {
    "dataset": "a dataset source",
    "transform": "a transform",
    "formatter": "a formatter",
    "model": "a model loader",
    "quantizer": "a quantizer",
    "adapter": "an adapter",
    "optimizer": "an optimizer",
    "scheduler": "a learning-rate schedule",
    "trainer": "a trainer",
    "exporter": "an exporter",
    "commands": "a command",
    "events": "an observer of runs",
    "diagnostics": "a check of the machine for `loraplug doctor`",
}


@frozen
class Names:
    """What a new package and its parts are called: `loraplug-git-log` provides the component `git-log`."""

    distribution: str
    module: str
    component: str

    @property
    def placeholders(self) -> dict[str, str]:
        """What stands in the templates, and what to write for it."""
        words = re.split(r"[-._]+", self.component)
        shown = "".join(word[:1].upper() + word[1:] for word in words)
        return {
            "my-package": self.distribution,
            "my_package": self.module,
            "MY_PACKAGE": self.module.upper(),
            "my-part": self.component,
            "MyPart": f"{shown if shown[0].isalpha() else f'The{shown}'}Plugin",
        }


def names(given: str) -> Names:
    """The names for a package.

    Raises:
        InputError: PyPI would refuse the name, Python could not import the module, or it would hide another one.
    """
    where = f"NAME {given!r}"
    if len(given) > 100 or not re.fullmatch(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]", given):
        todo = "use ASCII letters and digits, with single dashes inside: loraplug-yaml"
        raise InputError("is not a valid name of a Python distribution", where=where, todo=todo)
    distribution = re.sub(r"[-_.]+", "-", given).lower()
    module = distribution.replace("-", "_")
    component = distribution.removeprefix("loraplug-")
    if not module.isidentifier() or keyword.iskeyword(module) or keyword.issoftkeyword(module):
        todo = f"begin with a letter, such as loraplug-{component}"
        raise InputError(f"its module {module} could not be imported", where=where, todo=todo)
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        near = "loraplug-mine" if distribution.startswith("loraplug") else f"loraplug-{component}"
        todo = f"choose another, such as {near}"
        raise InputError(f"its module would hide the existing module {module}", where=where, todo=todo)
    return Names(distribution, module, component)


def write_package(name: str, kind: str, into: Path) -> Path:
    """Write the package's folder `into / <distribution>` and give it.

    Raises:
        InputError: the name cannot be used, or something is at that place already.
    """
    called = names(name)
    folder = into.absolute() / called.distribution
    if folder.exists() or folder.is_symlink():
        raise InputError("already exists", where=folder, todo="choose another NAME, or another folder with --into")
    with wrap_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder.parent) as room:
            fresh = Path(room) / folder.name
            for path, text in _files(called, kind).items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                (fresh / path).write_text(text, encoding="utf-8", newline="\n")
            fresh.rename(folder)  # fails on a folder with anything in it, so even one made meanwhile is safe
    return folder


def _files(called: Names, kind: str) -> dict[str, str]:
    package = f"src/{called.module}"
    places = {
        "common/pyproject.toml": "pyproject.toml",
        "common/README.md": "README.md",
        "common/gitignore": ".gitignore",
        f"{kind}/plugin.py": f"{package}/__init__.py",
        f"{kind}/part.py": f"{package}/part.py",
        f"{kind}/test_part.py": f"tests/test_{called.module}.py",
    }
    texts = {place: _template(path) for path, place in places.items()} | {f"{package}/py.typed": ""}
    fills = {"SUMMARY": SUMMARIES[kind], "USAGE": _template(f"{kind}/usage.md").strip()}
    return {place: _filled(_filled(text, fills), called.placeholders) for place, text in texts.items()}


def _template(path: str) -> str:
    return resources.files("loraplug_tools.plugins").joinpath("package-templates", path).read_text(encoding="utf-8")


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)
