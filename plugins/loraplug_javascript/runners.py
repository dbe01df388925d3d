"""Test runners: node's own, jest and vitest: detection of the one that a project uses, and their command lines."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from loraplug import InputError
from loraplug_javascript.environment import MODULES, OURS

SEPARATOR = " > "  # between the names of a suite and of what is in it
MANY = 40  # from so many tests on, whole files are run
REPORT = "report.json"
_SPARING = "--disable-wasm-trap-handler"  # else each WebAssembly module reserves 10 GB of addresses, beyond the limit
_NAMES = re.compile(r"(?:^test|^test-.+|.+[.\-_]test)\.[cm]?[jt]s$")  # what `node --test` takes for tests
_WORDS = {"jest": r"\bjest\b", "vitest": r"\bvitest\b", "node": r"\bnode\b.*--test\b"}
_OTHERS = re.compile(r"\b(mocha|ava|tap|tape|jasmine|karma|uvu|qunit|lab|bun test|deno test|playwright)\b")


@frozen
class Runner(ABC):
    """One test runner in one tree.

    Attributes:
        node: the program.
        tree: the copy that the tests run in.
        tests: files or folders of tests; empty: all.
        arguments: additional options.
    """

    node: str
    tree: Path
    tests: tuple[str, ...]
    arguments: tuple[str, ...]

    @abstractmethod
    def commands(self, files: Sequence[str], names: Sequence[str] | None, folder: str) -> list[list[str]]:
        """What runs these test files, all where there are none, and in them the tests of these names (None: all).

        Other tests may run along. A report comes into `folder`.
        """

    @abstractmethod
    def variables(self, folder: str) -> Mapping[str, str]:
        """Environment variables for the commands."""


@frozen
class NodeRunner(Runner):
    """Node's own runner: a process for each test file, one after the other.

    Files of tests are found as `node --test` does, and run without its parent process, which takes as long again.
    """

    def commands(
        self, files: Sequence[str], names: Sequence[str] | None, folder: str, watched: bool = False
    ) -> list[list[str]]:
        """See `Runner.commands`; a test's own name is asked for, whatever its suites.

        Args:
            watched: also record line coverage per test.
        """
        patterns = []
        for name in names or ():
            parts = name.split(SEPARATOR)
            own = "|".join(_escaped(SEPARATOR.join(parts[at:])).replace("/", r"\/") for at in range(len(parts)))
            patterns.append(f"--test-name-pattern=/^(?:{own})$/")
        watch = ["--import", (OURS / "coverage.mjs").as_uri()] if watched else []
        before = [self.node, *self.arguments, *watch, f"--test-reporter={(OURS / 'reporter.mjs').as_uri()}",
                  "--test-reporter-destination=stdout", *patterns]  # fmt: skip
        return [[*before, str(self.tree / file)] for file in files or self.all_files()]

    def variables(self, folder: str) -> Mapping[str, str]:
        """See `Runner.variables`."""
        return {"LORAPLUG_REPORT": folder, "NODE_OPTIONS": _SPARING}

    def watching(self, folder: str) -> Mapping[str, str]:
        """Further variables where it is `watched`."""
        return {"LORAPLUG_COVERAGE": folder, "LORAPLUG_TREE": str(self.tree)}

    def all_files(self, places: Sequence[str] | None = None) -> list[str]:
        """The test files there are in `tests`, or in these places: of folders what node would take for tests."""
        found: list[str] = []
        for place in places or self.tests or (".",):
            if not (self.tree / place).is_dir():
                found.append(place)
                continue
            for path in sorted((self.tree / place).rglob("*")):
                name = path.relative_to(self.tree).as_posix()
                if MODULES not in PurePosixPath(name).parts and path.is_file() and _is_node_test(name):
                    found.append(name)
        return list(dict.fromkeys(found))


@frozen
class ModuleRunner(Runner):
    """A runner that is installed, and writes jest's JSON: jest, vitest."""

    name: str = ""

    @property
    def program(self) -> str:
        """Its own file, relative to the tree."""
        return f"{MODULES}/jest/bin/jest.js" if self.name == "jest" else f"{MODULES}/vitest/vitest.mjs"

    def commands(self, files: Sequence[str], names: Sequence[str] | None, folder: str) -> list[list[str]]:
        """See `Runner.commands`."""
        return [self._command(files, names, folder)]

    def _command(self, files: Sequence[str], names: Sequence[str] | None, folder: str) -> list[str]:
        listed = list(files or self.tests)
        chosen: list[str] = []
        if names is not None:
            chosen = ["-t", "|".join(rf"^\s?{_escaped(name.replace(SEPARATOR, ' '))}$" for name in names)]
        if self.name == "jest":
            fixed = ["--ci", "--json", f"--outputFile={folder}/{REPORT}", "--runInBand", "--watchman=false",
                     f"--cacheDirectory={folder}-cache", "--coverage=false"]  # fmt: skip
            by_path = ["--runTestsByPath", *files] if files else listed
            return [self.node, self.program, *self.arguments, *fixed, *chosen, *by_path]
        fixed = ["run", "--reporter=json", f"--outputFile={folder}/{REPORT}", "--coverage.enabled=false"]
        return [self.node, self.program, *fixed, *self.arguments, *chosen, *listed]

    def covered(self, file: str, names: Sequence[str] | None, folder: str) -> list[str]:
        """As of `commands` for one file, with the counts of its statements, as istanbul writes them, in `folder`."""
        told = self._command([file], names, folder)
        if self.name == "jest":
            told.remove("--coverage=false")
            return [*told[:2], "--coverage", "--coverageReporters=json", f"--coverageDirectory={folder}",
                    *told[2:]]  # fmt: skip
        told.remove("--coverage.enabled=false")
        return [*told, "--coverage.enabled=true", "--coverage.reporter=json", "--coverage.all=false",
                f"--coverage.reportsDirectory={folder}", "--coverage.clean=false"]  # fmt: skip

    def variables(self, folder: str) -> Mapping[str, str]:
        """See `Runner.variables`."""
        return {"NO_COLOR": "1", "FORCE_COLOR": "0", "CI": "1", "NODE_OPTIONS": _SPARING}


