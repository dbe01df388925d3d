"""Which tasks: `ids`, `repos`, `limit`, duplicates and `shard`, so that shards joined in order are the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import field, frozen

from loraplug import InputError
from loraplug_swe.options import Answer, parse_ids, parse_shard
from loraplug_swe.places import Entry, Place
from loraplug_swe.rejects import Reject, Rejects
from loraplug_swe.tasks import Answered, Task, answer_task, read_task


@frozen
class Chosen:
    """One step of a selection: an answered task, or the reason there is none."""

    entry: Entry
    task: Task | None = None
    answered: Answered | None = None
    fault: Reject | None = None


@frozen
class Selection:
    """Chooses tasks out of a place.

    The shards are even blocks of the *numbers*, so that every machine knows its own without reading a task. Duplicates
    and `limit` depend on what came before; a shard therefore reads (but does not prove) the tasks before its block.

    Attributes:
        limit: at most this many tasks, counted behind `ids`, `repos` and duplicates, before any patch is tried.
    """

    place: Place
    answer: Answer
    ids: str | None = None
    limit: int | None = None
    repos: Sequence[str] = ()
    shard: str | None = None
    _numbers: list[Sequence[int]] = field(factory=list, init=False)

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
                yield chosen
            if self.limit is not None and len(first) >= self.limit:
                return

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


def no_rows(what: str, where: object) -> InputError:
    """What a source raises when nothing is left."""
    return InputError(
        f"no task makes a row ({what})" if what else "no task is chosen",
        where=where,
        todo="look at ids, repos and answer, and into the rejects file for the reason of each task",
    )


def refuse(rejects: Rejects, chosen: Chosen) -> None:
    """Send a fault of the selection to the rejects."""
    if chosen.fault is not None:
        task = chosen.task
        rejects.add(
            chosen.fault,
            instance_id=task.instance_id if task else None,
            task_id=task.task_id if task else str(chosen.entry.number),
            where=chosen.entry.where,
        )
