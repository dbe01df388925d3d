"""The rounds: ask, judge, make rows, train, compare; each step leaves a file, and what is there is not done again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from loraplug import Run, atomic_output, wrap_os_errors
from loraplug_swe.evaluation.generator import Sampling
from loraplug_swe.evaluation.results import Result
from loraplug_swe.evaluation.statistics import sign_test
from loraplug_swe.improve.answers import Asking
from loraplug_swe.improve.curriculum import Record, choose
from loraplug_swe.improve.data import Data
from loraplug_swe.improve.fitting import fitting
from loraplug_swe.improve.folder import Folder, read_json, read_rows, write_json, write_rows
from loraplug_swe.improve.options import Improve
from loraplug_swe.improve.recipes import Recipes
from loraplug_swe.improve.rollouts import Rollouts, make_rollouts, read_drawn
from loraplug_swe.improve.rows import Made, make_rows
from loraplug_swe.improve.teaching import Taught, taught

if TYPE_CHECKING:
    from loraplug import Pipeline

_FOLD = 1_000_003  # seeds of rounds that lie far apart


@frozen
class Comparison:
    """A model against another on the same held-out bugs, by their first answers."""

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    both: int

    @classmethod
    def of(cls, before: Sequence[Result], after: Sequence[Result]) -> Comparison:
        """By the results of both, of bugs that both answered."""
        old, new = ({one.task: one.status == "resolved" for one in results} for results in (before, after))
        common = [task for task in new if task in old]
        return cls(
            tuple(task for task in common if new[task] and not old[task]),
            tuple(task for task in common if old[task] and not new[task]),
            sum(new[task] and old[task] for task in common),
        )

    @property
    def p(self) -> float:
        """Two-sided p of the sign test."""
        return sign_test(len(self.gained), len(self.lost))

    def keeps(self, p: float) -> bool:
        """Whether the later model is better, and chance alone would say so with at most this probability."""
        return len(self.gained) > len(self.lost) and self.p <= p


@define
class Rounds:
    """All rounds of one recipe, in the folder of what they leave.

    A round leaves, in this order: `plan.json` (bugs to ask about), `answers.jsonl` (answers and verdicts, as they
    come; where rollouts are trained `drawn.jsonl`, their tokens), `data/` (rows), the run of its training,
    `held-out.jsonl` (answers to bugs held out), `round.json` (the decision).
    """

    folder: Folder
    recipes: Recipes
    options: Improve
    first: Pipeline
    data: Data
    asking: Asking
    run: Run
    _record: Record = field(factory=Record)
    _unlearnt: list[int] = field(factory=list)
    """Rounds since the best one, whose answers are of its adapter, too."""
    best: int = 0
    """The round whose adapter is the best so far; 0 is the first training."""

    def work(self, after: Callable[[], object] = lambda: None) -> str:
        """All rounds that there is time for; says why they ended. `after` is called after each."""
        held = self.held_out(0)
        rate = sum(one.status == "resolved" for one in held)
        self.run.say(f"before the first round: {rate} of {len(held)} held-out bugs are fixed")
        for number in range(1, self.options.rounds + 1):
            place = self.folder.round(number)
            if not (place / "round.json").exists():
                if self._is_spent(number):
                    return f"another round would not end within {self.options.minutes:g} minutes"
                if not self._round(number):
                    return (
                        "every bug is solved nearly always; for more, take another run_name, a larger "
                        f"improve.bugs.count or harder kinds, and trainer.lora.start_from = {self.adapter(self.best)}"
                    )
            self._learn(number)
            after()
        return "all rounds are done"

    def adapter(self, number: int) -> Path:
        """The adapter of a round."""
        name = self.first.run.name if not number else self._name(number)
        return self.first.run.outputs / "runs" / name / "adapter"

    def results(self, number: int) -> list[Result]:
        """Answers of a round, judged."""
        return read_results(self.folder.round(number) / "answers.jsonl")

    def held(self, number: int) -> list[Result]:
        """What the adapter of a round that is finished answered to the bugs held out."""
        return read_results(self.folder.round(number) / "held-out.jsonl")

    def held_out(self, number: int) -> list[Result]:
        """What the adapter of a round answers to the bugs held out."""
        place = self.folder.round(number)
        place.mkdir(parents=True, exist_ok=True)
        ask = self.options.ask
        with self.folder.timed(f"round-{number}/compare"):
            found, unfit = self.asking.ask(
                self.data.held, self.adapter(number), Sampling(max_tokens=ask.max_tokens, batch=ask.batch),
                place / "held-out.jsonl", self.folder.place / "held-out.unfit.json", f"round {number}, held out",
            )  # fmt: skip
        if unfit and not number:
            self.run.warn(f"{len(unfit)} held-out bugs are left out ({sorted(set(unfit.values()))[0]})")
        return found

    def _name(self, number: int) -> str:
        return f"{self.first.run.name}-round-{number}"

    def _is_spent(self, number: int) -> bool:
        if self.options.minutes is None:
            return False
        longest = max((self.folder.seconds(one) for one in range(1, number)), default=0.0)
        return sum(self.folder.clock.values()) + longest > 60 * self.options.minutes

    def _learn(self, number: int) -> None:
        """What a finished round says to those after it."""
        self._record.add(self.results(number))
        if read_json(self.folder.round(number) / "round.json")["kept"]:
            self.best, self._unlearnt = number, []
        else:
            self._unlearnt.append(number)

    def _round(self, number: int) -> bool:
        """One round, going on with what it has left; False where there is no bug to ask about."""
        place = self.folder.round(number)
        place.mkdir(parents=True, exist_ok=True)
        names = self._plan(number)
        if not names:
            return False
        kind = self._taught(number)
        results, unfit = self._ask(number, names, kind)
        before = [one for earlier in self._unlearnt for one in self.results(earlier)]
        made = make_rows([*before, *results], self.data.pool.rows, self.options.rows)
        rollouts = self._rollouts(number) if kind == "rollouts" else None
        told: dict[str, Any] = {"round": number, "from": self.best, "bugs": len(names), "unfit": unfit,
                                "counts": made.counts | (rollouts.counts if rollouts else {})}  # fmt: skip
        if unfit:
            why = ", ".join(sorted(set(unfit.values())))
            self.run.warn(f"round {number}: {len(unfit)} of {len(names)} bugs cannot be asked about ({why})")
        solved = len({one.task for one in results if one.status == "resolved"})
        self.run.say(f"round {number}: {made.counts['passed']} answers passed, to {solved} of {len(names)} bugs")
        if not made.counts["passed"]:
            self.run.warn(f"round {number}: none of {len(results)} answers passed")
        if rollouts is not None:
            groups, alike = rollouts.counts["groups"], rollouts.counts["groups alike"]
            self.run.say(f"round {number}: {len(rollouts.rows)} rollouts in {groups} groups; {alike} more are left "
                         "out, as all their answers have the same reward")  # fmt: skip
        sets = self._write(number, made, rollouts, kind)
        if not sets:
            why = "no group of answers differs in its rewards" if rollouts is not None else "no row to train on"
            write_json(place / "round.json", told | {"kept": False, "why": why, "trained": False})
            self.run.warn(f"round {number}: {why}; nothing is trained")
            return True
        with self.folder.timed(f"round-{number}/train"):
            outcome = self._training(number, sets, kind).execute()
        paired = Comparison.of(self.held(self.best), self.held_out(number))
        kept = paired.keeps(self.options.keep.p)
        why = f"{len(paired.gained)} gained, {len(paired.lost)} lost, p = {paired.p:.2g}"
        self.run.say(f"round {number}: {'kept' if kept else 'not kept'}: {why}")
        write_json(place / "round.json", told | {
            "kept": kept, "why": why, "trained": True, "gained": paired.gained, "lost": paired.lost,
            "both": paired.both, "p": paired.p,
            "rows": read_json(place / "data" / "data.json"),
            "losses": {key: value for key, value in outcome.figures.items() if key.startswith("validation_loss")},
        })  # fmt: skip
        return True

    def _plan(self, number: int) -> list[str]:
        path = self.folder.round(number) / "plan.json"
        if not path.exists():
            kinds = {name: task.kind for name, task in self.data.pool.tasks.items()}
            unfit = {
                name for one in range(1, number) for name in read_json(self.folder.round(one) / "round.json")["unfit"]
            }
            seed = f"{self.first.recipe.seed} round {number}"
            wanted = self.options.ask.bugs
            names = choose(kinds, self._record, wanted, self.options.max_solve_rate, seed, unfit)
            write_json(path, {"from": self.best, "bugs": names})
        found: list[str] = read_json(path)["bugs"]
        return found

    def _taught(self, number: int) -> Taught:
        """What the trainer of a round is taught."""
        rows = self.folder.round(number) / "data" / "answers.jsonl"
        return taught(self._pipeline(number, {"answers": rows}, {}).recipe.trainer)

    def _ask(self, number: int, names: Sequence[str], kind: Taught) -> tuple[list[Result], dict[str, str]]:
        ask, place = self.options.ask, self.folder.round(number)
        assert ask.temperature is not None  # noqa: S101 - for the type checker; see `teaching.settled`
        sampling = Sampling(ask.temperature, ask.top_p, ask.max_tokens, ask.samples, ask.batch,
                            (self.first.recipe.seed + _FOLD * number) % 2**31)  # fmt: skip
        with self.folder.timed(f"round-{number}/ask"):
            return self.asking.ask(self.data.pool.only(names), self.adapter(self.best), sampling,
                                   place / "answers.jsonl", place / "unfit.json", f"round {number}",
                                   place / "drawn.jsonl" if kind == "rollouts" else None)  # fmt: skip

    def _rollouts(self, number: int) -> Rollouts:
        """Those of a round, and of the rounds since the best one, which asked the same adapter."""
        scale = self.options.rows.scale_rewards
        found = Rollouts([])
        for one in [*self._unlearnt, number]:
            drawn = read_drawn(self.folder.round(one) / "drawn.jsonl")
            found = found + make_rollouts(one, self.results(one), drawn, scale)
        return found

    def _write(self, number: int, made: Made, rollouts: Rollouts | None, kind: Taught) -> dict[str, Path]:
        """The round's files of rows, by data set; none where there is nothing new to train on."""
        place = self.folder.round(number) / "data"
        found: dict[str, Sequence[Mapping[str, Any]]] = {
            "answers": [*made.answers, *made.gold], "preferences": made.pairs,
        }  # fmt: skip
        if rollouts is not None:
            found["rollouts"] = rollouts.rows
        replay = [f"replay-{name}" for name in self.data.trained] if kind == "answers" else []
        if not place.exists():
            left_out = 0
            if kind != "rollouts":  # they are tokens already
                fit = fitting(self._pipeline(number, {kind: place / f"{kind}.jsonl"}, {}))
                kept = fit(found[kind])
                left_out, found[kind] = len(found[kind]) - len(kept), kept
                found |= self._replay(number, len(kept), fit) if replay else {}
            if left_out:
                self.run.warn(f"round {number}: {left_out} of {left_out + len(found[kind])} rows are left out, as the "
                              "formatter cannot use them; most likely they are longer than its max_length")  # fmt: skip
            with atomic_output(place) as fresh, wrap_os_errors(place):
                fresh.mkdir()
                for name, rows in found.items():
                    write_rows(fresh / f"{name}.jsonl", rows)
                counts = {"answers": len(made.answers), "gold": len(made.gold), "pairs": len(made.pairs),
                          "left out": left_out, "replay": sum(len(found[name]) for name in replay)}  # fmt: skip
                write_json(fresh / "data.json", counts | ({"rollouts": len(rollouts.rows)} if rollouts else {}))
        sets = {name: place / f"{name}.jsonl" for name in (kind, *replay)}
        return {name: path for name, path in sets.items() if read_rows(path)} if read_rows(sets[kind]) else {}

    def _replay(
        self, number: int, new: int, fit: Callable[[Sequence[Mapping[str, Any]]], list[Mapping[str, Any]]]
    ) -> dict[str, list[Mapping[str, Any]]]:
        """Rows of the first training, drawn anew each round, so many that they have their share beside `new` others.

        Among those that are drawn may be some that the first training left out as too long; they count as drawn.
        """
        share = self.options.rows.replay or 0.0
        wanted = new * share / (1 - share)
        total = sum(part for _, part in self.data.trained.values())
        drawn: dict[str, list[Mapping[str, Any]]] = {}
        for name, (path, part) in self.data.trained.items():
            rows = [json.loads(line) for line in path.read_bytes().splitlines()] if wanted and total else []
            count = min(len(rows), round(wanted * part / total)) if total else 0
            seed = f"{self.first.recipe.seed} replay {number} {name}"
            some = random.Random(seed).sample(rows, count)  # noqa: S311 - a draw, not a secret
            drawn[f"replay-{name}"] = fit(some)
        return drawn

    def _training(self, number: int, sets: Mapping[str, Path], kind: Taught) -> Pipeline:
        """The run of a round; with fewer rows than a step takes, all of them are a step."""
        watched = self.data.watched if kind == "answers" else {}
        pipeline = self._pipeline(number, sets, watched)
        count, size = sum(len(read_rows(path)) for path in sets.values()), self._batch_size(pipeline)
        if size is None or size <= count:
            return pipeline
        self.run.say(
            f"round {number}: {count} rows to train on, fewer than trainer.batch_size = {size}: all in one step"
        )
        return self._pipeline(number, sets, watched, count)

    @staticmethod
    def _batch_size(pipeline: Pipeline) -> int | None:
        """The rows of a step, where the trainer takes a number of rows."""
        trainer = pipeline.recipe.trainer
        return None if getattr(trainer, "tokens_per_step", None) else getattr(trainer, "batch_size", None)

    def _pipeline(
        self, number: int, trained: Mapping[str, Path], watched: Mapping[str, Path], batch_size: int | None = None
    ) -> Pipeline:
        return self.recipes.round(self.options, self._name(number), self.adapter(self.best), trained,
                                  {f"held-out-{name}": path for name, path in watched.items()}, batch_size)  # fmt: skip


def read_results(path: Path) -> list[Result]:
    """The results of a journal that is finished."""
    with wrap_os_errors(path):
        lines = path.read_bytes().splitlines()[1:]
    return [Result(**json.loads(line)) for line in lines]
