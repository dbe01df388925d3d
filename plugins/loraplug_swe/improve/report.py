"""What the rounds came to, as figures and as lines for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loraplug_swe.evaluation.results import Result
from loraplug_swe.evaluation.statistics import wilson
from loraplug_swe.improve.folder import read_json

if TYPE_CHECKING:
    from loraplug_swe.improve.rounds import Rounds

_SHOWN = 20  # examples of each round


def report(rounds: Rounds, why: str) -> dict[str, Any]:
    """Everything that is told.

    Returns:
        `name`, `why` (the rounds ended), `best` (number of a round), `minutes`, and `rounds`, each with `held` and
        `asked` (`all` and by kind: answers, resolved, rate, interval), `minutes` by step, and of a round after the
        first training what `round.json` says and `examples` gained and lost.
    """
    found = []
    for number in range(rounds.options.rounds + 1):
        place = rounds.folder.round(number)
        told = read_json(place / "round.json") if (place / "round.json").exists() else {}
        if number and not told:
            break
        clock = {step.partition("/")[2]: seconds / 60 for step, seconds in rounds.folder.clock.items()
                 if step.startswith(f"round-{number}/")}  # fmt: skip
        made: dict[str, Any] = {"round": number, "minutes": clock} | told
        if not number or told["trained"]:
            held = rounds.held(number)
            made["held"] = _rates(held)
            made["examples"] = _examples(rounds, told, held)
        if number:
            made["asked"] = _rates(rounds.results(number))
        found.append(made)
    minutes = sum(rounds.folder.clock.values()) / 60
    return {"name": rounds.first.run.name, "why": why, "best": rounds.best, "minutes": minutes, "rounds": found}


def difficulty(rounds: Rounds) -> list[dict[str, Any]]:
    """How hard each bug asked about was: answers in all rounds, those that passed, and what the bug is like."""
    answers, solved = Counter[str](), Counter[str]()
    for number in range(1, rounds.options.rounds + 1):
        if (rounds.folder.round(number) / "round.json").exists():
            for one in rounds.results(number):
                answers[one.task] += 1
                solved[one.task] += one.status == "resolved"
    found = []
    for name, task in rounds.data.pool.tasks.items():
        if not answers[name]:
            continue
        patch = task.bug_patch or task.gold_patch
        changed = sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in patch.split("\n") if line)
        rate = solved[name] / answers[name]
        found.append({
            "task_id": name, "kind": task.kind, "file": task.file, "function": task.function, "lines_changed": changed,
            "failing_tests": len(task.targets), "answers": answers[name], "solved": solved[name], "rate": rate,
            "interval": wilson(rate, answers[name]),
        })  # fmt: skip
    return found


def _rates(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Of all bugs and of each kind: bugs, answers, those that passed, flagged and void ones, bugs solved.

    The rate is that of answers, its 95 % score interval that of so many bugs, as answers to one are not independent.
    """
    kinds = {"all": list(results)}
    for one in results:
        kinds.setdefault(one.kind or "(none told)", []).append(one)
    return {kind: _rate(kinds[kind]) for kind in ["all", *sorted(kinds.keys() - {"all"})]}


def _rate(results: Sequence[Result]) -> dict[str, Any]:
    statuses = Counter(one.status for one in results)
    bugs = {one.task for one in results}
    rate = statuses["resolved"] / len(results) if results else 0.0
    return {
        "bugs": len(bugs), "answers": len(results), "resolved": statuses["resolved"], "flagged": statuses["flagged"],
        "void": statuses["void"], "solved": len({one.task for one in results if one.status == "resolved"}),
        "rate": rate, "interval": wilson(rate, len(bugs)),
    }  # fmt: skip


def _examples(rounds: Rounds, told: Mapping[str, Any], held: Sequence[Result]) -> list[dict[str, str]]:
    """Bugs gained, with what fixed them now; bugs lost, with what is said now."""
    by_task = {one.task: one for one in held}
    found = []
    for how in ("gained", "lost"):
        for name in told.get(how, [])[:_SHOWN]:
            task, one = rounds.data.held.tasks[name], by_task[name]
            place = " ".join(filter(None, (task.file, task.function)))
            found.append({
                "how": how, "task": name, "kind": task.kind, "place": place,
                "question": str(rounds.data.held.rows[name]["instruction"]), "answer": one.answer, "diff": one.diff,
                "reason": one.reason,
            })  # fmt: skip
    return found


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """A line for each round, and why they ended."""
    yield f"{'round':7}{'held-out bugs fixed':28}{'answers passed':22}{'minutes':>8}  "
    for one in told["rounds"]:
        yield _line(one, told["best"]).rstrip()
    yield f"ended: {told['why']} ({told['minutes']:.1f} minutes in all)"


def _line(one: Mapping[str, Any], best: int) -> str:
    held, asked = one.get("held", {}).get("all"), one.get("asked", {}).get("all")
    fixed = f"{held['resolved']} of {held['bugs']} ({share(held)})" if held else "-"
    passed = f"{asked['resolved']} of {asked['answers']}" if asked else "-"
    state = f"{'kept' if one['kept'] else 'not kept'}: {one['why']}" if one["round"] else "the first training"
    mark = ", the best" if one["round"] == best else ""
    return f"{one['round']!s:7}{fixed:28}{passed:22}{sum(one['minutes'].values()):8.1f}  {state}{mark}"


def share(found: Mapping[str, Any]) -> str:
    """A rate with its interval."""
    low, high = found["interval"]
    return f"{found['rate']:.1%}, {100 * low:.1f}-{100 * high:.1f}"
