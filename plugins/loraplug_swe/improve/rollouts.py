"""Rollouts: the tokens of a round's answers as they were drawn, with what the tests said as rewards."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from attrs import asdict, field, frozen

from loraplug import LoraplugError, wrap_os_errors
from loraplug_swe.evaluation.generator import Drawn
from loraplug_swe.evaluation.results import Result

GONE = "cannot be made ready any more"
"""The reason of a verdict that says nothing of the answer: the bug, which was ready once, is so no longer."""
_EPSILON = 1e-4  # added to the deviation, as trl does


class DrawnFile:
    """The tokens of answers, one a line of JSON, in step with the journal of their results.

    A line is written before its result is, so a kill may leave one without a result, at the end: it is taken off, as
    the answer is given again.

    Args:
        done: bug and sample of the answers that have results.
    """

    def __init__(self, path: Path, done: Collection[tuple[str, int]]) -> None:
        self._path, whole = path, 0
        with wrap_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
                if not line.endswith(b"\n") or _key(line, path) not in done:
                    break
                whole += len(line)
            self._file = path.open("ab")
            self._file.truncate(whole)

    def __enter__(self) -> DrawnFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, task: str, sample: int, drawn: Drawn) -> None:
        """Keep the tokens of an answer; they are in the file when this returns."""
        with wrap_os_errors(self._path):
            self._file.write(json.dumps({"task": task, "sample": sample, **asdict(drawn)}).encode() + b"\n")
            self._file.flush()


def read_drawn(path: Path) -> dict[tuple[str, int], Drawn]:
    """What such a file holds, by bug and sample; nothing where there is none."""
    found: dict[tuple[str, int], Drawn] = {}
    with wrap_os_errors(path):
        for line in path.read_bytes().splitlines() if path.exists() else ():
            one = json.loads(line)
            key = one.pop("task"), one.pop("sample")
            found[key] = Drawn(**one)
    return found


@frozen
class Rollouts:
    """Rollouts of a round, or of several.

    Attributes:
        rows: {prompt_ids, completion_ids, old_log_probs, advantage, group, reward, task_id}.
        counts: groups that are trained on; groups left out, as all their answers have the same reward; and answers left
            out that say nothing of the model.
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int] = field(factory=lambda: {"groups": 0, "groups alike": 0, "without a verdict": 0})

    def __add__(self, other: Rollouts) -> Rollouts:
        return Rollouts(
            [*self.rows, *other.rows], {name: count + other.counts[name] for name, count in self.counts.items()}
        )


def make_rollouts(
    number: int, results: Iterable[Result], drawn: Mapping[tuple[str, int], Drawn], scale: Literal["group", "none"]
) -> Rollouts:
    """The rollouts of a round, the same whatever the order of its results.

    All answers to a bug are a group. A reward is 1 where the tests of the sandbox confirmed the answer, and 0 where
    not: what is flagged or void earns nothing. An advantage is by how much a reward is above the mean of its group.

    Args:
        number: of the round.
        scale: whether advantages are divided by the standard deviation of their group's rewards (and 1e-4, as in trl).
    """
    made = Rollouts([])
    groups: dict[str, list[Result]] = {}
    for one in sorted(results, key=lambda one: (one.task, one.sample)):
        if (one.task, one.sample) not in drawn or one.reason == GONE:
            made.counts["without a verdict"] += 1
        else:
            groups.setdefault(one.task, []).append(one)
    for task, group in groups.items():
        rewards = [float(one.status == "resolved") for one in group]
        if len(set(rewards)) == 1:
            made.counts["groups alike"] += 1
            continue
        made.counts["groups"] += 1
        for one, reward, advantage in zip(group, rewards, advantages(rewards, scale), strict=True):
            tokens = drawn[task, one.sample]
            made.rows.append({
                "prompt_ids": list(tokens.prompt_ids), "completion_ids": list(tokens.completion_ids),
                "old_log_probs": list(tokens.log_probs), "advantage": advantage, "reward": reward,
                "group": f"round {number}, bug {task}", "task_id": f"round {number}, bug {task}, answer {one.sample}",
            })  # fmt: skip
    return made


def advantages(rewards: Sequence[float], scale: Literal["group", "none"]) -> list[float]:
    """Of the answers of one group, by their rewards, as trl computes them."""
    mean = fmean(rewards)
    by = stdev(rewards) + _EPSILON if scale == "group" else 1.0
    return [(reward - mean) / by for reward in rewards]


def _key(line: bytes, path: Path) -> tuple[str, int]:
    try:
        one = json.loads(line)
        return one["task"], one["sample"]
    except (ValueError, KeyError, TypeError) as error:
        todo = "begin anew with --fresh, which keeps what there is aside"
        raise LoraplugError(f"cannot be read ({error})", where=path, todo=todo) from None
