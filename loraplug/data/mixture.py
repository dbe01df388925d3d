"""Mixes several data sets: how often each encoded row is used, and in what order; depends on seed and data only."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import define, evolve, field, frozen

from loraplug.config.options import Doc
from loraplug.data.schemas import Encoded, row_lengths
from loraplug.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug.context import Run

_OFTEN = 10
"""Number of passes over a set from which the user is warned of overfitting."""
_FILLED = frozenset({"seq_lengths", "token_weights"})


@frozen
class Mix:
    """How several data sets become one."""

    how: Annotated[
        Literal["concatenate", "interleave"],
        Doc("concatenate: one set after the other, shuffled together by the trainer; interleave: sets alternate, so "
            "that their shares hold throughout training"),
    ] = "concatenate"  # fmt: skip
    exhausted: Annotated[
        Literal["stop", "repeat"] | None,
        Doc("stop: sets are sampled down to their shares, no row is used twice; repeat: every row is used, and smaller "
            "sets are repeated until they have their share"),
    ] = None  # fmt: skip
    unit: Annotated[Literal["tokens", "rows"] | None, Doc("what shares are measured in")] = None


@frozen
class Taken:
    """What a mixture takes of a set: `rows` of `of` encoded rows, and `amount` in its unit; `passes` over the set."""

    rows: int
    of: int
    amount: int
    passes: float

    def __str__(self) -> str:
        often = f", {self.passes:.2f} times over" if self.passes > 1 else ""
        return f"{self.rows} rows of {self.of}{often}"


@define
class _Part:
    """A set on its way into a mixture: the size of each of its rows in the unit of shares, and what it is to give."""

    name: str
    sizes: Sequence[int]
    budget: float = math.inf
    taken: list[int] = field(factory=list)

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def take(self, seed: int, *, drawn: bool) -> None:
        """Whole passes over the set, then rows of one more, drawn without repeats, to within half a row of the budget.

        `drawn`: whether whole passes have an order drawn at random, too.
        """
        given: float = 0
        number = 0
        while True:
            order = list(range(len(self.sizes)))
            random.Random(f"{seed} {self.name} {number}").shuffle(order)  # noqa: S311 - no secret
            if given + self.total <= self.budget:
                self.taken += order if drawn else range(len(self.sizes))
                given += self.total
                if self.budget == math.inf or given >= self.budget:
                    return
                number += 1
                continue
            last = []
            for row in order:
                if given + self.sizes[row] / 2 > self.budget:
                    break
                last.append(row)
                given += self.sizes[row]
            if not self.taken and not last:
                last = order[:1]
            self.taken += last if drawn else sorted(last)
            return


def mixed(
    sets: Mapping[str, Encoded], shares: Mapping[str, float | None], mix: Mix, run: Run
) -> tuple[Encoded, dict[str, Taken]]:
    """One data set of several encoded ones, and what it takes of each.

    Under `interleave` the rows have a column `set`: a trainer that draws an order of its own keeps to its sequence.

    Args:
        sets: encoded rows by the name of their set; at least one.
        shares: of each set; all None where every row is taken once.
        mix: how.
        run: its seed.

    Raises:
        InputError: the sets are encoded with different columns.
    """
    parts = [_Part(name, _sizes(rows, mix.unit)) for name, rows in sets.items()]
    wanted = {name: shares[name] or 0.0 for name in sets}
    if len(parts) > 1 and all(wanted.values()):
        whole = [part.total / wanted[part.name] for part in parts]
        scale = min(whole) if mix.exhausted == "stop" else max(whole)
        for part, own in zip(parts, whole, strict=True):
            part.budget = part.total if own == scale else wanted[part.name] * scale
    for part in parts:
        part.take(run.seed, drawn=mix.how == "interleave")
    told = {part.name: _taken(part) for part in parts}
    for name, one in told.items():
        if one.passes > _OFTEN:
            run.warn(f"the set {name} is repeated {one.passes:.1f} times to reach its share, so the "
                     'model may memorise it: add rows, lower the share, or set exhausted = "stop"')  # fmt: skip
    return _joined(sets, parts, side_by_side=mix.how == "interleave"), told


def _taken(part: _Part) -> Taken:
    amount = sum(part.sizes[row] for row in part.taken)
    return Taken(len(part.taken), len(part.sizes), amount, amount / max(part.total, 1))


def _sizes(encoded: Encoded, unit: str | None) -> Sequence[int]:
    return row_lengths(encoded) if unit == "tokens" else [1] * len(encoded.dataset)


def _sequence(parts: Sequence[_Part]) -> list[int]:
    """Which set each row of the mixture is of: always the one that is furthest behind what it will have given."""
    amounts = [_taken(part).amount for part in parts]
    given, at, made = [0] * len(parts), [0] * len(parts), list[int]()
    for _ in range(sum(len(part.taken) for part in parts)):
        open_ = [index for index, part in enumerate(parts) if at[index] < len(part.taken)]
        nxt = min(
            open_, key=lambda index: ((given[index] + _next(parts[index], at[index]) / 2) / amounts[index], index)
        )
        given[nxt] += _next(parts[nxt], at[nxt])
        at[nxt] += 1
        made.append(nxt)
    return made


def _next(part: _Part, at: int) -> int:
    return part.sizes[part.taken[at]]


def _joined(sets: Mapping[str, Encoded], parts: Sequence[_Part], *, side_by_side: bool) -> Encoded:
    from datasets import concatenate_datasets

    rows = {name: one.dataset for name, one in alike(sets).items()}
    if side_by_side:
        rows = {name: with_set(one, name) for name, one in rows.items()}
    starts, start = [], 0
    for one in rows.values():
        starts.append(start)
        start += len(one)
    if side_by_side:
        sources = [iter(part.taken) for part in parts]
        indices = [starts[index] + next(sources[index]) for index in _sequence(parts)]
    else:
        indices = [begin + row for begin, part in zip(starts, parts, strict=True) for row in part.taken]
    made = concatenate_datasets([*rows.values()]).select(indices)
    return Encoded(made, next(iter(sets.values())).schema)


def alike(sets: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """Encoded sets with the same columns: what one lacks of lengths and weights is what they are without.

    Raises:
        InputError: they have columns of other names, which say something that nobody here knows.
    """
    columns = {name: set(one.dataset.column_names) for name, one in sets.items()}
    every = set().union(*columns.values())
    for name, own in columns.items():
        if odd := sorted(every - own - _FILLED):
            other = next(one for one, held in columns.items() if odd[0] in held)
            what = f"their formatters make different columns: {other} has {', '.join(odd)}, {name} does not"
            raise InputError(what, where="dataset", todo="use the same formatter for both sets")
    features = next(iter(sets.values())).dataset.features.copy()
    for one in sets.values():
        features.update({key: kind for key, kind in one.dataset.features.items() if key not in features})
    return {name: evolve(one, dataset=_filled(one.dataset, features)) for name, one in sets.items()}


def _filled(rows: Dataset, features: Any) -> Dataset:
    lacking = [name for name in features if name not in rows.column_names]
    if lacking:

        def fill(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            lengths = [len(ids) for ids in batch["input_ids"]]
            known: dict[str, list[Any]] = {
                "seq_lengths": [[length] for length in lengths],
                "token_weights": [None] * len(lengths),
            }
            return {name: known[name] for name in lacking}

        rows = rows.map(fill, batched=True, features=features)
    rows = rows.select_columns(list(features))
    return rows if rows.features == features else rows.cast(features)


def together(sets: Mapping[str, Encoded]) -> Encoded:
    """Validation rows of several sets as one data set, with the name of its set in the column `set` of each."""
    from datasets import concatenate_datasets

    made = concatenate_datasets([with_set(one.dataset, name) for name, one in sets.items()])
    return Encoded(made, next(iter(sets.values())).schema)


def with_set(rows: Dataset, name: str) -> Dataset:
    """The rows with the name of their set in a column `set`."""
    return rows.add_column("set", [name] * len(rows))
