"""One model for both shapes of task: SWE-SYNTH dicts and SWE-bench rows, told apart by their keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

from loraplug_swe.options import Answer
from loraplug_swe.rejects import Reject
from loraplug_swe.reverse import reverse_patch

_COMMIT = re.compile(r"[0-9a-fA-F]{40}(?:[0-9a-fA-F]{24})?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+")


@frozen
class Task:
    """A bug to fix in a repository.

    Attributes:
        number: what `ids` counts by: n of `task_<n>.json`, else the position in its file, from 0.
        task_id: the task's own name: its number, or the instance id where it came as a row of a file.
        instance_id: the SWE instance it is, or was made from.
        repo: `owner/name` as written in the task.
        base_commit: hexadecimal object name, or "" where the task has none.
        gold_patch: takes base_commit to the fixed tree; "" where base_commit is the fixed tree.
        gold_statement: the issue that gold_patch answers.
        bug_patch: breaks the fixed tree again; "" where there is none.
        bug_statement: the issue that taking bug_patch back answers.
        failing_tests: test ids that fail before the answer and pass after it, where the task names them.
        where: file (and line or row) it was read from.
    """

    number: int
    task_id: str
    instance_id: str
    repo: str
    base_commit: str
    gold_patch: str
    gold_statement: str
    bug_patch: str = ""
    bug_statement: str = ""
    failing_tests: tuple[str, ...] = ()
    where: str = ""

    @property
    def group(self) -> list[str]:
        """What the validation split keeps together, coarse to fine: the repository, then the instance."""
        return [self.repo.lower(), self.instance_id]


@frozen
class Answered:
    """A task with the answer that was chosen for it.

    Attributes:
        kind: `gold` (from base_commit to gold) or `unbug` (from base + gold + bug back to base + gold).
        statement: the issue text, as text.
        patch: the answer, never empty.
    """

    task: Task
    kind: Literal["gold", "unbug"]
    statement: str
    patch: str

    @property
    def identity(self) -> str:
        """Equal for two tasks that would make one training example. Many bugs may be put into one instance."""
        if self.kind == "gold":
            return self.task.instance_id
        return f"{self.task.instance_id}\n{hashlib.sha256(self.patch.encode('utf-8', 'surrogatepass')).hexdigest()}"


def read_task(data: object, number: int, *, numbered: bool, where: str) -> Task:
    """The task that `data`, one decoded JSON value, holds.

    Args:
        data: the decoded value.
        number: see `Task.number`.
        numbered: whether the number names the task (`task_<n>.json`), or merely its place in a file.
        where: for messages.

    Raises:
        Reject: `data` is neither of the two shapes.
    """
    if not isinstance(data, Mapping):
        raise Reject("unknown-shape", f"{where}: a task is a table, not {type(data).__name__}")
    fields = {str(key).lower(): value for key, value in data.items() if value is not None}
    own_id = fields.get("task_id", number if numbered else None)
    if own_id is not None:
        own_id = _whole(str(own_id), "task_id", where)
    source, bug, original = (_table(fields, key, where) for key in ("source", "bug", "original"))
    if source is not None and (bug is not None or original is not None):
        bug, original = bug or {}, original or {}
        instance = _text(source, "swe_instance_id", where) or _text(fields, "instance_id", where)
        return Task(
            number=number,
            task_id=str(number if own_id is None else own_id),
            instance_id=instance or f"task_{number}",
            repo=_repo(source, where),
            base_commit=_commit(source, where),
            gold_patch=_patch(original, "gold_patch", where),
            gold_statement=_statement(original, where),
            bug_patch=_patch(bug, "patch", where),
            bug_statement=_statement(bug, where),
            failing_tests=_texts(bug.get("target_tests")),
            where=where,
        )
    if "instance_id" in fields and "patch" in fields:
        instance = _text(fields, "instance_id", where)
        if not instance:
            raise Reject("unknown-shape", f"{where}: instance_id is empty")
        return Task(
            number=number,
            task_id=str(instance if own_id is None else own_id),
            instance_id=instance,
            repo=_repo(fields, where),
            base_commit=_commit(fields, where),
            gold_patch=_patch(fields, "patch", where),
            gold_statement=_statement(fields, where),
            failing_tests=_texts(fields.get("fail_to_pass")),
            where=where,
        )
    seen = ", ".join(sorted(fields)[:12]) or "none"
    raise Reject(
        "unknown-shape",
        f"{where}: neither a SWE-SYNTH task (source, bug, original) nor a SWE-bench row "
        f"(instance_id, patch, ...); keys seen: {seen}",
    )


def answer_task(task: Task, answer: Answer) -> Answered:
    """Choose the answer; `auto` takes the bug back where there is a bug and a statement for it, else the gold patch.

    Raises:
        Reject: there is no such answer, or no statement that asks for it.
    """
    has_bug = bool(task.bug_patch.strip() and task.bug_statement)
    if answer == "unbug" or (answer == "auto" and has_bug):
        if not task.bug_patch.strip():
            raise Reject("no-bug", "the task has no bug patch to take back")
        if not task.bug_statement:
            raise Reject("no-statement", "the task has a bug patch but no problem statement for it")
        return Answered(task, "unbug", task.bug_statement, reverse_patch(task.bug_patch))
    if not task.gold_patch.strip():
        more = "; its bug patch has no problem statement" if task.bug_patch.strip() else ""
        raise Reject("empty-patch", f"the gold patch is empty{more}")
    if not task.gold_statement:
        raise Reject("no-statement", "the problem statement is empty")
    return Answered(task, "gold", task.gold_statement, task.gold_patch)


def clean_statement(text: str) -> str:
    r"""Issue text as written: line ends are `\n`, and the quotes of a text stored as a JSON string are off."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            unquoted = json.loads(text, strict=False)
            unquoted.encode()  # an escape may stand for half a surrogate pair, which is no text
        except (ValueError, RecursionError):
            pass  # a text that merely begins and ends with a quotation mark
        else:
            text = unquoted
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _table(fields: Mapping[str, Any], key: str, where: str) -> dict[str, Any] | None:
    value = fields.get(key)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Reject("bad-json", f"{where}: {key}: {error}") from None
    if not isinstance(value, Mapping):
        return None
    return {str(name).lower(): item for name, item in value.items() if item is not None}


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise Reject("unknown-shape", f"{where}: {key} is {type(value).__name__}, not text")
    return _whole(value, key, where)


def _whole(value: str, key: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Reject("not-utf8", f"{where}: {key} holds half a surrogate pair at character {error.start}") from None
    return value


def _statement(fields: Mapping[str, Any], where: str) -> str:
    return clean_statement(_text(fields, "problem_statement", where))


def _patch(fields: Mapping[str, Any], key: str, where: str) -> str:
    patch = _text(fields, key, where)
    return patch if not patch or patch.endswith("\n") else patch + "\n"


def _repo(fields: Mapping[str, Any], where: str) -> str:
    repo = _text(fields, "repo", where).strip()
    if repo and (not _REPO.fullmatch(repo) or ".." in repo or repo.endswith("/.")):
        raise Reject("unsafe-repo", f"{where}: {repo[:80]!r} is not owner/name")
    return repo


def _commit(fields: Mapping[str, Any], where: str) -> str:
    commit = _text(fields, "base_commit", where).strip()
    if commit and not _COMMIT.fullmatch(commit):
        raise Reject("unsafe-commit", f"{where}: {commit[:80]!r} is not a full commit name")
    return commit.lower()


def _texts(value: Any) -> tuple[str, ...]:
    """A list of test ids, given as a list or as JSON text; what is neither counts as one id."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return (value,)
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()
