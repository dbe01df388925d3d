"""Rollouts of a round: tokens kept in step with results, rewards by the verdict, advantages as trl has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraplug import LoraplugError
from loraplug_swe.evaluation.generator import Drawn
from loraplug_swe.evaluation.results import Result
from loraplug_swe.improve.rollouts import GONE, DrawnFile, advantages, make_rollouts, read_drawn


def result(task: str, sample: int, status: str, reason: str = "") -> Result:
    """A result of an answer."""
    return Result(model="model", task=task, sample=sample, kind="k", answer="a", finish="stop", prompt_tokens=1,
                  tokens=1, seconds=0.1, status=status, reason=reason)  # type: ignore[arg-type] # fmt: skip


def tokens(sample: int) -> Drawn:
    """The tokens of an answer."""
    return Drawn([5, 6], [7, 10 + sample], [-0.1, -1.0 / 3 - sample])


def test_advantages_are_those_of_trl() -> None:
    """By its own way of deviation, and without it."""
    torch = pytest.importorskip("torch")
    from trl.trainer.utils import nanstd

    for rewards in ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0], [1.0, 1.0, 0.0]):
        given = torch.tensor([rewards], dtype=torch.float64)
        away = given - given.mean(dim=1, keepdim=True)
        assert advantages(rewards, "none") == pytest.approx(away[0].tolist())
        theirs = away / (nanstd(given.clone(), dim=1) + 1e-4)[:, None]
        assert advantages(rewards, "group") == pytest.approx(theirs[0].tolist(), rel=1e-6)


def test_only_what_the_tests_confirmed_is_rewarded() -> None:
    """Flagged and void answers earn nothing; groups alike, and answers that could not be judged, are counted."""
    statuses = ["resolved", "applied", "invalid", "flagged", "void"]
    results = [result("mixed", at, status) for at, status in enumerate(statuses)]
    results += [result("mixed", 5, "void", GONE), result("mixed", 6, "invalid", "prompt-too-long")]
    results += [result(task, at, status) for task, status in (("solved", "resolved"), ("not", "flagged"))
                for at in range(2)]  # fmt: skip
    drawn = {(one.task, one.sample): tokens(one.sample) for one in results if one.reason != "prompt-too-long"}
    made = make_rollouts(3, results, drawn, "group")
    assert [row["reward"] for row in made.rows] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert made.rows[0]["advantage"] > 0 > made.rows[1]["advantage"] == made.rows[4]["advantage"]
    assert made.counts == {"groups": 1, "groups alike": 2, "without a verdict": 2}
    assert {row["group"] for row in made.rows} == {"round 3, bug mixed"}
    assert made.rows[1]["completion_ids"] == [7, 11] and made.rows[1]["old_log_probs"] == [-0.1, -1.0 / 3 - 1]
    assert make_rollouts(3, reversed(results), drawn, "group") == made
    both = made + make_rollouts(4, results[:2], drawn, "none")
    assert len(both.rows) == 7 and both.counts["groups"] == 2 and both.rows[-1]["advantage"] == -0.5
    assert len({row["task_id"] for row in both.rows}) == 7


def test_tokens_are_kept_in_step_with_the_results(tmp_path: Path) -> None:
    """A line that has no result yet, or was cut by a kill, is taken off; what is read is what was written, exactly."""
    path = tmp_path / "drawn.jsonl"
    with DrawnFile(path, ()) as file:
        for sample in range(3):
            file.add("a", sample, tokens(sample))
    whole = path.read_bytes()
    assert read_drawn(path) == {("a", sample): tokens(sample) for sample in range(3)}
    with DrawnFile(path, {("a", 0), ("a", 1)}) as file:  # killed between tokens and result
        file.add("a", 2, tokens(2))
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-9])  # killed while the line was written
    with DrawnFile(path, {("a", 0), ("a", 1)}) as file:
        file.add("a", 2, tokens(2))
    assert path.read_bytes() == whole
    assert read_drawn(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize("line", [b"{}\n", b"nothing\n", b"3\n"])
def test_a_file_that_is_broken_is_told(line: bytes, tmp_path: Path) -> None:
    """With its name, and what to do."""
    path = tmp_path / "drawn.jsonl"
    path.write_bytes(line)
    with pytest.raises(LoraplugError, match=r"drawn\.jsonl: cannot be read"):
        DrawnFile(path, {("a", 0)})
