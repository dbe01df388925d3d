"""Reading tasks and answers from disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from loraplug import InputError

_TASK_FILE = re.compile(r"task_(\d{1,18})\.json")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@frozen
class Task:
    """A bug to fix.

    Attributes:
        id: the task id in its rows.
        number: what `--ids` counts by: n of `task_<n>.json`, else the position in the file, from 0.
        commit: the commit that `gold_patch` starts from, or "" if the code is not a repository.
        gold_patch: from the commit to the tree without the bug; "" if that is the commit itself.
        bug_patch: adds the bug; "" if the commit has it and the gold patch fixes it, as in SWE-bench.
        test_patch: from the commit, adds the tests that show the bug.
        targets: ids of tests that fail with the bug and pass without it.
        related: ids of tests that run the line changed; suite: of all that pass without the bug.
        kind: of bug, or "".
        file, function: where the bug is, if the task says.
        language: of the code, or "" if the task does not say.
        asked: the format and the context of its prompt in training, if it says (`edit`, `context`).
    """

    id: str
    number: int
    repo: str
    commit: str
    gold_patch: str
    bug_patch: str
    statement: str
    targets: tuple[str, ...]
    related: tuple[str, ...] = ()
    suite: tuple[str, ...] = ()
    kind: str = ""
    file: str = ""
    function: str = ""
    language: str = ""
    asked: Mapping[str, str] = field(factory=dict)
    test_patch: str = ""

    @property
    def clean(self) -> tuple[str, ...]:
        """Patches from the commit to the tree without the bug."""
        return self.test_patch, self.gold_patch

    @property
    def broken(self) -> tuple[str, ...]:
        """Patches from the commit to the tree with the bug."""
        return (*self.clean, self.bug_patch) if self.bug_patch.strip() else (self.test_patch,)


def read_tasks(place: Path) -> list[Task | InputError]:
    """All tasks of a folder of `task_<n>.json`, a .json or a .jsonl file, in order; other entries are errors.

    Raises:
        InputError: the path does not exist, or has no task.
    """
    found: list[Task | InputError] = []
    for number, where, text, numbered in _entries(place):
        try:
            try:
                data = json.loads(text) if isinstance(text, bytes) else text
            except ValueError as error:
                raise InputError(f"not JSON ({error})", where=where) from None
            found.append(_task(data, number, where, numbered))
        except InputError as error:
            found.append(error)
    if not any(isinstance(one, Task) for one in found):
        first = next((f": {one}" for one in found if isinstance(one, InputError)), "")
        raise InputError(f"no task in it{first}", where=place, todo="name a folder of task_<n>.json, or a file of them")
    return found


def _entries(place: Path) -> Iterator[tuple[int, str, Any, bool]]:
    try:
        if place.is_dir():
            files = {int(match[1]): path for path in place.iterdir() if (match := _TASK_FILE.fullmatch(path.name))}
            for number in sorted(files):
                yield number, str(files[number]), files[number].read_bytes(), True
        elif place.suffix == ".jsonl":
            for number, line in enumerate(one for one in place.read_bytes().splitlines() if one.strip()):
                yield number, f"{place}, task {number}", line, False
        else:
            data = json.loads(place.read_bytes())
            for number, one in enumerate(data if isinstance(data, list) else [data]):
                yield number, f"{place}, task {number}", one, False
    except OSError as error:
        raise InputError(error.strerror or str(error), where=place, todo="name a folder or a file of tasks") from None
    except ValueError as error:
        raise InputError(f"not JSON ({error})", where=place, todo="name a folder of task_<n>.json, or a file") from None


def _task(data: Any, number: int, where: str, numbered: bool) -> Task:
    if isinstance(data, Mapping) and {"instance_id", "patch", "test_patch"} <= data.keys():
        return _bench_task(data, number, where)
    if not isinstance(data, Mapping) or not isinstance(data.get("source"), Mapping):
        raise InputError("neither a SWE-SYNTH task (source, bug) nor a row of SWE-bench (instance_id, patch, "
                         "test_patch)", where=where)  # fmt: skip
    source, bug, original, made = (_table(data, key, where) for key in ("source", "bug", "original", "generation"))
    instance, own = _text(source, "swe_instance_id", where), data.get("task_id", number if numbered else None)
    if not _text(bug, "patch", where).strip():
        raise InputError("has no bug.patch", where=where)
    if not (targets := _texts(bug, "target_tests", where)):
        raise InputError("names no bug.target_tests", where=where)
    commit = _text(source, "base_commit", where).strip().lower()
    if commit and not _COMMIT.fullmatch(commit):
        raise InputError(f"{commit[:80]!r} is not a full commit name", where=where)
    kinds = bug.get("bug_types")
    kind = _text(made, "kind", where) or (str(kinds[0]) if isinstance(kinds, list) and kinds else "")
    return Task(
        id=str(own if own is not None else instance or number), number=number, repo=_text(source, "repo", where),
        commit=commit, gold_patch=_text(original, "gold_patch", where), bug_patch=_text(bug, "patch", where),
        statement=_statement(_text(bug, "problem_statement", where)), targets=targets,
        related=_texts(made, "related_tests", where), suite=_texts(original, "all_tests", where), kind=kind,
        file=_text(made, "file", where), function=_text(made, "function", where),
        language=_text(made, "language", where),
        asked={key: _text(made, key, where) for key in ("edit", "context") if made.get(key)},
    )  # fmt: skip


def _bench_task(data: Mapping[str, Any], number: int, where: str) -> Task:
    """A row of SWE-bench's columns, as `swe-history` writes them."""
    for name in ("patch", "FAIL_TO_PASS", "problem_statement"):
        if not data.get(name):
            raise InputError(f"has no {name}", where=where)
    commit = _text(data, "base_commit", where).strip().lower()
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"{commit[:80]!r} is not a full commit name", where=where)
    targets = _texts(data, "FAIL_TO_PASS", where)
    return Task(
        id=_text(data, "instance_id", where), number=number, repo=_text(data, "repo", where), commit=commit,
        gold_patch=_text(data, "patch", where), bug_patch="", test_patch=_text(data, "test_patch", where),
        statement=_statement(_text(data, "problem_statement", where)), targets=targets,
        suite=(*targets, *_texts(data, "PASS_TO_PASS", where)),
    )  # fmt: skip


