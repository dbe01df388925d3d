"""A run goes on, and a lock file is run, only with what it was begun with; what would be lost is kept aside."""

from __future__ import annotations

import json
import tomllib
from datetime import datetime
from pathlib import Path

import pytest
from attrs import evolve
from datasets import Dataset

from command import Cli
from loraplug import Encoded, LoraplugError, Run, published
from loraplug.pipeline.digests import (
    differing_rows,
    encoding_facts,
    first_difference,
    row_digests,
    template_facts,
    tokenizer_facts,
)
from loraplug.testing import CHAT_TEMPLATE, tiny_run, tiny_tokenizer

DATED = "{{ strftime_now('%d %b %Y %H:%M:%S') }}\n" + CHAT_TEMPLATE


@pytest.fixture
def dated(recipe: Path, tmp_path: Path) -> Path:
    """The recipe with a chat template of its own, which writes the date."""
    (tmp_path / "template.jinja").write_text(DATED)
    recipe.write_text(recipe.read_text().replace("[model]", '[model]\nchat_template = "template.jinja"'))
    return recipe


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# what is hashed


ROWS = {"input_ids": [[1, 2, 3], [4]], "labels": [[-100, 2, 3], [4]], "row": [["a"], ["b"]]}


def test_rows_are_told_apart_by_all_that_is_trained_on() -> None:
    """Ids, labels, weights, documents and names; not by the width of their integers or how they lie in memory."""
    from datasets import Features, Value
    from datasets import List as ListOf

    plain = row_digests(Dataset.from_dict(ROWS))
    narrow = Features(input_ids=ListOf(Value("int32")), labels=ListOf(Value("int16")), row=ListOf(Value("string")))
    assert row_digests(Dataset.from_dict(ROWS, features=narrow)) == plain
    twice = {key: [*values, *values] for key, values in ROWS.items()}
    assert row_digests(Dataset.from_dict(twice).select([2, 1])) == plain
    assert encoding_facts(plain)["rows"] == 2
    others = [{**ROWS, "input_ids": [[1, 2, 3], [5]]}, {**ROWS, "labels": [[-100, 2, 3], [-100]]},
              {**ROWS, "row": [["a"], ["c"]]}]  # fmt: skip
    for other in others:
        assert differing_rows(plain, row_digests(Dataset.from_dict(other))) == 1
    for more in ({"seq_lengths": [[3], [1]]}, {"token_weights": [[1.0, 1.0, 0.5], [1.0]]}):
        assert differing_rows(plain, row_digests(Dataset.from_dict({**ROWS, **more}))) == 2
    halved = Dataset.from_dict({**ROWS, "token_weights": [[1.0, 1.0, 0.5], [1.0]]})
    whole = Dataset.from_dict({**ROWS, "token_weights": [[1.0, 1.0, 1.0], [1.0]]})
    assert differing_rows(row_digests(halved), row_digests(whole)) == 1
    assert differing_rows(plain, plain[:16]) == 1
    assert row_digests(Dataset.from_dict({key: [*values, values[0]] for key, values in ROWS.items()}))[:32] == plain


def test_a_tokenizer_is_told_by_what_makes_ids() -> None:
    """A new token or another end token counts; what a call has set, and the template, do not."""
    plain = tokenizer_facts(tiny_tokenizer())
    used = tiny_tokenizer()
    used(["a", "a b c"], padding=True, truncation=True, max_length=2)
    used.chat_template = "x"
    assert tokenizer_facts(used) == plain
    grown = tiny_tokenizer()
    grown.add_tokens(["<|new|>"])
    ended = tiny_tokenizer()
    ended.eos_token = "<|endoftext|>"
    assert len({one["sha256"] for one in (plain, tokenizer_facts(grown), tokenizer_facts(ended))}) == 3


def test_what_differs_between_two_templates_is_shown() -> None:
    """The line, and the place in a long one."""
    assert first_difference("a\nb", "a\nc") == "line 2 was 'b', is 'c'"
    assert first_difference("a", "a\nb") == "line 2 was not there, is 'b'"
    assert "…" in first_difference("x" * 90 + "a", "x" * 90 + "b") and "'" in first_difference("x" * 90 + "a", "")
    assert template_facts("a") != template_facts("b")


# template, date, tokenizer, encoding


