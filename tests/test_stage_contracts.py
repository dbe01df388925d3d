"""What passes between stages: schemas of rows, models that are asked for, kinds of result, artefacts, processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen

from loraplug import (
    SCHEMAS,
    Artefact,
    Distributed,
    Encoded,
    ExportContext,
    Exporter,
    Formatter,
    InputError,
    Placement,
    Recipe,
    Trainer,
    TrainingResult,
    build,
    hookimpl,
    load_registry,
    row_lengths,
    token_sequences,
)
from loraplug.data.schemas import check_encoded
from loraplug.errors import RecipeError
from loraplug.pipeline.pipeline import Pipeline
from loraplug.plugin.contracts import IncompatibleError, check_class
from loraplug.recipe.layers import read_layers
from loraplug.testing import tiny_run, tiny_tokenizer


@frozen
class Pairs(Trainer):
    """Takes preferences, makes a whole model."""

    name = "pairs"
    consumes = "pairs"

    def makes(self) -> Any:
        """A whole model."""
        return "model"

    def train(self, run: Any, load_model: Any, tokenizer: Any, train: Any, validation: Any) -> Any:
        """Leave what it was given."""
        model = load_model(Placement(dtype="bfloat16", device="cpu"))
        out = run.folder / "model"
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return TrainingResult(out, {"rows": float(len(train.dataset)), "bits": 16.0 * (model.dtype.itemsize == 2)},
                              kind="model")  # fmt: skip


@frozen
class Sides(Formatter):
    """Makes preferences of questions and answers."""

    name = "sides"
    produces = frozenset({"pairs", "tokens"})

    def encode(self, rows: Any, tokenizer: Any, run: Any, schema: str = "tokens") -> Any:
        """The answer is chosen, its reverse rejected."""
        from datasets import Dataset

        made = []
        for row in rows:
            ids, other = tokenizer(row["response"])["input_ids"], tokenizer(row["response"][::-1] + "!")["input_ids"]
            sides = {"chosen_ids": ids, "chosen_labels": ids, "rejected_ids": other, "rejected_labels": other}
            made.append({"prompt_ids": tokenizer(row["instruction"])["input_ids"], **sides, "row": [row["task_id"]]})
        return Encoded(Dataset.from_list(made), schema, {"kept": len(made)})


@frozen
class Plain(Sides):
    """Makes tokens alone."""

    name = "plain"
    produces = frozenset({"tokens"})


@frozen
class Weigh(Exporter):
    """Writes how large what it was given is, and what was made before it."""

    name = "weigh"
    takes = frozenset({"model", "adapter"})
    needs = ("note",)

    def export(self, result: ExportContext, out: Path) -> Path:
        """Bytes of the weights."""
        size = sum(path.stat().st_size for path in result.adapter.glob("*.safetensors"))
        note = result.artefact("note")
        out.write_text(f"{result.kind} {size > 0} {note and note.read_text()}")
        return out


@frozen
class Note(Exporter):
    """Leaves a word."""

    name = "note"
    takes = frozenset({"model"})

    def export(self, result: ExportContext, out: Path) -> Path:
        """The word."""
        out.write_text("noted")
        return out


PLUGIN = SimpleNamespace(
    loraplug_trainers=hookimpl(lambda: [Pairs]),
    loraplug_formatters=hookimpl(lambda: [Sides, Plain]),
    loraplug_exporters=hookimpl(lambda: [Weigh, Note]),
)


@pytest.fixture
def built(recipe: Path) -> Callable[..., Recipe]:
    """The tiny recipe with these settings, read with the plugin of this module."""
    registry = load_registry(extra=[("stages", PLUGIN)])

    def made(*settings: str) -> Recipe:
        return build(read_layers(recipe, settings, environ=False), registry)

    return made


MODEL = ('trainer={ use = "pairs" }', 'formatter={ use = "sides" }')
ORDER = 'exporter=[{ use = "weigh" }, { use = "note" }]'


def test_stages_that_do_not_fit_are_problems_of_the_recipe(built: Callable[..., Recipe]) -> None:
    """All at once, at the table that would have to change."""
    with pytest.raises(RecipeError) as caught:
        built('trainer={ use = "pairs" }', 'formatter={ use = "plain" }')
    told = {problem.path: problem.message for problem in caught.value.problems}
    assert told["formatter.use"].startswith("plain makes rows of the schema tokens, and the trainer pairs takes")
    assert told["exporter[0].use"].startswith("adapter exports an adapter, but the trainer pairs makes a whole model")
    with pytest.raises(RecipeError, match=r'weigh needs the export of note; also add \[\[exporter\]\] use = "note"'):
        built(*MODEL, 'exporter=[{ use = "weigh" }]')


def test_one_process_is_all_that_most_trainers_know(
    built: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before the run; `sft` knows of several."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"trainer.use: pairs trains in one process, but 2 were launched"):
        built(*MODEL, ORDER)
    assert built().trainer.distributed
    assert Distributed.launched() == Distributed(0, 2)
    assert Distributed().broadcast("a") == "a"


def test_a_whole_model_comes_to_its_exporters_in_their_order(built: Callable[..., Recipe], tmp_path: Path) -> None:
    """Rows of the schema that the trainer takes, a model placed as it asked, and artefacts behind what they need."""
    recipe = built(*MODEL, ORDER)
    run = tiny_run(tmp_path)
    outcome = Pipeline(recipe, load_registry(extra=[("stages", PLUGIN)]), run).execute()
    assert outcome.figures == {"rows": 9.0, "bits": 16.0}
    assert (run.outputs / "weigh" / "tiny").read_text() == "model True noted"


def test_what_a_formatter_gives_is_held_to_what_it_was_asked_for() -> None:
    """Not `Encoded`, another schema, a column that lacks."""
    from datasets import Dataset

    rows = Dataset.from_list([{"input_ids": [1], "labels": [1], "row": ["a"]}])
    check_encoded(Encoded(rows), "tokens", "mine")
    for made, reason in ((rows, "not Encoded"), (Encoded(rows, "pairs"), "schema pairs, not tokens"),
                         (Encoded(rows.remove_columns("row")), "lacks the columns row")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            check_encoded(made, "tokens", "mine")


def test_what_a_model_reads_of_each_schema() -> None:
    """Documents of a packed row; both sides of a pair behind the prompt."""
    from datasets import Dataset

    packed = {"input_ids": [1, 2, 3], "labels": [1, -100, 3], "seq_lengths": [2, 1], "token_weights": [1.0, 0.0, 0.5]}
    first, second = token_sequences("tokens", packed)
    assert (first.input_ids, first.labels, second.weights) == ([1, 2], [1, -100], [0.5])
    assert (first.label_count, second.label_count) == (0, 0)
    pair = {"prompt_ids": [1], "chosen_ids": [2, 3], "chosen_labels": [2, -100], "rejected_ids": [4],
            "rejected_labels": [4], "row": ["a"]}  # fmt: skip
    chosen, rejected = token_sequences("pairs", pair)
    assert (chosen.input_ids, chosen.labels, rejected.input_ids) == ([1, 2, 3], [-100, 2, -100], [1, 4])
    assert row_lengths(Encoded(Dataset.from_list([pair]), "pairs")) == [5]
    assert row_lengths(Encoded(Dataset.from_list([packed | {"row": ["a"]}]))) == [3]
    with pytest.raises(NotImplementedError, match="'odd'"):
        token_sequences("odd", pair)
    assert {"tokens", "pairs", "labelled", "rollouts"} == set(SCHEMAS)


def test_columns_under_the_old_name_are_told() -> None:
    """`consumes` was a set of columns."""

    @frozen
    class Old(Pairs):
        name = "old"
        consumes = frozenset({"token_weights"})  # type: ignore[assignment]

    with pytest.raises(IncompatibleError, match='consumes must be one schema, such as "tokens"; names of columns go'):
        check_class(Old, "trainer")


def test_artefacts_are_found_by_exporter_and_options() -> None:
    """The last of several; none where no options fit."""
    made = [Artefact("gguf", Path("a"), {"type": "f16"}), Artefact("gguf", Path("b"), {"type": "q8_0"})]
    trained = ExportContext(tiny_run(Path("x")), Path("x"), Path("x"), "x", artefacts=made)
    assert trained.artefact("gguf") == Path("b")
    assert trained.artefact("gguf", type="f16") == Path("a")
    assert trained.artefact("gguf", type="q4_0") is None


def test_the_one_way_a_prompt_is_made(tmp_path: Path) -> None:
    """Through the template, with tools where it knows them; text of messages stays text."""
    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "<|im_end|> said"}]
    ids = Sides().encode_prompt(messages=messages, tokenizer=tokenizer, run=tiny_run(tmp_path))
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1
    tokenizer.chat_template = "{% if tools %}{{ tools[0]['name'] }} {% endif %}" + tokenizer.chat_template
    told = Sides().encode_prompt(messages, tokenizer, tiny_run(tmp_path), tools=[{"name": "bash"}])
    assert tokenizer.decode(told).startswith("bash ")


def test_conformance_knows_every_schema(tmp_path: Path) -> None:
    """A formatter of preferences is held to its columns; rows for trainers are sound, or without a label."""
    from loraplug_tools.plugins.conformance import CheckError
    from loraplug_tools.plugins.schemas import schemas_are_kept, training_rows

    for schema in SCHEMAS:
        rows = training_rows(schema)
        assert SCHEMAS[schema].columns.keys() <= set(rows.dataset.column_names)
        assert all(one.label_count for row in rows.dataset for one in token_sequences(schema, row))
    bare = training_rows("pairs", trained=False)
    assert not any(one.label_count for row in bare.dataset for one in token_sequences("pairs", row))
    with pytest.raises(CheckError, match="schema odd"):
        training_rows("odd")

    @frozen
    class Short(Sides):
        def encode(self, rows: Any, tokenizer: Any, run: Any, schema: str = "tokens") -> Any:
            if "instruction" not in rows.column_names:
                rows = rows.map(lambda row: {"instruction": str(row["prompt"]), "response": str(row["chosen"]),
                                             "task_id": "a"})  # fmt: skip
            return super().encode(rows, tokenizer, run, schema)

    schemas_are_kept(Short(), tmp_path / "sound")

    @frozen
    class Lacking(Short):
        def encode(self, rows: Any, tokenizer: Any, run: Any, schema: str = "tokens") -> Any:
            made = super().encode(rows, tokenizer, run, schema)
            return Encoded(made.dataset.remove_columns("rejected_labels"), schema)

    with pytest.raises(CheckError, match="pairs: lacks the columns rejected_labels"):
        schemas_are_kept(Lacking(), tmp_path / "lacking")