def _statement(text: str) -> str:
    """Issue text as the sources of SWE-SYNTH tasks clean it before they show it to a model."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            text = str(json.loads(text, strict=False))
        except ValueError:
            return text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _table(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, Mapping):
        raise InputError(f"{key} is {type(value).__name__}, not a table", where=where)
    return value


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key) or ""
    if not isinstance(value, str):
        raise InputError(f"{key} is {type(value).__name__}, not text", where=where)
    return value


def _texts(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key) or []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{key}: not JSON ({error})", where=where) from None
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise InputError(f"{key} is not a list of test ids", where=where)
    return tuple(value)


def read_answers(path: Path) -> dict[str, list[str]]:
    """Answers by task id from a .jsonl file of {task_id, answer}; `response`, as rows have it, does for `answer`.

    Raises:
        InputError: the file cannot be read, or a line has another form.
    """
    answers: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, todo="name a .jsonl file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            answer = told["answer"] if "answer" in told else told["response"]
            name = told["task_id"]
            if not isinstance(answer, str) or not isinstance(name, str | int):
                raise TypeError("task_id and answer are texts")
        except (ValueError, KeyError, TypeError) as error:
            todo = 'write a line such as {"task_id": "1", "answer": "…"} for every answer'
            raise InputError(f"not an answer ({error!r})", where=f"{path}:{number}", todo=todo) from None
        answers.setdefault(str(name), []).append(answer)
    if not answers:
        raise InputError("no answer in it", where=path, todo="write {task_id, answer} lines")
    return answers
