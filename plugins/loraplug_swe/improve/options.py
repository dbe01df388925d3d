"""`[improve]` of a recipe: what `loraplug improve` does beside what the recipe says of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Problem


@frozen
class Ask:
    """How the model is asked about bugs."""

    bugs: Annotated[int, Doc("bugs asked about in a round")] = field(default=150, validator=validators.ge(1))
    samples: Annotated[int, Doc("answers to each of them")] = field(default=8, validator=validators.ge(1))
    temperature: Annotated[
        float | None,
        Doc("of the draw; 0.8 where not set, and 1 with a trainer of rollouts, whose answers are the model's own"),
    ] = field(default=None, validator=validators.optional([validators.gt(0), validators.le(10)]))
    top_p: Annotated[float, Doc("draw from the likeliest tokens that together have this probability")] = field(
        default=1.0, validator=[validators.gt(0), validators.le(1)]
    )
    max_tokens: Annotated[int, Doc("longest answer, in tokens")] = field(default=128, validator=validators.ge(1))
    batch: Annotated[int, Doc("answers made at once")] = field(default=16, validator=validators.ge(1))


@frozen
class Rows:
    """What a round trains on."""

    per_bug: Annotated[int, Doc("different passing answers to one bug that become rows, at most")] = field(
        default=2, validator=validators.ge(1)
    )
    pairs_per_bug: Annotated[int, Doc("pairs of a passing and a failing answer to one bug, at most")] = field(
        default=2, validator=validators.ge(1)
    )
    gold: Annotated[
        Literal["unsolved", "never"],
        Doc("unsolved: bugs that no answer solved are taught by the answer that took the bug out"),
    ] = "unsolved"
    replay: Annotated[
        float | None,
        Doc(
            "share of the round's rows that are rows of the first training; 0.5 where not set, and 0 with a trainer of "
            "preferences or rollouts, which cannot be trained on them"
        ),
    ] = field(default=None, validator=validators.optional([validators.ge(0), validators.lt(1)]))
    scale_rewards: Annotated[
        Literal["group", "none"],
        Doc(
            "of rollouts, by trl's name: advantages are divided by the deviation of rewards in their group, or are not"
        ),
    ] = "group"


@frozen
class Keep:
    """When a round is kept."""

    bugs: Annotated[int | None, Doc("held-out bugs that decide, drawn by the seed; all where not set")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    p: Annotated[
        float,
        Doc("a round is kept if it gains more held-out bugs than it loses, and chance alone would part them so "
            "unevenly with at most this probability (two-sided sign test); 1: any gain is enough"),
    ] = field(default=0.5, validator=[validators.gt(0), validators.le(1)])  # fmt: skip


@frozen
class Improve:
    """Rounds in which the tests teach: `loraplug improve RECIPE` asks, tests, trains on what passed, and compares."""

    rounds: Annotated[int, Doc("rounds after the first training, at most")] = field(
        default=3, validator=validators.ge(1)
    )
    minutes: Annotated[
        float | None, Doc("no round is begun that would not end within so many minutes of work; no limit where not set")
    ] = field(default=None, validator=validators.optional(validators.gt(0)))
    objective: Annotated[
        str | None,
        Doc("the trainer of the rounds, such as dpo or grpo: its name stands for round.trainer.use; else the recipe's"),
    ] = None
    ask: Annotated[Ask, Doc("how the model is asked")] = field(factory=Ask)
    rows: Annotated[Rows, Doc("what a round trains on")] = field(factory=Rows)
    keep: Annotated[Keep, Doc("when a round is kept")] = field(factory=Keep)
    max_solve_rate: Annotated[
        float, Doc("bugs of which a larger share of the answers passed when last asked make room for others")
    ] = field(default=0.9, validator=[validators.ge(0), validators.le(1)])
    bugs: Annotated[
        Mapping[str, Any], Doc("options of [dataset] that differ for the bugs asked about, such as count and kinds")
    ] = field(factory=dict)
    round: Annotated[
        Mapping[str, Any],
        Doc("tables of the recipe that differ in the rounds, such as round.trainer.learning_rate"),
    ] = field(factory=dict)

    def check(self, recipe: Any) -> Iterator[Problem]:
        """What does not go together with the rest of the recipe."""
        sets = [one for one in recipe.sets if not one.watched and hasattr(one.source, "tasks_out")]
        place = sets[0].place if sets else "dataset"
        if not sets and (recipe.sets or not hasattr(recipe.dataset, "tasks_out")):
            yield Problem(place, "improve needs bugs that tests can judge: use swe-bugs or swe-history")
        if len(sets) > 1:
            yield Problem(sets[1].place, "a second set of bugs: improve asks about those of one set; take one out")
        wanted = recipe.validation
        if wanted is None:
            yield Problem(
                "validation", 'missing table: bugs held out decide; write fraction = 0.1 and group_by = "task"'
            )
        elif wanted.path is None and wanted.group_by not in ("task", "auto"):
            yield Problem("validation.group_by", 'functions must be held out whole: write group_by = "task"')
        elif wanted.path is not None:
            yield Problem("validation.path", "the bugs held out must be some of [dataset]: write fraction or rows")
        trained = getattr(recipe.trainer, "adapter", None) or getattr(recipe.trainer, "lora", None)
        if not hasattr(trained, "start_from"):
            yield Problem("trainer.use", "improve goes on from an adapter: use a trainer with lora.start_from")
        for one in recipe.sets:
            if one.formatter != recipe.formatter:
                yield Problem(f"{one.place}.formatter", "improve mixes all rows again: write one [formatter] for all")
        for key in sorted({"run_name", "seed", "dataset", "mix", "validation", "exporter"} & self.round.keys()):
            yield Problem(f"improve.round.{key}", "is improve's own in a round; take it out")
        if self.objective is not None and "use" in (self.round.get("trainer") or {}):
            yield Problem("improve.objective", "and improve.round.trainer.use both name the trainer; leave out one")
        for key in sorted({"use", "tasks_out", "edit", "context"} & self.bugs.keys()):
            yield Problem(f"improve.bugs.{key}", "is that of [dataset], as answers must be alike; take it out")