@pytest.mark.slow
def test_an_edited_template_is_refused_on_going_on_and_before_a_lock_is_run(
    dated: Path, inside: Cli, tmp_path: Path
) -> None:
    """With the line that differs, and again on the second try; the old one brought back is taken."""
    assert inside("run", dated, "--until", "formatter").returncode == 0
    edit(tmp_path / "template.jinja", "<|im_start|>", "<|im_start|>Speaker ")
    for _ in range(2):
        done = inside("run", dated)
        assert done.returncode == 2
        assert "tiny: the chat template has changed since this run began" in done.stderr
        assert "template.jinja: line 2 was " in done.stderr and "Speaker" in done.stderr
    edit(tmp_path / "template.jinja", "<|im_start|>Speaker ", "<|im_start|>")
    assert inside("run", dated).returncode == 0
    lock = tmp_path / "outputs/adapters/tiny/recipe.lock.toml"
    pinned = tomllib.loads(lock.read_text())["lock"]
    assert {"data", "validation", "base", "tokenizer", "template", "encoding", "date"} <= pinned.keys()
    edit(tmp_path / "template.jinja", "<|im_end|>", "<|im_end|> ")
    done = inside("run", lock, "--set", "run_name=again")
    assert done.returncode == 2
    assert (
        "the chat template differs from what this lock file was made with" in done.stderr
        and "line 3 was" in done.stderr
    )


