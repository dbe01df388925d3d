"""What mix promises."""

import json
from pathlib import Path

import loraplug_mix
import pytest
from loraplug_mix import MixSource

from loraplug import InputError, load_registry
from loraplug.testing import from_table, make_registry, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms


def table(folder: Path, **more: object) -> dict[str, object]:
    """A mix of 100 rows and of 300."""
    for name, count in (("few", 100), ("many", 300)):
        rows = [{"prompt": f"{name} {n}", "completion": str(n)} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = [{"use": "jsonl", "path": str(folder / f"{name}.jsonl")} for name in ("few", "many")]
    return {"sources": sources, **more}


def mix(folder: Path, **more: object) -> MixSource:
    """The source that such a table makes."""
    made, problems = from_table(MixSource, table(folder, **more))
    assert made is not None, problems
    return made


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "mix"`."""
    assert make_registry(loraplug_mix).find("dataset", "mix") is MixSource


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a dataset source."""
    assert_conforms(mix(tmp_path), tmp_path / "checks")


def test_shares_are_kept(tmp_path: Path) -> None:
    """A source that comes three times as often gives about three times the rows, in its own order."""
    run = tiny_run(tmp_path)
    prompts = mix(tmp_path, shares=[0.25, 0.75]).load(run)["prompt"]
    few = [prompt for prompt in prompts if prompt.startswith("few")]
    assert few == [f"few {n}" for n in range(len(few))]
    assert 2 <= (len(prompts) - len(few)) / len(few) <= 5
    assert run.reporter.lines[-1].startswith(f"mix: {len(few)} of 100 rows of jsonl, ")


def test_every_problem_is_told_with_its_place() -> None:
    """No `use`, a source that is none, an unknown key: each where it stands."""
    sources: list[object] = [{"path": "x"}, {"use": "chat-template"}, {"use": "jsonl", "pth": "x"}]
    _, problems = from_table(MixSource, {"sources": sources, "share": 1}, load_registry())
    places = {problem.path for problem in problems}
    assert places == {
        "dataset.sources[0].use",
        "dataset.sources[1].use",
        "dataset.sources[2].path",
        "dataset.sources[2].pth",
        "dataset.share",
    }


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """They would be filled with nulls."""
    made = mix(tmp_path)
    (tmp_path / "many.jsonl").write_text('{"text": "no prompt"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="has the columns text, not prompt, completion"):
        made.load(tiny_run(tmp_path))
