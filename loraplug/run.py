"""The stages in order, what they leave in the run's folder, and how a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from loraplug import files, lock
from loraplug.components import Component, Sample, Trained, TrainingResult
from loraplug.context import Reporter, Run
from loraplug.errors import InputError
from loraplug.recipe import Recipe, Validation
from loraplug.registry import Registry
from loraplug.stages import observer, stage
from loraplug.validation import validation_source
from loraplug_rows.labels import check_labels
from loraplug_rows.split import split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OURS = ("state.json", "events.jsonl")
STAGES = ("dataset", "formatter", "model", "quantizer", "trainer", "exporter")


@attrs.frozen
class Outcome:
    """What a finished run has to show; `reached` is the last stage done."""

    reached: str
    figures: Mapping[str, float] = attrs.Factory(dict)
    samples: Sequence[Sample] = ()
    artefacts: Mapping[str, Path] = attrs.Factory(dict)


@attrs.define
class Pipeline:
    """One recipe on its way; `execute` does it all, the smaller methods serve commands that look before training."""

    recipe: Recipe
    registry: Registry
    run: Run
    met: bool = False

    def __attrs_post_init__(self) -> None:
        if not _rank():
            self.run = attrs.evolve(self.run, observe=observer(self.registry, self.run))
        else:  # of several processes that train together only the first speaks
            self.run = attrs.evolve(self.run, reporter=Reporter())

    def execute(self, until: str = "exporter", fresh: bool = False) -> Outcome:
        """Run the stages up to `until`, going on from what an earlier, killed run of this recipe left.

        Raises:
            InputError: the name is taken by another recipe or a running run; recipe, data or base cannot be used.
            LoraplugError: a stage failed.
        """
        if _rank():
            return self._assist()
        outcome = self._lead(until, fresh)
        if not self.met:
            self.recipe.trainer.meet(self.run, work=False)
        return outcome

    def _lead(self, until: str, fresh: bool) -> Outcome:
        with files.only_one(self.run.folder, self.run.name):
            if fresh:
                self._clear()
            state = self._state()
            self._check_places(state, fresh)
            if "figures" not in state:
                outcome = self._until_trained(state, STAGES.index(until))
                if outcome.reached != "trainer":
                    return outcome
            if until != "exporter":
                return self._outcome(state, "trainer")
            self._export(state)
            return self._outcome(state, "exporter")

    # the stages

    def load_rows(self) -> Dataset:
        """The rows of the dataset source; at least one."""
        with self._stage("dataset", self.recipe.dataset):
            rows = self.recipe.dataset.load(self.run)
            if len(rows) == 0:
                raise InputError("has no rows", where="dataset", todo="check the path and the filters in the recipe")
            self._check_labels(rows, "dataset")
            self.run.say(f"dataset: {len(rows)} rows, {self.recipe.formatter.recognise(rows.column_names)}")
            return rows

    def split_rows(self, rows: Dataset) -> tuple[Dataset, Dataset | None]:
        """Training and validation rows."""
        wanted = self.recipe.validation
        if wanted is None:
            return rows, None
        if wanted.path is None:
            return split(rows, wanted, self.run)
        held = self._held(wanted)
        self._check_labels(held, "validation")
        return rows, held

    def _held(self, wanted: Validation) -> Dataset:
        source = validation_source(self.recipe.dataset, wanted, self.registry)
        try:
            held = source.load(self.run)
            if len(held) == 0:
                raise InputError("has no rows", where="validation.path", todo="check that it is the right file")
            shape = self.recipe.formatter.recognise(held.column_names)
        except InputError as error:
            todo = [error.todo] if error.todo else []
            if wanted.rename is None and ("rename" in str(error.where) or error.where is None):
                todo.append("[validation] may have its own rename, {} for none, in place of that of [dataset]")
            where = error.where or f"validation.path, read by {source.name}"
            raise InputError(error.what, where=where, todo="; ".join(todo) or None) from None
        self.run.say(f"validation: {len(held)} rows, {shape}")
        return held

    def _check_labels(self, rows: Dataset, where: str) -> None:
        trainer = self.recipe.trainer
        check_labels(rows, trainer.consumes, where, f"the trainer {trainer.name}")

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Rows as token ids and labels."""
        with self._stage("formatter", self.recipe.formatter):
            encoded = self.recipe.formatter.encode(rows, tokenizer, self.run)
            if len(encoded) == 0:
                raise InputError("left no row to train on", where="formatter", todo="see `loraplug preview` for why")
            if "token_weights" in encoded.column_names and "token_weights" not in self.recipe.trainer.consumes:
                what = f"rows give tokens weights, which the trainer {self.recipe.trainer.name} does not heed"
                raise InputError(what, where="formatter", todo="take weights other than 0 and 1 out of the data")
            return encoded

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        with self._stage("model", self.recipe.model):
            return self.recipe.model.load_tokenizer(self.run)

    def _until_trained(self, state: dict[str, Any], last: int) -> Outcome:
        rows = self.load_rows()
        self._pin(state, "data", {"rows": len(rows), "sha256": files.hash_rows(rows)})
        if last == 0:
            return Outcome("dataset")
        train, held = self.split_rows(rows)
        if held is not None:
            self._pin(state, "validation", {"rows": len(held), "sha256": files.hash_rows(held)})
        tokenizer = self.load_tokenizer()
        encoded = self.encode(train, tokenizer)
        encoded_held = None if held is None else self.encode(held, tokenizer)
        if last == 1:
            return Outcome("formatter")
        recipe, run = self.recipe, self.run
        with self._stage("model", recipe.model):
            self._pin(state, "base", {"sha256": files.hash_weights(recipe.model.base(run))})
        if last < STAGES.index("trainer"):
            self._load_model()
            return Outcome(STAGES[last])
        text = lock.lock_text(recipe, self.registry, state["data"], state["base"])
        files.write_text(run.folder / "recipe.lock.toml", text)
        self.met = recipe.trainer.meet(run, work=True)
        model = self._load_model()
        with self._stage("trainer", recipe.trainer):
            result = recipe.trainer.train(run, model, tokenizer, encoded, encoded_held)
        self._keep(state, result)
        return Outcome("trainer")

    def _load_model(self) -> PreTrainedModel:
        recipe, run = self.recipe, self.run
        with self._stage("model", recipe.model):
            model = recipe.model.load_model(run, recipe.quantizer)
        if recipe.quantizer is not None:
            with self._stage("quantizer", recipe.quantizer):
                model = recipe.quantizer.prepare(model)
        return model

    def _assist(self) -> Outcome:
        """What a further process of one training does: it has the rows from the first one, and writes nothing."""
        if self.recipe.trainer.meet(self.run, work=True):
            tokenizer, model = self.load_tokenizer(), self._load_model()
            with self._stage("trainer", self.recipe.trainer):
                self.recipe.trainer.train(self.run, model, tokenizer, None, None)
        return Outcome("assisting")

    def _export(self, state: dict[str, Any]) -> None:
        recipe, run = self.recipe, self.run
        made: dict[str, Path] = {}
        for exporter in recipe.exporter:
            place = exporter.place(run)
            if state["artefacts"].get(str(place)) != "made" or not place.exists():
                with self._stage("exporter", exporter):
                    base = recipe.model.base(run)
                    found = [path for path in sorted(run.folder.glob("[!.]*.*")) if path.name not in _OURS]
                    extras = {path.name: path for path in found if path.stat().st_size}
                    base_id = str(getattr(recipe.model, "id", base))
                    samples = [Sample(**sample) for sample in state["samples"]]
                    trained = Trained(
                        run, run.folder / "adapter", base, base_id, extras, state["figures"], samples, made
                    )
                    state["artefacts"][str(place)] = "begun"
                    self._save(state)
                    with files.fresh_place(place) as out:
                        exporter.export(trained, out)
                state["artefacts"][str(place)] = "made"
                self._save(state)
            made[exporter.name] = place
            run.emit("artefact", name=exporter.name, path=str(place))

    def _stage(self, kind: str, part: Component) -> AbstractContextManager[None]:
        return stage(self.registry, self.run, kind, part)

    # the run's folder

    def _clear(self) -> None:
        with files.working_on(self.run.folder):
            for path in self.run.folder.iterdir():
                if path.name != ".lock":
                    files.remove(path)

    def _state(self) -> dict[str, Any]:
        """What an earlier run of this name left, if it ran this very recipe (exporters may differ)."""
        table = json.loads(json.dumps(lock.as_table(self.recipe, self.registry)))
        identity = {key: value for key, value in table.items() if key != "exporter"}
        path = self.run.folder / "state.json"
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            state = {"recipe": identity, "artefacts": {}}
        if state["recipe"] != identity:
            changed = ", ".join(_differences(state["recipe"], identity)[:6])
            raise InputError(
                f"a run of this name was made with another recipe (different: {changed})",
                where=self.run.name,
                todo="choose another run_name, or start over with --fresh",
            )
        return state

    def _save(self, state: dict[str, Any]) -> None:
        files.write_text(self.run.folder / "state.json", json.dumps(state, indent=1))

    def _pin(self, state: dict[str, Any], part: str, facts: dict[str, Any]) -> None:
        """Hold data or base to what the lock file, or the killed run that goes on, was begun with."""
        lock.verify(self.recipe, part, facts["sha256"])
        if state.setdefault(part, facts) != facts:
            raise InputError(
                f"the {part} changed since this run was begun", where=self.run.name, todo="start over with --fresh"
            )
        self._save(state)

    def _check_places(self, state: dict[str, Any], fresh: bool) -> None:
        for exporter in self.recipe.exporter:
            place = exporter.place(self.run)
            files.check_writable(place.parent)
            files.recover(place)
            if place.exists() and str(place) not in state["artefacts"] and not fresh:
                raise InputError(
                    "is there already and was not made by this run",
                    where=place,
                    todo="choose another run_name, move it away, or replace it with --fresh",
                )

    def _keep(self, state: dict[str, Any], result: TrainingResult) -> None:
        state["figures"] = dict(result.figures)
        state["samples"] = [attrs.asdict(sample) for sample in result.samples]
        self._save(state)

    def _outcome(self, state: dict[str, Any], reached: str) -> Outcome:
        places = {exporter.name: exporter.place(self.run) for exporter in self.recipe.exporter}
        samples = [Sample(**sample) for sample in state["samples"]]
        return Outcome(reached, state["figures"], samples, places if reached == "exporter" else {})


def _rank() -> int:
    """Which of the processes of one training this is, as launchers say (`accelerate launch`, `torchrun`)."""
    return int(os.environ.get("RANK", "0"))


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [path.removeprefix(".")]
