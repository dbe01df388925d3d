"""Selects tasks by `ids`, `repos`, `limit`, duplicates and `shard`; concatenated shards are the whole selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve, field, frozen

from loraplug import InputError
from loraplug_swe.tasks.kinds import Kind
from loraplug_swe.tasks.options import Answer, parse_ids, parse_shard
from loraplug_swe.tasks.rejects import Reject, Rejects
from loraplug_swe.tasks.stores import Entry, Place
from loraplug_swe.tasks.task import Answered, Task, answer_task, read_task

_ANSWERS = {
    ("both", "gold"): "the answer is original.gold_patch",
    ("both", "revert-bug"): "the answer is the reversed bug.patch",
    ("fix", "gold"): "is the fix, and is used unchanged as the answer",
    ("bug", "revert-bug"): "adds the bug, so the answer is the reversed patch",
    ("unclear", "gold"): 'is the fix, as answer = "gold" says, and is used unchanged as the answer',
    ("unclear", "revert-bug"): 'adds the bug, as answer = "revert-bug" says, so the answer is the reversed patch',
}


@frozen
class Chosen:
    """One step of a selection: an answered task, or the reason there is none."""

    entry: Entry
    task: Task | None = None
    answered: Answered | None = None
    fault: Reject | None = None


@frozen
class Selection:
    """Selects tasks from a store.

    The shards are even blocks of the *numbers*, so that every machine knows its own without reading a task. Duplicates
    and `limit` depend on what came before; a shard therefore reads (but does not verify) the tasks before its block.

    Attributes:
        limit: at most this many tasks, counted after `ids`, `repos` and duplicates, before patches are checked.
    """

    place: Place
    answer: Answer
    ids: str | None = None
    limit: int | None = None
    repos: Sequence[str] = ()
    shard: str | None = None
    _numbers: list[Sequence[int]] = field(factory=list, init=False)
    _kinds: Counter[tuple[Kind, str]] = field(factory=Counter, init=False)
    _mended: Counter[str] = field(factory=Counter, init=False)

    def numbers(self) -> Sequence[int]:
        """Every number to read, of all shards."""
        if not self._numbers:
            self._numbers.append(self.place.numbers() if self.ids is None else parse_ids(self.ids))
        return self._numbers[0]

    def block(self) -> range:
        """The positions in `numbers` that are this shard's."""
        total = len(self.numbers())
        at, shards = parse_shard(self.shard) if self.shard else (1, 1)
        return range(total * (at - 1) // shards, total * at // shards)

    def __iter__(self) -> Iterator[Chosen]:
        block, wanted = self.block(), {repo.lower() for repo in self.repos}
        first: dict[str, str] = {}
        start = 0 if self.limit is not None or len(block) < len(self.numbers()) else block.start
        for at, entry in enumerate(self.place.read(self.numbers()[start : block.stop]), start):
            chosen = self._choose(entry, wanted, first)
            if chosen is not None and at in block:
                self._count(chosen.answered)
                yield chosen
            if self.limit is not None and len(first) >= self.limit:
                return

    def told(self) -> list[str]:
        """Log lines: which patch is the answer, for each kind of task, and which patches were repaired."""
        lines = []
        for (kind, answer), count in self._kinds.most_common():
            what = ("task" if kind.direction == "both" else "row") + "s" * (count != 1)
            column = "" if kind.direction == "both" else f"{kind.column} "
            lines.append(f"{count} {kind.name} {what}: {column}{_ANSWERS[kind.direction, answer]}")
        if self._mended:
            what = ", ".join(f"{name} in {count}" for name, count in self._mended.most_common())
            lines.append(
                f"patches that git would not accept, or that contained more than a diff, were repaired: {what}"
            )
        return lines

    def _count(self, answered: Answered | None) -> None:
        if answered is not None:
            self._kinds[evolve(answered.task.kind, why=""), answered.kind] += 1
            self._mended.update(answered.mended)

    def _choose(self, entry: Entry, wanted: set[str], first: dict[str, str]) -> Chosen | None:
        """The entry's task, or its fault, or None where `repos` leaves it out; `first` is what came before."""
        if entry.fault is not None:
            return Chosen(entry, fault=entry.fault)
        task = None
        try:
            task = read_task(entry.data, entry.number, numbered=self.place.numbered, where=entry.where)
            if wanted and task.repo.lower() not in wanted:
                return None
            answered = answer_task(task, self.answer)
            if (earlier := first.setdefault(answered.identity, entry.where)) != entry.where:
                raise Reject("duplicate", f"{entry.where} has the same instance id and answer as {earlier}")
        except Reject as fault:
            return Chosen(entry, task, fault=fault)
        return Chosen(entry, task, answered)


def no_rows(rejects: Rejects, where: object) -> InputError:
    """The error of a source without rows."""
    todo = "check ids, repos and answer; the rejects file gives the reason for each task"
    if rejects.counts["unclear-direction"]:
        todo = 'set answer = "gold" if patch is the fix, or answer = "revert-bug" if it adds the bug'
    first = f"; the first: {rejects.first}" if rejects.first else ""
    told = f"no task makes a row ({rejects.summary()}{first})" if rejects.total else "no task is selected"
    return InputError(told, where=where, todo=todo)


def refuse(rejects: Rejects, chosen: Chosen) -> None:
    """Add a fault of the selection to the rejects."""
    if chosen.fault is None:
        return
    instance, name = None, str(chosen.entry.number)
    if chosen.task is not None:
        instance, name = chosen.task.instance_id, chosen.task.task_id
    elif isinstance(chosen.entry.data, Mapping):
        fields = {str(key).lower(): value for key, value in chosen.entry.data.items()}
        instance = _name(fields.get("instance_id"))
        name = _name(fields.get("task_id")) or instance or name
    rejects.add(chosen.fault, instance_id=instance, task_id=name, where=chosen.entry.where)


def _name(value: object) -> str | None:
    return str(value)[:200] if isinstance(value, str | int) and str(value).strip() else None
