"""What a round asks about and what it makes rows of, without model and tests."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraplug import InputError, load_registry
from loraplug_swe.evaluation.results import Result
from loraplug_swe.improve.curriculum import Rate, Record, choose
from loraplug_swe.improve.options import Ask, Improve, Rows
from loraplug_swe.improve.rounds import Comparison
from loraplug_swe.improve.rows import make_rows
from loraplug_swe.improve.teaching import settled, taught

POOL = {f"{kind}{number}": kind for kind in ("easy", "hard", "mid") for number in range(20)}


def result(task: str, sample: int, status: str, **more: Any) -> Result:
    """A result with an answer of its own."""
    told = {
        "answer": f"answer {sample}",
        "diff": f"diff {sample}",
        "finish": "stop",
        "kind": POOL.get(task, "k"),
    } | more
    return Result(model="model", task=task, sample=sample, prompt_tokens=1, tokens=1, seconds=0.1,
                  status=status, **told)  # type: ignore[arg-type] # fmt: skip


def test_solved_bugs_make_room_and_unsolved_kinds_get_more() -> None:
    """Of kinds as large, the one never solved gets most, the one nearly always solved least; what is solved is left."""
    record = Record()
    first = choose(POOL, record, 30, 0.9, "s")
    assert {kind: sum(POOL[name] == kind for name in first) for kind in ("easy", "mid", "hard")} == dict.fromkeys(
        ("easy", "mid", "hard"), 10
    )
    passes = {"easy": 4, "mid": 2, "hard": 0}
    record.add(
        result(name, at, "resolved" if at < passes[POOL[name]] else "applied") for name in first for at in range(4)
    )
    assert record.kinds["mid"] == Rate(40, 20) and record.latest[first[0]].answers == 4
    second = choose(POOL, record, 30, 0.9, "s")
    counts = {kind: sum(POOL[name] == kind for name in second) for kind in ("easy", "mid", "hard")}
    assert counts["hard"] > counts["mid"] > counts["easy"] > 0 and len(second) == 30
    solved = {name for name in first if POOL[name] == "easy"}
    assert not solved & set(second)
    fresh = [name for name in second if POOL[name] == "mid" and name not in first]
    assert len(fresh) == min(10, counts["mid"])  # what was never asked comes first


@given(st.integers(1, 80), st.lists(st.tuples(st.sampled_from(sorted(POOL)), st.booleans()), max_size=60), st.data())
def test_a_choice_is_whole_and_the_same_again(count: int, told: list[tuple[str, bool]], data: st.DataObject) -> None:
    """As many as are wanted or left, each once, in the pool's order, none that is unfit or solved; same seed, same."""
    record = Record()
    record.add(result(name, 0, "resolved" if right else "invalid") for name, right in told)
    unfit = data.draw(st.sets(st.sampled_from(sorted(POOL)), max_size=20))
    chosen = choose(POOL, record, count, 0.9, "s", unfit)
    left = [name for name in POOL if name not in unfit and record.latest.get(name, Rate()).share <= 0.9]
    assert len(chosen) == min(count, len(left)) and set(chosen) <= set(left)
    assert chosen == [name for name in POOL if name in set(chosen)] == choose(POOL, record, count, 0.9, "s", unfit)


def row(name: str) -> dict[str, Any]:
    """A training row of a bug."""
    return {"instruction": f"fix {name}", "response": "gold\n", "task_id": name, "group": ["repo", name]}


def test_rows_and_pairs_are_made_of_what_passed() -> None:
    """Each change once, at most two of a bug; flagged, void, lenient and cut-off answers earn nothing."""
    results = [
        result("a", 0, "applied"), result("a", 1, "resolved"), result("a", 2, "resolved", diff="diff 1"),
        result("a", 3, "resolved"), result("a", 4, "resolved"), result("a", 5, "resolved", exact=False),
        result("a", 6, "resolved", finish="length"), result("a", 7, "flagged"), result("a", 8, "void"),
        result("b", 0, "invalid"), result("b", 1, "applied"), result("b", 2, "invalid", answer=""),
        result("c", 0, "flagged"), result("d", 0, "resolved", exact=False), result("d", 1, "applied"),
    ]  # fmt: skip
    told = {name: row(name) for name in "abcde"}
    made = make_rows(results, told, Rows())
    assert [(one["task_id"], one["response"]) for one in made.answers] == [("a", "answer 1\n"), ("a", "answer 3\n")]
    assert [one["task_id"] for one in made.gold] == ["b", "c"]
    assert made.counts == {"passed": 7, "cut off or lenient": 3, "like another": 1, "more than per_bug": 1}
    pairs = [(one["task_id"], one["chosen"][0]["content"], one["rejected"][0]["content"]) for one in made.pairs]
    assert pairs == [("a", "answer 1\n", "answer 0"), ("b", "gold\n", "answer 0"), ("b", "gold\n", "answer 1")]
    without = make_rows(results, told, Rows(gold="never"))
    assert without.gold == [] and [one["task_id"] for one in without.pairs] == ["a"]
    mixed = list(results)
    random.Random(3).shuffle(mixed)
    assert make_rows(mixed, told, Rows()) == made


def test_a_round_is_kept_by_the_sign_test() -> None:
    """More gained than lost, and not by chance alone; bugs that only one model was asked about do not count."""
    before = [result(name, 0, "resolved" if name in "ab" else "applied") for name in "abcdefgh"]
    after = [result(name, 0, "resolved" if name in "acdef" else "applied") for name in "abcdefx"]
    found = Comparison.of(before, after)
    assert (found.gained, found.lost, found.both) == (("c", "d", "e", "f"), ("b",), 1)
    assert found.p == 0.375 and found.keeps(0.5) and not found.keeps(0.1)
    assert not Comparison.of(after, before).keeps(1.0) and not Comparison.of(before, before).keeps(1.0)


def trainer(name: str) -> Any:
    """A trainer by its name, with its defaults."""
    return load_registry().find("trainer", name)()


def test_what_a_trainer_is_taught_follows_from_the_rows_it_takes() -> None:
    """By their schema; kto is refused, as no round makes its rows."""
    kinds = {name: taught(trainer(name)) for name in ("sft", "dpo", "simpo", "grpo")}
    assert kinds == {"sft": "answers", "dpo": "preferences", "simpo": "preferences", "grpo": "rollouts"}
    with pytest.raises(InputError, match="the trainer kto takes labelled rows, which the rounds do not make"):
        taught(trainer("kto"))


def test_what_is_not_set_follows_from_the_trainer() -> None:
    """Replay only of what can be trained on; rollouts are drawn from the model as it is. Contradictions all at once."""
    found = {name: settled(Improve(), trainer(name)) for name in ("sft", "dpo", "grpo")}
    assert [(one.ask.temperature, one.rows.replay) for one in found.values()] == [(0.8, 0.5), (0.8, 0.0), (1.0, 0.0)]
    assert settled(Improve(ask=Ask(temperature=0.5), rows=Rows(replay=0.0)), trainer("sft")).rows.replay == 0.0
    with pytest.raises(InputError) as error:
        settled(Improve(ask=Ask(temperature=0.8, top_p=0.9, samples=1), rows=Rows(replay=0.5)), trainer("grpo"))
    for key in ("rows.replay", "ask.temperature", "ask.top_p", "ask.samples"):
        assert f"improve.{key}: " in str(error.value)
