"""Several data sets: exact shares, the same again from seed and data, each watched by itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from command import Cli
from loraplug import App, Encoded, InputError, Mix, as_table, load_registry
from loraplug.data.mixture import alike, mixed
from loraplug.testing import tiny_run

SETS = """
[[dataset]]
use = "jsonl"
path = "rows.jsonl"
name = "bugs"
share = 3
[[dataset]]
use = "jsonl"
path = "chat.jsonl"
name = "chat"
share = 1
[dataset.formatter]
max_length = 200
[[dataset.transform]]
use = "select"
where = "len(messages) == 2"
[[dataset]]
use = "jsonl"
path = "chat.jsonl"
name = "watch"
share = 0
limit = 2
[mix]
how = "interleave"
exhausted = "stop"
unit = "tokens"
"""


@pytest.fixture
def several(recipe: Path) -> Path:
    """The tiny recipe with three sets in place of its one."""
    text = recipe.read_text()
    start, end = text.index("[dataset]"), text.index("[formatter]")
    recipe.write_text(text[:start] + SETS + text[end:])
    talks = (
        [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "so " * n}] for n in range(1, 21)
    )
    lines = [json.dumps({"messages": talk}) for talk in talks]
    (recipe.parent / "chat.jsonl").write_text("\n".join(lines))
    return recipe


def encoded(**lengths: list[int]) -> dict[str, Any]:
    from datasets import Dataset

    return {
        name: Encoded(Dataset.from_dict({
            "input_ids": [[1] * size for size in sizes], "labels": [[1] * size for size in sizes],
            "row": [[f"{name} {at}"] for at in range(len(sizes))],
        }))
        for name, sizes in lengths.items()
    }  # fmt: skip


def names(rows: Encoded) -> list[str]:
    return [row[0] for row in rows.dataset["row"]]


@pytest.mark.parametrize("how", ["concatenate", "interleave"])
@pytest.mark.parametrize(
    ("exhausted", "unit", "counts"),
    [
        ("stop", "rows", {"a": 30, "b": 10}),  # a is used up; b is sampled down
        ("repeat", "rows", {"a": 120, "b": 40}),  # b is whole; a is repeated
        ("stop", "tokens", {"a": 30, "b": 5}),  # rows of b are twice as long
        ("repeat", "tokens", {"a": 240, "b": 40}),
    ],
)
def test_shares_are_exact(how: Any, exhausted: Any, unit: Any, counts: dict[str, int], tmp_path: Path) -> None:
    """Of rows or tokens; no row is taken twice before every row of its set was taken once."""
    sets, run = encoded(a=[4] * 30, b=[8] * 40), tiny_run(tmp_path)
    rows, taken = mixed(sets, {"a": 3, "b": 1}, Mix(how, exhausted, unit), run)
    found = names(rows)
    assert Counter(name[0] for name in found) == counts
    assert {name: one.rows for name, one in taken.items()} == counts
    for name, of in (("a", 30), ("b", 40)):
        times = Counter(Counter(one for one in found if one[0] == name).values())
        assert max(times) - min(times) <= 1 if sum(times.values()) == of else set(times) == {1}
    again, _ = mixed(sets, {"a": 3, "b": 1}, Mix(how, exhausted, unit), run)
    assert names(again) == found


def test_interleaved_shares_hold_at_every_moment(tmp_path: Path) -> None:
    """Whatever part of the rows is looked at from the start, no set is more than a row off."""
    sets = encoded(a=[3, 9, 5] * 40, b=[20] * 30, c=[7] * 50)
    rows, taken = mixed(sets, {"a": 0.5, "b": 0.3, "c": 0.2}, Mix("interleave", "repeat", "tokens"), tiny_run(tmp_path))
    assert set(rows.dataset["set"]) == {"a", "b", "c"}
    given, total = Counter[str](), sum(one.amount for one in taken.values())
    for name, ids in zip(rows.dataset["set"], rows.dataset["input_ids"], strict=True):
        given[name] += len(ids)
        done = sum(given.values())
        for part, one in taken.items():
            assert abs(given[part] - done * one.amount / total) <= 40
    for part, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs(taken[part].amount / total - share) < 0.01


def test_without_shares_all_rows_are_taken_once(tmp_path: Path) -> None:
    """One set after the other."""
    rows, _ = mixed(encoded(a=[1, 1], b=[2]), {"a": None, "b": None}, Mix(), tiny_run(tmp_path))
    assert names(rows) == ["a 0", "a 1", "b 0"]


def test_what_is_repeated_often_is_warned_of(tmp_path: Path) -> None:
    """And told with how often."""
    run = tiny_run(tmp_path)
    mixed(encoded(a=[1], b=[1] * 60), {"a": 1, "b": 1}, Mix("interleave", "repeat", "rows"), run)
    assert "the set a is repeated 60.0 times" in run.reporter.warnings[0]


def test_what_one_set_lacks_is_what_it_is_without() -> None:
    """Packed and weighted rows beside those that are neither; other columns are refused."""
    sets = encoded(a=[2, 3], b=[4])
    rows = sets["a"].dataset.add_column("seq_lengths", [[1, 1], [3]])
    rows = rows.add_column("token_weights", [[0.5, 1.0], [1.0] * 3])
    made = alike(sets | {"a": Encoded(rows)})
    assert made["b"].dataset["seq_lengths"][:] == [[4]]
    assert made["b"].dataset["token_weights"][:] == [None]
    sets["a"] = Encoded(rows.add_column("odd", [1, 2]))
    with pytest.raises(InputError, match="a has odd, b does not"):
        alike(sets)


def test_every_epoch_keeps_the_sequence_of_sets() -> None:
    """The trainer draws which row of its set stands at each place."""
    from loraplug_train.engine.schedule import build_schedule

    sets = ["a", "b", "a", "a"] * 10
    plan = build_schedule([1] * 40, 7, 2, batch_size=4, sets=sets)
    for first, last in ((0, 10), (10, 20)):
        rows = [row for step in plan.steps[first:last] for row in step]
        assert [sets[row] for row in rows] == sets
        assert sorted(rows) == list(range(40))
    assert plan.steps[:10] != plan.steps[10:]


def test_a_run_mixes_and_tells_losses_by_set(inside: Cli, several: Path, tmp_path: Path) -> None:
    """Before and after, on the way, in figures and metrics; the lock file does it again, and a finished run stays."""
    done = inside("run", several)
    assert done.returncode == 0, done.stderr
    assert "chat: validation: 3 of 20 rows held out" in done.stderr
    state = json.loads((tmp_path / "outputs/runs/tiny/state.json").read_text())
    figures = state["figures"]
    for name in ("bugs", "chat", "watch"):
        assert f"validation_loss_before/{name}" in figures
        assert f"validation_loss_after/{name}" in figures
        assert f"    {name} " in done.stdout
    assert state["data"]["rows"] == 12 + 20 + 2
    lock = tmp_path / "outputs/adapters/tiny/recipe.lock.toml"
    again = inside("run", lock, "--set", "run_name=again")
    assert again.returncode == 0, again.stderr
    made = tmp_path / "outputs/adapters"
    adapters = {(made / name / "adapter_model.safetensors").read_bytes() for name in ("tiny", "again")}
    assert len(adapters) == 1


def test_the_recipe_tells_all_of_its_sets(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--set` reaches one by its name; each has the formatter of the recipe but for what it says otherwise."""
    monkeypatch.chdir(several.parent)
    recipe = App().read_recipe(several, ("dataset.chat.limit=5", "dataset.0.share=2"))
    assert [(one.name, one.share, one.watched) for one in recipe.sets] == [
        ("bugs", 2.0, False), ("chat", 1.0, False), ("watch", 0.0, True),
    ]  # fmt: skip
    assert [one.formatter.max_length for one in recipe.sets] == [256, 200, 256]
    assert recipe.sets[1].source.limit == 5
    table = as_table(recipe, load_registry())
    assert table["dataset"][1]["formatter"]["max_length"] == 200
    assert "formatter" not in table["dataset"][0]
    assert table["mix"]["how"] == "interleave"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("dataset.bugs.share=0", "dataset.chat.share=0"), "dataset: every share is 0"),
        (("dataset.chat.name=bugs",), 'dataset[1].name: "bugs" is also the name of dataset[0]'),
        (("dataset.chat.name=a.b",), "dataset[1].name: 'a.b' cannot name a set"),
        (("dataset.chat.share=-1",), "dataset[1].share: expected float"),
        (("dataset.chat.pth=x",), "dataset[1].pth: unknown key"),
        (("dataset.chat.shar=1",), "dataset[1].shar: unknown key (did you mean share?)"),
        (("dataset.chat.formatter.max_lenght=1",), "dataset[1].formatter.max_lenght: unknown key"),
        (("dataset.chta.path=x",), 'none has the name "chta"'),
        (('mix={how="interleave"}',), "mix.exhausted: missing key"),
        (('mix={how="interleave"}',), "mix.unit: missing key"),
        (("validation.rows=0", ), "validation.rows"),
        (('validation={path="x.jsonl"}',), "validation.path: is ambiguous with several sets"),
        (('dataset={use="jsonl", path="rows.jsonl"}',), "mix: there is only one [dataset]"),
    ],
)  # fmt: skip
def test_bad_sets_are_told_with_the_recipe(
    settings: tuple[str, ...], told: str, several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read."""
    monkeypatch.chdir(several.parent)
    with pytest.raises(InputError) as caught:
        App().read_recipe(several, settings)
    assert told in str(caught.value)


def test_a_set_that_comes_to_nothing_is_named(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the counts; so is one whose columns its formatter cannot take."""
    monkeypatch.chdir(several.parent)
    pipeline = App().pipeline(several, ('dataset.chat.transform.0.where="len(messages) > 9"',))
    with pytest.raises(InputError) as caught:
        pipeline.load_sets()
    assert 'dataset[1].transform[0] select (set "chat"): kept none of 20 rows' in str(caught.value)
    (several.parent / "odd.jsonl").write_text('{"speech": 1}\n')
    pipeline = App().pipeline(several, ('dataset.watch.path="odd.jsonl"', "dataset.watch.limit=1"))
    with pytest.raises(InputError) as caught:
        pipeline.load_sets()
    assert 'set "watch"' in str(caught.value)
    assert "speech" in str(caught.value)


def test_plan_and_preview_tell_of_every_set(inside: Cli, several: Path) -> None:
    """Rows, tokens and what was taken by set, what transforms took, overlaps; rows before and after transforms."""
    short = 'dataset.chat.transform.0.where="len(messages[1].content) > 9"'
    done = inside("plan", several, "--no-measure", "--json", "--set", short)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert {name: one["rows"] for name, one in made["sets"].items()} == {"bugs": 12, "chat": 17, "watch": 2}
    assert "train" not in made["sets"]["watch"]
    assert made["sets"]["chat"]["validation"]["rows"] == 3
    assert made["mix"]["tokens"] == sum(one["mix"]["amount"] for one in made["sets"].values() if "mix" in one)
    (took,) = made["transforms"]
    assert (took["place"], took["rows"], took["left"]) == ("dataset[1]", 20, 17)
    assert list(took["reasons"].values()) == [3]
    places = {(one["of"], one["in"]) for one in made["near_duplicates"]}
    assert {("bugs", "bugs"), ("chat", "bugs"), ("validation rows of watch", "chat")} <= places
    shown = inside("plan", several, "--no-measure").stdout
    assert "in the mixture" in shown
    assert "mixture (interleave, stop, tokens)" in shown
    counts = []
    for stage in ("dataset", "transform"):
        done = inside("preview", several, "--stage", stage, "--dataset", "chat", "-n", "99", "--json", "--set", short)
        counts.append(len(json.loads(done.stdout)))
    assert counts == [20, 17]
    assert "choose one with --dataset: bugs, chat, watch" in inside("preview", several).stderr