@pytest.mark.slow
def test_the_date_of_the_beginning_is_given_to_the_template_again(
    dated: Path, inside: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on, and a lock that is run, on another day: the same rows, and the same adapter."""
    monkeypatch.setattr(
        "loraplug.app.Run", lambda *given, **more: Run(*given, **more, date=datetime(2024, 2, 29, 23, 59))
    )
    assert inside("run", dated, "--until", "formatter").returncode == 0
    monkeypatch.undo()
    seen = [row["tokens"] for row in json.loads(inside("preview", dated, "-n", "1", "--json").stdout)]
    assert "29 Feb 2024" not in "".join(token["text"] for token in seen[0])  # a new look is of today
    done = inside("run", dated)
    assert done.returncode == 0, done.stderr
    first = tmp_path / "outputs/adapters/tiny"
    assert json.loads((tmp_path / "outputs/runs/tiny/state.json").read_text())["date"] == "2024-02-29T23:59:00"
    again = inside("run", first / "recipe.lock.toml", "--set", "run_name=again")
    assert again.returncode == 0, again.stderr
    name = "adapter_model.safetensors"
    assert (first / name).read_bytes() == (tmp_path / "outputs/adapters/again" / name).read_bytes()
    # and it is the date that counts: without it the rows are others, which is told with their number
    lock = tmp_path / "undated.toml"
    lock.write_text((first / "recipe.lock.toml").read_text().replace('date = "2024-02-29T23:59:00"\n', ""))
    other = inside("run", lock, "--set", "run_name=other")
    assert other.returncode == 2
    assert "12 of 12 rows are encoded differently" in other.stderr and "--accept-encoding" in other.stderr
    accepted = inside("run", lock, "--set", "run_name=other", "--accept-encoding")
    assert accepted.returncode == 0, accepted.stderr
    assert "12 of 12 rows are encoded differently" in accepted.stderr
    assert inside("run", lock, "--set", "run_name=other").returncode == 0  # what was accepted at the beginning holds


@pytest.mark.slow
def test_another_encoding_by_another_version_is_told_with_the_rows_that_differ(
    recipe: Path, inside: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update in which the mask of a few rows is mended."""
    assert inside("run", recipe).returncode == 0
    lock = tmp_path / "outputs/runs/tiny/recipe.lock.toml"
    edit(lock, 'loraplug = "0.1.0"', 'loraplug = "0.0.9"')
    from loraplug_chat.formatter import ChatTemplate

    real = ChatTemplate.encode

    def mended(self: ChatTemplate, rows: Dataset, tokenizer: object, run: Run, schema: str = "tokens") -> Encoded:
        made = real(self, rows, tokenizer, run, schema)  # type: ignore[arg-type]
        untrained = made.dataset.map(
            lambda row, at: {"labels": [-100] * len(row["labels"]) if at < 2 else row["labels"]}, with_indices=True
        )
        return evolve(made, dataset=untrained)

    monkeypatch.setattr(ChatTemplate, "encode", mended)
    done = inside("run", lock, "--set", "run_name=again")
    assert done.returncode == 2
    assert "4 of 12 rows are encoded differently (loraplug 0.0.9 then, 0.1.0 now) than when this lock" in done.stderr
    assert not (tmp_path / "outputs/adapters/again").exists()


# mend and run again


@pytest.mark.slow
def test_a_run_that_failed_with_nothing_to_keep_is_begun_anew(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """Whatever is mended, recipe or data: no --fresh."""
    short = ["--set", "formatter.max_length=8", "--set", "formatter.overlong=drop"]
    failed = inside("run", recipe, *short)
    assert failed.returncode == 2, failed.stderr
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("what is", "say what"))
    assert inside("run", recipe, *short).returncode == 2
    done = inside("run", recipe, "--until", "formatter")
    assert done.returncode == 0, done.stderr
    assert "had made nothing yet: starting over (different: formatter.max_length, formatter.overlong)" in done.stderr
    assert not list((tmp_path / "outputs/runs").glob("*.before-*"))


@pytest.mark.slow
def test_what_would_be_lost_is_named_and_fresh_keeps_it_aside(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """More steps on a finished run name the way on; --fresh deletes nothing, nor what was in the way."""
    assert inside("run", recipe).returncode == 0
    adapter = tmp_path / "outputs/runs/tiny/adapter/adapter_model.safetensors"
    old = adapter.read_bytes()
    more = inside("run", recipe, "--set", "trainer.max_steps=6")
    assert more.returncode == 2
    assert "it has a trained adapter and " in more.stderr
    way = "--set run_name=tiny-more --set trainer.lora.start_from=outputs/runs/tiny/adapter"
    assert way in more.stderr
    assert "start_from" not in inside("run", recipe, "--set", "trainer.lora.r=2").stderr
    merged = tmp_path / "outputs/merged/tiny"
    gone = json.loads((tmp_path / "outputs/runs/tiny/state.json").read_text())
    del gone["artefacts"][str(merged)]
    (tmp_path / "outputs/runs/tiny/state.json").write_text(json.dumps(gone))
    fresh = inside("run", recipe, "--set", "trainer.max_steps=6", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    (aside,) = (tmp_path / "outputs/runs").glob("tiny.before-*")
    assert f"moved the earlier run of this name to {aside}" in fresh.stderr
    assert (aside / "adapter/adapter_model.safetensors").read_bytes() == old != adapter.read_bytes()
    assert (aside / "state.json").exists() and (aside / "events.jsonl").exists()
    (foreign,) = (tmp_path / "outputs/merged").glob("tiny.before-*")
    assert (foreign / "model.safetensors").exists() and (merged / "model.safetensors").exists()
    went_on = inside("run", recipe, *way.split(), "--set", "trainer.max_steps=2")
    assert went_on.returncode == 0, went_on.stderr


@pytest.mark.slow
def test_fresh_is_refused_while_another_run_holds_the_name(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """Nothing is moved."""
    from loraplug import exclusive_lock

    assert inside("run", recipe, "--until", "dataset").returncode == 0
    folder = tmp_path / "outputs/runs/tiny"
    before = sorted(path.name for path in folder.iterdir())
    with exclusive_lock(folder, "tiny"):
        done = inside("run", recipe, "--fresh")
    assert done.returncode == 2 and "another run of this name is in progress" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.slow
def test_other_options_of_an_exporter_make_its_artefact_again_and_no_other(
    recipe: Path, inside: Cli, tmp_path: Path
) -> None:
    """On a finished run; nothing is trained."""
    assert inside("run", recipe).returncode == 0
    adapter, merged = (tmp_path / "outputs" / kind / "tiny/README.md" for kind in ("adapters", "merged"))
    times = [path.stat().st_mtime_ns for path in (adapter, merged)]
    assert json.loads((merged.parent / "loraplug.json").read_text())["proof"]
    done = inside("run", recipe, "--set", "exporter.1.verify=false")
    assert done.returncode == 0, done.stderr
    assert "exported again, as its options have changed (verify)" in done.stderr
    assert json.loads((merged.parent / "loraplug.json").read_text())["proof"] is None
    assert adapter.stat().st_mtime_ns == times[0] and merged.stat().st_mtime_ns != times[1]
    assert "exported again" not in inside("run", recipe, "--set", "exporter.1.verify=false").stderr


def test_two_exporters_with_one_place_are_refused(recipe: Path, inside: Cli) -> None:
    """By `recipe check` too; with places of their own they are two."""
    twice = ["--set", 'exporter+={use = "merged", verify = false}']
    done = inside("recipe", "check", recipe, *twice)
    assert done.returncode == 2
    assert "exporter[2]: would overwrite exporter[1] at outputs/merged/tiny" in done.stderr
    assert inside("recipe", "check", recipe, *twice, "--set", "exporter.2.out=other").returncode == 0


def test_a_broken_state_is_told_and_kept_aside(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """In one block, with what to do."""
    folder = tmp_path / "outputs/runs/tiny"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{")
    done = inside("run", recipe, "--until", "dataset")
    assert done.returncode == 2 and "state.json: is broken" in done.stderr and "--fresh" in done.stderr
    assert inside("run", recipe, "--until", "dataset", "--fresh").returncode == 0


# what is published


def test_only_published_files_are_remembered(tmp_path: Path) -> None:
    """By name, also in another process and after the outputs were moved; bad names and clashes are refused."""
    run = tiny_run(tmp_path)
    (run.folder / "deep").mkdir(parents=True)
    for name in ("table.csv", "deep/notes.md", "rejects.jsonl"):
        (run.folder / name).write_text(name)
    run.publish(run.folder / "table.csv")
    run.publish(run.folder / "deep/notes.md", "training-notes.md")
    run.publish(run.folder / "table.csv")
    assert published(run.folder) == {
        "table.csv": run.folder / "table.csv",
        "training-notes.md": run.folder / "deep/notes.md",
    }
    moved = run.folder.rename(tmp_path / "moved")
    assert published(moved)["training-notes.md"].read_text() == "deep/notes.md"
    moved.rename(run.folder)
    with pytest.raises(LoraplugError, match="already published"):
        run.publish(run.folder / "rejects.jsonl", "table.csv")
    with pytest.raises(LoraplugError, match="does not exist"):
        run.publish(run.folder / "nothing")
    for name in ("../x", "a/b", ".hidden", "README.md", "adapter_model.safetensors", "model-00001.safetensors", ""):
        if name:
            with pytest.raises(LoraplugError, match="is not a valid name for a published file"):
                run.publish(run.folder / "rejects.jsonl", name)
    (run.folder / "table.csv").unlink()
    assert published(run.folder).keys() == {"training-notes.md"}
    assert published(tmp_path / "nowhere") == {}


@pytest.mark.slow
def test_what_nobody_published_stays_in_the_runs_folder(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """Rejects, notes and the like; what was published by an earlier start goes along."""
    assert inside("run", recipe, "--until", "trainer").returncode == 0
    folder = tmp_path / "outputs/runs/tiny"
    (folder / "rejects.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text("private")
    assert inside("run", recipe).returncode == 0
    names = {path.name for path in (tmp_path / "outputs/adapters/tiny").iterdir()}
    assert {"recipe.lock.toml", "metrics.jsonl", "loss.svg", "loss.png"} <= names
    assert not {"rejects.jsonl", "notes.txt", "encoded.digests", "published.json", "state.json"} & names


@pytest.mark.slow
def test_files_that_nobody_here_knows_are_never_removed(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """Begun anew, but what a plugin or a user has put into the run's folder is moved aside."""
    assert inside("run", recipe, "--until", "formatter").returncode == 0
    (tmp_path / "outputs/runs/tiny/weeks.txt").write_text("of work")
    done = inside("run", recipe, "--until", "formatter", "--set", "formatter.max_length=128")
    assert done.returncode == 0, done.stderr
    (aside,) = (tmp_path / "outputs/runs").glob("tiny.before-*")
    assert (aside / "weeks.txt").read_text() == "of work" and str(aside) in done.stderr


def test_a_lock_that_is_no_table_is_refused(recipe: Path, inside: Cli) -> None:
    """In words, as all other problems."""
    done = inside("recipe", "check", recipe, "--set", "lock=3")
    assert done.returncode == 2 and "lock: expected a table" in done.stderr