def choose_runner(
    node: str, tree: Path, package: str | None, modules: str | None, tests: Sequence[str], arguments: Sequence[str]
) -> Runner:
    """The runner that the first argument names, else the script `test` of package.json, else what is installed.

    Args:
        package: the text of package.json.
        modules: the folder of installed packages.

    Raises:
        InputError: the choice is ambiguous, or the runner is not installed.
    """
    given = list(arguments)
    if given and given[0] in _WORDS:
        return _runner(given[0], node, tree, modules, tests, given[1:])
    told = _read(package)
    script = str(told.get("scripts", {}).get("test", "")) if isinstance(told.get("scripts"), dict) else ""
    named = [name for name, word in _WORDS.items() if re.search(word, script)]
    if not named and (other := _OTHERS.search(script)):
        todo = 'node --test, jest and vitest are supported; test_args = ["node"] chooses one anyway'
        raise InputError(f"its tests are run by {other[1]} ({script[:80]!r})", where="package.json", todo=todo)
    if not named:
        listed = {name for key in ("dependencies", "devDependencies") for name in told.get(key) or {}}
        named = [name for name in ("jest", "vitest") if name in listed] or ["node"]
    if len(named) > 1:
        raise InputError(f"its tests are run by {' and '.join(named)}", where="package.json",
                         todo=f'choose one: test_args = ["{named[0]}"]')  # fmt: skip
    return _runner(named[0], node, tree, modules, tests, given)


def _runner(
    name: str, node: str, tree: Path, modules: str | None, tests: Sequence[str], arguments: Sequence[str]
) -> Runner:
    if name == "node":
        return NodeRunner(node, tree, tuple(tests), tuple(arguments))
    made = ModuleRunner(node, tree, tuple(tests), tuple(arguments), name)
    if modules is None or not Path(modules, made.program.removeprefix(f"{MODULES}/")).is_file():
        raise InputError(f"{name} is not installed in {MODULES}", where="dataset.path", todo="run `npm ci` there")
    return made


def _read(package: str | None) -> Mapping[str, Any]:
    try:
        told = json.loads(package or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_node_test(name: str) -> bool:
    path = PurePosixPath(name)
    folder = "test" in path.parts[:-1] and path.suffix in (".js", ".cjs", ".mjs", ".ts", ".cts", ".mts")
    return (folder or _NAMES.fullmatch(path.name) is not None) and not name.endswith((".d.ts", ".d.mts", ".d.cts"))


def _escaped(text: str) -> str:
    return re.sub(r"[.*+?^${}()|[\]\\]", r"\\\g<0>", text)
