"""The data model of all kinds of tasks, and their answers; `kinds.py` detects the kind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, frozen

from loraplug_swe.patches.repair import sound_patch
from loraplug_swe.patches.reverse import reverse_patch
from loraplug_swe.tasks.kinds import Kind, kind_of
from loraplug_swe.tasks.options import Answer
from loraplug_swe.tasks.rejects import Reject

_COMMIT = re.compile(r"[0-9a-fA-F]{40}(?:[0-9a-fA-F]{24})?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+")


@frozen
class Task:
    """A bug to fix in a repository.

    Attributes:
        number: what `ids` counts by: n of `task_<n>.json`, else the position in its file, from 0.
        task_id: the task's own name: its number, or the instance id if it came as a row of a file.
        instance_id: the SWE instance that it is or is derived from.
        repo: `owner/name` as written in the task.
        base_commit: hexadecimal object name, or "" where the task has none.
        gold_patch: takes base_commit to the fixed tree; "" if base_commit is the fixed tree.
        gold_statement: the issue that gold_patch fixes.
        kind: what kind of task it is. Where the direction of its patch is unclear, the patch is in gold_patch until
            `answer_task` is told.
        bug_patch: breaks the fixed tree again; "" where there is none.
        bug_statement: the issue that reversing bug_patch fixes.
        failing_tests: test ids that fail before the answer and pass after it, if the task names them.
        where: file (and line or row) it was read from.
    """

    number: int
    task_id: str
    instance_id: str
    repo: str
    base_commit: str
    gold_patch: str
    gold_statement: str
    kind: Kind
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
        kind: `gold` (from base_commit to gold) or `revert-bug` (from base + gold + bug back to base + gold).
        statement: the issue text, as text.
        patch: the answer, never empty, and parsed completely.
        mended: repairs of the task's patches.
    """

    task: Task
    kind: Literal["gold", "revert-bug"]
    statement: str
    patch: str
    mended: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Equal for two tasks that give the same training example. One instance may have many bugs."""
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
    kind = kind_of(fields)
    if kind is None or kind.direction == "none":
        why = f"a row with {kind.why}" if kind else f"keys seen: {', '.join(sorted(fields)[:12]) or 'none'}"
        raise Reject("unknown-shape", f"{where}: neither a SWE-SYNTH task (source, bug, original) nor a row of "
                     f"SWE-bench's columns (instance_id, patch, ...): {why}")  # fmt: skip
    if kind.direction == "both":
        return _synth_task(fields, number, own_id, kind, where)
    if kind.column != "patch":
        fields = _bench_columns(fields, where)
    instance = _text(fields, "instance_id", where)
    if not instance:
        raise Reject("unknown-shape", f"{where}: instance_id is empty")
    task = Task(
        number=number,
        task_id=str(instance if own_id is None else own_id),
        instance_id=instance,
        repo=_repo(fields, where),
        base_commit=_commit(fields, where),
        gold_patch=_text(fields, "patch", where),
        gold_statement=_statement(fields, where),
        failing_tests=_texts(fields.get("fail_to_pass")),
        where=where,
        kind=kind,
    )
    return _turned(task) if kind.direction == "bug" else task


def _turned(task: Task) -> Task:
    """The same with its one patch as the bug."""
    return evolve(task, gold_patch="", gold_statement="", bug_patch=task.gold_patch, bug_statement=task.gold_statement)


def _synth_task(fields: Mapping[str, Any], number: int, own_id: str | None, kind: Kind, where: str) -> Task:
    source, bug, original = (_table(fields, key, where) or {} for key in ("source", "bug", "original"))
    instance = _text(source, "swe_instance_id", where) or _text(fields, "instance_id", where)
    return Task(
        number=number,
        task_id=str(number if own_id is None else own_id),
        instance_id=instance or f"task_{number}",
        repo=_repo(source, where),
        base_commit=_commit(source, where),
        gold_patch=_text(original, "gold_patch", where),
        gold_statement=_statement(original, where),
        bug_patch=_text(bug, "patch", where),
        bug_statement=_statement(bug, where),
        failing_tests=_texts(bug.get("target_tests")),
        where=where,
        kind=kind,
    )


def _bench_columns(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A Multi-SWE-bench row in SWE-bench's columns: org, number, base.sha, fix_patch, resolved_issues, f2p_tests."""
    org, name = _text(fields, "org", where).strip(), _text(fields, "repo", where).strip()
    number, base = fields.get("number"), _table(fields, "base", where) or {}
    repo = f"{org}/{name}" if org and "/" not in name else name
    made: dict[str, Any] = {"patch": fields["fix_patch"], "repo": repo}
    if number is not None:
        made["instance_id"] = f"{repo.replace('/', '__')}-{number}"
    if "sha" in base:
        made["base_commit"] = base["sha"]
    if issues := _issues(fields.get("resolved_issues"), where):
        made["problem_statement"] = issues
    if "f2p_tests" in fields:
        tests = _table(fields, "f2p_tests", where)
        made["fail_to_pass"] = [*tests] if tests is not None else fields["f2p_tests"]
    kept = ("instance_id", "base_commit", "problem_statement", "fail_to_pass")
    return made | {key: fields[key] for key in kept if fields.get(key)}


