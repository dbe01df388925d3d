"""What runners report, read as test ids, outcomes and failures: node's by our reporter, jest's and vitest's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from loraplug_javascript.environment import MODULES
from loraplug_javascript.runners import REPORT, SEPARATOR
from loraplug_swe.mutation import Failure
from loraplug_swe.sandbox import CommandReport

_LONG = 400  # characters of a value or a message
_WORST = {"skipped": 0, "passed": 1, "failed": 2}
_CODES = (0, 1, 7, 13)  # node's own: nothing, an error, one in a handler of errors, a promise never kept
_STATUS = {"passed": "passed", "failed": "failed"}
_FRAME = re.compile(
    r"^\s*(?:at|\u276f) (?:async )?(?:(?P<name>[^(\n]+?) \()?(?:file://)?"
    r"(?P<path>/[^\n()]*?):(?P<line>\d+):\d+\)?$",
    re.MULTILINE,
)
_HEAD = re.compile(r"^(?:Uncaught )?(?P<name>[A-Z]\w*(?:Error|Exception)?)(?: \[\w+\])?: ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{5,}\b")


@define
class Told:
    """A parsed test report.

    Attributes:
        outcomes: `passed`, `failed` or `skipped` by test id; a file that could not be run counts as one test.
        seconds: by test id.
        failures: the first of each failing test.
        broken: files that could not be run, with their output.
        odd: whether node's exit code contradicts the report.
    """

    outcomes: dict[str, str] = field(factory=dict)
    seconds: dict[str, float] = field(factory=dict)
    failures: dict[str, Failure] = field(factory=dict)
    broken: dict[str, str] = field(factory=dict)
    odd: bool = False

    def note(self, test: str, outcome: str, seconds: float, failure: Failure | None) -> None:
        """One more test; of several of one id the worst counts."""
        if _WORST[outcome] >= _WORST.get(self.outcomes.get(test, ""), -1):
            self.outcomes[test] = outcome
        self.seconds[test] = self.seconds.get(test, 0.0) + seconds
        if failure is not None:
            self.failures.setdefault(test, failure)


@frozen
class Reader:
    """Reads reports about one tree.

    Attributes:
        tree: where the tests ran; tmp: their folder for temporary files.
        source: the text of a file of the tree, or None.
        check: the statement on a line of a text.
    """

    tree: Path
    tmp: str
    source: Callable[[str], str | None]
    check: Callable[[str, int], str]

    def node(self, files: Sequence[str], done: CommandReport) -> Told:
        """What `reporter.mjs` told of these test files, each of which was run by a command of its own.

        A file that tells of no test is one itself, which passes where node ends with 0.

        Raises:
            ValueError: a file is not a report.
        """
        out = Told()
        try:
            reports = [json.loads(text) for name, text in done.files.items() if name.startswith("tests-")]
            by_file: dict[str, Any] = {self._relative(str(one["file"])): one["tests"] for one in reports}
            if len(by_file) < len(reports):
                raise ValueError("two reports of one file")
            for file, code, said in zip(files, done.exits, done.said, strict=True):
                tests = by_file.get(file)
                if tests:
                    self._file(out, file, tests)
                failed = any(how == "failed" for test, how in out.outcomes.items() if test.startswith(f"{file}::"))
                if not tests and code == 0:
                    out.note(file, "passed", 0.0, None)
                elif code and not failed:
                    out.broken.setdefault(file, self._clean(said))
                out.odd |= (code != 0) != (failed or file in out.broken) or code not in _CODES
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no report: {error}") from None
        return self._finished(out)

    def _file(self, out: Told, file: str, tests: Sequence[Mapping[str, Any]]) -> None:
        suites = {tuple(test["names"]) for test in tests if test["suite"]}
        for test in tests:
            names, outcome = tuple(map(str, test["names"])), str(test["outcome"])
            kind = str(test["error"]["kind"]) if outcome == "failed" else ""
            count = next((n for n in range(1, len(names) + 1) if names[:n] not in suites), None)
            if count is None:  # a suite, which fails by itself where its hooks do
                if outcome == "failed" and kind != "subtestsFailed":
                    out.broken[file] = self._clean(str(test["error"]["message"]))
                continue
            own = f"{file}::{SEPARATOR.join(names[:count])}"
            told = outcome == "failed" and kind != "subtestsFailed"
            failure = self._failure(own, test["error"]) if told else None
            out.note(own, outcome, float(test["seconds"]) if count == len(names) else 0.0, failure)

    def modules(self, done: CommandReport) -> Told:
        """Read the report of jest or vitest.

        Raises:
            ValueError: it is not a report.
        """
        try:
            told = json.loads(done.files[REPORT])
            out = self._jest(told)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no report: {error}") from None
        failed = not told["success"]
        out.odd = done.exits != (int(failed),) or failed != ("failed" in out.outcomes.values())
        return out

    def _jest(self, told: Mapping[str, Any]) -> Told:
        out = Told()
        for one in told["testResults"]:
            path = self._relative(str(one["name"]))
            for test in one["assertionResults"]:
                own = f"{path}::{SEPARATOR.join([*map(str, test['ancestorTitles']), str(test['title'])])}"
                outcome = _STATUS.get(str(test["status"]), "skipped")
                failure = None
                if outcome == "failed":
                    words = _COLOUR.sub("", str(next(iter(test["failureMessages"]), "")))
                    failure = self._failure(own, _from_words(words))
                out.note(own, outcome, float(test.get("duration") or 0.0) / 1000, failure)
            if one["status"] == "failed" and not any(test["status"] == "failed" for test in one["assertionResults"]):
                out.broken[path] = self._clean(_COLOUR.sub("", str(one.get("message", ""))))
        return self._finished(out)

    def _finished(self, out: Told) -> Told:
        for path, words in out.broken.items():
            out.outcomes[path] = "failed"
            out.failures[path] = Failure(path, "Error", words[-_LONG:])
        return out

    def _failure(self, test: str, error: Mapping[str, Any]) -> Failure:
        name, stack = str(error["name"]), str(error.get("stack", ""))
        message = self._clean(str(error["message"])).strip()[:_LONG]
        trace = list(self._trace(stack))[::-1]
        check = ""
        if trace:
            path, line, *_ = next(one for one in reversed(trace) if one[0] == trace[0][0])
            check = self.check(self.source(path) or "", line)[:_LONG]
        expected, actual = (self._clean(str(error.get(key, "")))[:_LONG] for key in ("expected", "actual"))
        if name != "AssertionError" and not expected:
            actual = f"{name}: {message}"[:_LONG]
        if str(error.get("operator", "")) in ("throws", "rejects", "doesNotThrow", "doesNotReject", "fail", "match"):
            expected = actual = ""
        return Failure(test, name, message, trace, check, expected, actual)

    def _trace(self, stack: str) -> Iterator[tuple[str, int, str, str]]:
        for frame in _FRAME.finditer(stack):
            path = self._relative(frame["path"])
            if path.startswith("/") or MODULES in path.split("/"):
                continue
            name = (frame["name"] or "<module>").removeprefix("TestContext.").removeprefix("Object.").strip()
            line = int(frame["line"])
            lines = (self.source(path) or "").split("\n")
            shown = lines[line - 1].strip()[:200] if 0 < line <= len(lines) else ""
            yield path, line, name, shown

    def _relative(self, path: str) -> str:
        return path.removeprefix(f"{self.tree}/")

    def _clean(self, text: str) -> str:
        """Text without addresses, and without the places of the sandbox."""
        text = _COLOUR.sub("", text).replace(f"file://{self.tree}/", "").replace(f"{self.tree}/", "")
        text = text.replace(str(self.tree), ".").replace(self.tmp, "/tmp")  # noqa: S108
        return _ADDRESS.sub("0x...", text)


def _from_words(words: str) -> dict[str, str]:
    """What jest and vitest say of a failure: name, message, stack, and what was expected and came."""
    head, _, _ = words.partition("\n    at ")
    match = _HEAD.match(head)
    name = match["name"] if match else "Error"
    message = head[match.end() :] if match else head
    told = {"name": name, "message": message.strip(), "stack": words, "operator": ""}
    for key, label in (("expected", "Expected"), ("actual", "Received")):
        if (found := re.search(rf"^\s*{label}(?: value)?: +(.+)$", message, re.MULTILINE)) is not None:
            told[key] = found[1].strip()
    if "expected" in told and "actual" in told and name == "Error":
        told["name"] = "AssertionError"
    short = re.match(r"expected (.+) to (?:be|equal|deeply equal|strictly equal) (.+?)(?: // .*)?$", message.strip())
    if name == "AssertionError" and "expected" not in told and short is not None:
        told |= {"actual": short[1], "expected": short[2]}
    return told


def files_of(tests: Sequence[str]) -> dict[str, list[str]]:
    """Names of tests by file; a file that is an id of its own has none."""
    found: dict[str, list[str]] = {}
    for test in tests:
        path, _, name = test.partition("::")
        found.setdefault(path, []).extend([name] if name else [])
    return found
