"""Dependencies of a commit: read from its files, installed into a separate environment."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from loraplug import InputError, wrap_os_errors
from loraplug_swe.history.commits import NoFix
from loraplug_swe.sandbox.checkout import run_git

_FILES = ("requirements-test.txt", "requirements-dev.txt", "requirements_test.txt", "requirements.txt",
          "test-requirements.txt", "tests/requirements.txt")  # fmt: skip
_EXTRAS = {"test", "tests", "testing", "dev"}
_PATIENCE = 900.0  # seconds for one installation
_WHOLE = "loraplug-whole"  # the file that an environment has when all of it is there
NOT_INSTALLED = "its dependencies cannot be installed"


def declared(source: Path, commit: str) -> tuple[list[str], str]:
    """The requirements that a commit declares for its code and tests, and the Pythons it is for ("" for any).

    Files are parsed as text; no code of the commit is run. URLs, files and options in requirements are ignored.
    """
    found: list[str] = []
    project = _toml(_file(source, commit, "pyproject.toml"))
    table: Any = project.get("project", {})
    pythons = str(table.get("requires-python", "")) if isinstance(table, Mapping) else ""
    if isinstance(table, Mapping):
        found += _texts(table.get("dependencies"))
        for name, items in _tables(table.get("optional-dependencies")):
            found += items if name.lower() in _EXTRAS else []
    for name, items in _tables(project.get("dependency-groups")):
        found += items if name.lower() in _EXTRAS else []
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string(_file(source, commit, "setup.cfg"))
    except configparser.Error:
        config = configparser.ConfigParser(interpolation=None)
    found += config.get("options", "install_requires", fallback="").splitlines()
    pythons = pythons or config.get("options", "python_requires", fallback="")
    for name in sorted(_EXTRAS):
        found += config.get("options.extras_require", name, fallback="").splitlines()
    for file in _FILES:
        found += _file(source, commit, file).splitlines()
    return sorted(set(_requirements(found))), pythons


class Environments:
    """Environments in the folder `home`, shared by commits with equal requirements; thread-safe."""

    def __init__(self, home: Path) -> None:
        self._home, self._lock = home, threading.Lock()
        self._failed: set[str] = set()

    def python(self, source: Path, commit: str, base: str) -> str:
        """The interpreter of an environment with a commit's dependencies and pytest, created by the Python `base`.

        Only wheels are installed: building a package would run its code outside the sandbox.

        Raises:
            NoFix: the commit is for another Python, or something cannot be installed.
        """
        needs, pythons = declared(source, commit)
        version = _version(base)
        try:
            if pythons and version not in SpecifierSet(pythons):
                raise NoFix("is for another Python")
        except InvalidSpecifier:
            pythons = ""
        key = hashlib.sha256("\0".join([base, version, *needs]).encode()).hexdigest()[:20]
        place = self._home / key
        with self._lock:
            if key not in self._failed and not (place / _WHOLE).exists() and not _install(base, place, needs):
                self._failed.add(key)
            if key in self._failed:
                raise NoFix(NOT_INSTALLED)
        return str(place / "bin" / "python")


def _install(base: str, place: Path, needs: Sequence[str]) -> bool:
    """Make an environment; what an interrupted call has left is begun anew."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "--only-binary", ":all:",
           "--disable-pip-version-check", "-r", str(place / "requirements.txt")]  # fmt: skip
    with wrap_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([base, "-I", "-m", "venv", "--clear", str(place)], env=env, check=True, capture_output=True,
                           timeout=_PATIENCE)  # fmt: skip
            (place / "requirements.txt").write_text("\n".join(["pytest", *needs]) + "\n", encoding="utf-8")
            subprocess.run(pip, env=env, check=True, capture_output=True, timeout=_PATIENCE)
        except subprocess.SubprocessError:
            shutil.rmtree(place, ignore_errors=True)
            return False
        (place / _WHOLE).touch()
    return True


def _version(python: str) -> str:
    done = subprocess.run([python, "-I", "-c", "import platform; print(platform.python_version())"], check=False,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    if done.returncode:
        raise InputError("does not start", where=f"dataset.python: {python}", todo="name an interpreter")
    return done.stdout.strip()


def _requirements(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        text = re.split(r"(?:^|\s)#", line.strip())[0].strip()
        try:
            one = Requirement(text)
        except InvalidRequirement:
            continue
        if one.url is None:
            yield str(one)


def _file(source: Path, commit: str, path: str) -> str:
    try:
        return run_git(source, "cat-file", "blob", f"{commit}:{path}").decode("utf-8", "replace")
    except InputError:
        return ""


def _toml(text: str) -> Mapping[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError:
        return {}


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _tables(value: Any) -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, Mapping):
        for name, items in value.items():
            yield str(name), _texts(items)
