"""The results file, one JSON object per line, and summaries of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from loraplug import InputError, wrap_os_errors
from loraplug_swe.evaluation.judge import Status, Verdict
from loraplug_swe.evaluation.statistics import pass_at, sign_test, wilson


@frozen
class Result:
    """One answer of one model to one task, and its verdict.

    Attributes:
        model: `model`, `base` or `answers`.
        finish: why the answer ended: "stop", "length", "prompt-too-long", or "given".
        turn: 1, or a later one, after the model has seen the test output of its previous answer.
    """

    model: str
    task: str
    sample: int
    kind: str
    answer: str
    finish: str
    prompt_tokens: int
    tokens: int
    seconds: float
    status: Status
    reason: str = ""
    detail: str = ""
    exact: bool = True
    diff: str = ""
    failing: Sequence[str] = ()
    turn: int = 1

    @classmethod
    def of(cls, verdict: Verdict, **more: Any) -> Result:
        """A result with this verdict."""
        return cls(**more, **asdict(verdict))


class Journal:
    """A file of results; an interrupted evaluation resumes from it.

    Args:
        path: the file; its first line holds `settings`.
        settings: all that results depend on.
        fresh: discard existing results.

    Raises:
        InputError: the file holds results of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], fresh: bool) -> None:
        self._path = path
        self.results: list[Result] = []
        with wrap_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                path.unlink(missing_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            lines = whole.splitlines()
            head = json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()
            if lines and lines[0] != head:
                what = f"holds the results of another evaluation ({_difference(lines[0], settings)})"
                raise InputError(what, where=path, todo="name another folder with --out, or start over with --fresh")
            try:
                self.results = [Result(**json.loads(line)) for line in lines[1:]]
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"not a file of results ({error})", where=path, todo="start over with --fresh"
                ) from None
            if len(whole) < len(data):  # what a kill cut short is answered again
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            self._file = path.open("ab")
            if not lines:
                self._write(head)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: Result) -> None:
        """Append a result and flush it to disk."""
        with wrap_os_errors(self._path):
            self._write(json.dumps(asdict(result), ensure_ascii=True).encode())
        self.results.append(result)

    def done(self, model: str) -> set[tuple[str, int]]:
        """Task and sample of all results of a model, of any turn."""
        return {(one.task, one.sample) for one in self.results if one.model == model}

    def _write(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()


def _difference(line: bytes, settings: Mapping[str, Any]) -> str:
    try:
        old = json.loads(line)
        return ", ".join(f"{key}: {str(old.get(key))[:60]}" for key in settings if old.get(key) != settings[key])
    except (ValueError, AttributeError):
        return "its first line has no settings"


def last_turns(results: Iterable[Result]) -> list[Result]:
    """For answers with several turns, only the last turn."""
    last: dict[tuple[str, str, int], Result] = {}
    for one in results:
        key = one.model, one.task, one.sample
        if key not in last or one.turn > last[key].turn:
            last[key] = one
    return list(last.values())


def resolved_by_turn(results: Iterable[Result], turns: int) -> dict[str, list[int]]:
    """For each model how many answers were resolved within 1, 2, ... turns."""
    found: dict[str, list[int]] = {}
    for one in results:
        counts = found.setdefault(one.model, [0] * turns)
        for turn in range(one.turn, turns + 1):
            counts[turn - 1] += one.status == "resolved"
    return found


def summary(results: Iterable[Result], tasks: Sequence[str], ks: Sequence[int]) -> dict[str, Any]:
    """Counts and rates of one model's results.

    Returns:
        `tasks`, `answers`, `resolved`, `applied`, `invalid`, `flagged`, `void` (answers), `reasons` of all but the
        resolved, `lenient`,
        `rate` = pass@1 with `interval` (Wilson, 95 %, over tasks: answers to one task are not independent), `pass_at`
        for each k, `seconds` and `tokens` of all answers.
    """
    mine = [one for one in results if one.task in set(tasks)]
    counts = Counter(one.status for one in mine)
    right = Counter(one.task for one in mine if one.status == "resolved")
    total = Counter(one.task for one in mine)
    shares = {k: [pass_at(k, n, right[task]) for task, n in total.items() if n >= k] for k in ks}
    rates = {k: sum(each) / len(each) if each else 0.0 for k, each in shares.items()}
    reasons = Counter(f"{one.status}: {one.reason}" for one in mine if one.status != "resolved")
    return {
        "tasks": len(total), "answers": len(mine), "resolved": counts["resolved"], "applied": counts["applied"],
        "invalid": counts["invalid"], "flagged": counts["flagged"], "void": counts["void"],
        "reasons": dict(reasons.most_common()),
        "lenient": sum(not one.exact for one in mine), "rate": rates[1], "interval": wilson(rates[1], len(total)),
        "pass_at": {str(k): rate for k, rate in rates.items()},
        "seconds": round(sum(one.seconds for one in mine), 1), "tokens": sum(one.tokens for one in mine),
    }  # fmt: skip


def report(results: Sequence[Result], tasks: Mapping[str, str], samples: int) -> dict[str, Any]:
    """The report: `models` to `all` and `kinds`, and `paired` where there are two models.

    Args:
        tasks: ids of the tasks answered, to their kinds of bug.
        samples: answers per task.
    """
    ks = sorted({1, *(2**power for power in range(1, samples.bit_length()) if 2**power <= samples), samples})
    by_model: dict[str, list[Result]] = {}
    for one in results:
        by_model.setdefault(one.model, []).append(one)
    kinds = sorted(set(tasks.values()))
    models = {
        model: {
            "all": summary(mine, list(tasks), ks),
            "kinds": {kind: summary(mine, [task for task, its in tasks.items() if its == kind], ks) for kind in kinds},
        }
        for model, mine in by_model.items()
    }
    return {"models": models} | ({"paired": _paired(by_model)} if {"model", "base"} <= by_model.keys() else {})


def _paired(by_model: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Tasks whose first answer only one of two models has right."""
    right = {
        name: {one.task for one in by_model[name] if one.status == "resolved" and one.sample == 0}
        for name in ("model", "base")
    }
    model, base = len(right["model"] - right["base"]), len(right["base"] - right["model"])
    return {"only_model": model, "only_base": base, "both": len(right["model"] & right["base"]),
            "p": sign_test(model, base)}  # fmt: skip
