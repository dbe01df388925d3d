"""What a round's trainer is taught: passing answers, preferences, or rollouts; and options that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from attrs import evolve

from loraplug import InputError, Problem
from loraplug_swe.improve.options import Improve

if TYPE_CHECKING:
    from loraplug import Trainer

Taught = Literal["answers", "preferences", "rollouts"]
_BY_SCHEMA: dict[str, Taught] = {"tokens": "answers", "pairs": "preferences", "rollouts": "rollouts"}


def taught(trainer: Trainer) -> Taught:
    """By the schema of the rows that a trainer takes.

    Raises:
        InputError: the rounds make no such rows.
    """
    if trainer.consumes not in _BY_SCHEMA:
        what = f"the trainer {trainer.name} takes {trainer.consumes} rows, which the rounds do not make"
        raise InputError(what, where="improve.objective", todo="take sft, dpo or grpo, or one that takes such rows")
    return _BY_SCHEMA[trainer.consumes]


def settled(options: Improve, trainer: Trainer) -> Improve:
    """The options with what is not set filled in for a trainer.

    Raises:
        InputError: some of them do not go with it.
    """
    kind = taught(trainer)
    if problems := [*_problems(options, kind, trainer.name)]:
        raise InputError("\n".join(map(str, problems)), todo="change it in the recipe, or with --set")
    ask, rows = options.ask, options.rows
    if ask.temperature is None:
        ask = evolve(ask, temperature=1.0 if kind == "rollouts" else 0.8)
    if rows.replay is None:
        rows = evolve(rows, replay=0.5 if kind == "answers" else 0.0)
    return evolve(options, ask=ask, rows=rows)


def _problems(options: Improve, kind: Taught, name: str) -> Iterator[Problem]:
    if kind != "answers" and options.rows.replay:
        what = f"the trainer {name} takes {kind}, and the rows of the first training are none; write 0, or leave it out"
        yield Problem("improve.rows.replay", what)
    if kind != "rollouts":
        return
    whole = f"the trainer {name} needs answers as the model itself gives them; write 1, or leave it out"
    if options.ask.temperature not in (None, 1.0):
        yield Problem("improve.ask.temperature", whole)
    if options.ask.top_p != 1:
        yield Problem("improve.ask.top_p", whole)
    if options.ask.samples < 2:
        yield Problem("improve.ask.samples", "answers to a bug are compared with each other; write at least 2")