def _issues(value: Any, where: str) -> str:
    """Titles and texts of issues, given as a list of tables, as JSON text, or, by Arrow, as a table of lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    if isinstance(value, Mapping):
        lists = [one if isinstance(one, list) else [one] for one in (value.get("title"), value.get("body"))]
        value = [{"title": title, "body": body} for title, body in zip(*lists, strict=False)]
    told: list[str] = []
    for issue in value if isinstance(value, list) else []:
        if isinstance(issue, Mapping):
            parts = (issue.get("title"), issue.get("body"))
            told.append("\n\n".join(_whole(part, "resolved_issues", where) for part in parts if isinstance(part, str)))
    return "\n\n".join(one for one in told if one.strip())


def answer_task(task: Task, answer: Answer) -> Answered:
    """Choose the answer; `auto` reverses the bug patch if it has a statement, else uses the gold patch.

    Raises:
        Reject: there is no such answer or no statement for it, or its patch cannot be parsed; `unclear-direction`
            if `auto` cannot decide what the patch does.
    """
    if task.kind.direction == "unclear":
        if answer == "auto":
            todo = 'set answer = "gold" (it is the fix) or "revert-bug" (it adds the bug)'
            why = f"patch could be the fix or add the bug: {task.kind.why}"
            raise Reject("unclear-direction", f"{why}; {todo}")
        task = _turned(task) if answer == "revert-bug" else task
    has_bug = bool(task.bug_patch.strip() and task.bug_statement)
    if answer == "revert-bug" or (answer == "auto" and has_bug):
        if not task.bug_patch.strip():
            raise Reject("no-bug", "the task has no bug patch to reverse")
        if not task.bug_statement:
            raise Reject("no-statement", "the task has a bug patch but no problem statement for it")
        bug = sound_patch(task.bug_patch)
        task = evolve(task, bug_patch=bug.text)
        return Answered(task, "revert-bug", task.bug_statement, reverse_patch(bug.text), bug.mended)
    if not task.gold_patch.strip():
        if task.kind.direction == "bug":
            why = f"the patch of {task.kind.name} rows adds the bug"
            raise Reject("empty-patch", f'there is no gold patch: {why}; use answer = "revert-bug"')
        more = "; its bug patch has no problem statement" if task.bug_patch.strip() else ""
        raise Reject("empty-patch", f"the gold patch is empty{more}")
    if not task.gold_statement:
        raise Reject("no-statement", "the problem statement is empty")
    gold = sound_patch(task.gold_patch)
    return Answered(task, "gold", task.gold_statement, gold.text, gold.mended)


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


def _repo(fields: Mapping[str, Any], where: str) -> str:
    repo = _text(fields, "repo", where).strip()
    if repo and (not _REPO.fullmatch(repo) or ".." in repo or repo.endswith("/.")):
        raise Reject("unsafe-repo", f"{where}: {repo[:80]!r} is not owner/name")
    return repo


def _commit(fields: Mapping[str, Any], where: str) -> str:
    commit = _text(fields, "base_commit", where).strip()
    if commit and not _COMMIT.fullmatch(commit):
        raise Reject("unsafe-commit", f"{where}: {commit[:80]!r} is not a full commit hash")
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
