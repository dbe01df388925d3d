"""Which bugs a round asks about: by how often they, and bugs of their kind, were solved before."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import floor

from attrs import define, field, frozen

from loraplug_swe.evaluation.results import Result

_LEAST = 0.1  # of a kind's weight, so that what was learnt is still looked at
_UNSOLVED = 2.0  # times the weight of a kind none of which was ever solved


@frozen
class Rate:
    """Answers to a bug, or to all bugs of a kind, and those that passed."""

    answers: int = 0
    solved: int = 0

    @property
    def share(self) -> float:
        """The solve rate; 0 where nothing was answered."""
        return self.solved / self.answers if self.answers else 0.0


@define
class Record:
    """What the rounds so far tell of each bug and kind.

    Attributes:
        latest: of each bug, in the round that asked it last.
        kinds: of each kind, over all rounds.
    """

    latest: dict[str, Rate] = field(factory=dict)
    kinds: dict[str, Rate] = field(factory=dict)

    def add(self, results: Iterable[Result]) -> None:
        """Count a round's results."""
        answers, solved = Counter[str](), Counter[str]()
        for one in results:
            right = int(one.status == "resolved")
            answers[one.task] += 1
            solved[one.task] += right
            before = self.kinds.get(one.kind, Rate())
            self.kinds[one.kind] = Rate(before.answers + 1, before.solved + right)
        self.latest |= {task: Rate(count, solved[task]) for task, count in answers.items()}


def choose(
    pool: Mapping[str, str], record: Record, count: int, max_solve_rate: float, seed: str, unfit: Collection[str] = ()
) -> list[str]:
    """Bugs of a round, in the order of the pool.

    Bugs that were nearly always solved when last asked make room for others. Kinds share the round by how many bugs
    they have left and by how seldom they are solved; a kind that was asked about and never solved counts twice. Within
    a kind, bugs come first that were never asked, then those solved now and then, then those never solved.

    Args:
        pool: id of each bug to its kind.
        count: bugs wanted.
        seed: of the draws.
        unfit: bugs that cannot be asked about here.
    """
    left: dict[str, list[str]] = {}
    for task, kind in pool.items():
        if task not in unfit and record.latest.get(task, Rate()).share <= max_solve_rate:
            left.setdefault(kind, []).append(task)
    quotas = _quotas({kind: len(tasks) for kind, tasks in left.items()}, record, count)
    chosen: set[str] = set()
    for kind in sorted(left):
        tasks = list(left[kind])
        random.Random(f"{seed} {kind}").shuffle(tasks)  # noqa: S311 - a draw, not a secret
        chosen |= set(sorted(tasks, key=lambda task: _turn(record.latest.get(task)))[: quotas[kind]])
    return [task for task in pool if task in chosen]


def _turn(rate: Rate | None) -> int:
    return 0 if rate is None else 1 if rate.solved else 2


def _quotas(sizes: Mapping[str, int], record: Record, count: int) -> dict[str, int]:
    """How many bugs of each kind; together `count`, or all there are."""
    given = dict.fromkeys(sizes, 0)
    wanted = min(count, sum(sizes.values()))
    while (missing := wanted - sum(given.values())) > 0:
        open_ = [kind for kind in sorted(sizes) if given[kind] < sizes[kind]]
        weights = {kind: sizes[kind] * _weight(record.kinds.get(kind)) for kind in open_}
        for kind, more in _shared(weights, missing).items():
            given[kind] = min(sizes[kind], given[kind] + more)
    return given


def _weight(rate: Rate | None) -> float:
    if rate is None or not rate.answers:
        return 1.0
    return max(_LEAST, 1 - rate.share) if rate.solved else _UNSOLVED


def _shared(weights: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` in whole numbers in these proportions: the largest remainders are rounded up."""
    total = sum(weights.values())
    exact = {kind: count * weight / total for kind, weight in weights.items()}
    made = {kind: floor(share) for kind, share in exact.items()}
    order: Sequence[str] = sorted(exact, key=lambda kind: (made[kind] - exact[kind], kind))
    for kind in order[: count - sum(made.values())]:
        made[kind] += 1
    return made
