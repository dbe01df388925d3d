"""The stages in order, what they leave in the run's folder, and how a killed run goes on."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from loraplug import files, lock
from loraplug.components import Component, Sample, Trained, TrainingResult
from loraplug.context import Reporter, Run, published
from loraplug.errors import InputError
from loraplug.pins import Pins
from loraplug.preflight import preflight
from loraplug.recipe import Recipe, Validation
from loraplug.registry import Registry
from loraplug.stages import observer, stage
from loraplug.state import (
    State,
    differences,
    free_name,
    open_state,
    read_state,
    save,
    seal,
    set_aside,
    worth_keeping,
)
from loraplug.validation import validation_source
from loraplug_rows.labels import check_labels
from loraplug_rows.split import split
from loraplug_tables.secrets import redacted

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    failed: bool = False

    def __attrs_post_init__(self) -> None:
        if (date := lock.locked_date(self.recipe)) is not None:
            self.run = attrs.evolve(self.run, date=date)
        if not _rank():
            self.run = attrs.evolve(self.run, observe=observer(self.registry, self.run))
        else:  # of several processes that train together only the first speaks
            self.run = attrs.evolve(self.run, reporter=Reporter())

    def execute(self, until: str = "exporter", fresh: bool = False, accept_encoding: bool = False) -> Outcome:
        """Run the stages up to `until`, going on from what an earlier, killed run of this recipe left.

        Args:
            until: the last stage to run.
            fresh: start over; what an earlier run of this name left is kept aside.
            accept_encoding: run a lock file though its rows are encoded otherwise than they were.

        Raises:
            InputError: the name is taken by another recipe or a running run; recipe, data or base cannot be used, or
                are not what the run was begun with.
            LoraplugError: a stage failed.
        """
        if _rank():
            return self._assist()
        outcome = self._lead(until, fresh, accept_encoding)
        if not self.met:
            self.recipe.trainer.meet(self.run, work=False)
        return outcome

    def _lead(self, until: str, fresh: bool, accept: bool) -> Outcome:
        run = self.run
        with files.only_one(run.folder, run.name):
            self.preflight(until, trained=not fresh and "figures" in read_state(run.folder, broken={}), deep=True)
            ours = set(read_state(run.folder, broken={}).get("artefacts", {})) if fresh else set()
            if fresh and (aside := set_aside(run.folder)) is not None:
                run.say(f"kept what the run of this name had left: {aside}")
            state = open_state(run, self.recipe, self.registry)
            self._check_places(state, ours, fresh)
            state.setdefault("date", run.date.isoformat())
            self.run = attrs.evolve(run, date=datetime.fromisoformat(state["date"]))
            try:
                return self._work(state, until, accept)
            except Exception:
                if self.failed and not worth_keeping(run.folder, state):
                    state["failed"] = True  # nothing is lost when it is begun anew with whatever was mended
                    save(run, state)
                raise

    def _work(self, state: State, until: str, accept: bool) -> Outcome:
        if "figures" not in state:
            outcome = self._until_trained(state, STAGES.index(until), accept)
            if outcome.reached != "trainer":
                return outcome
        if until != "exporter":
            return self._outcome(state, "trainer")
        self._export(state)
        return self._outcome(state, "exporter")

    def preflight(self, until: str = "exporter", *, trained: bool = False, deep: bool = False) -> None:
        """Ask every stage up to `until` what would stop it; of a run that is `trained`, those that export.

        Raises:
            RecipeError: with every problem of all of them.
        """
        last = STAGES.index(until)
        asked = [kind for kind in STAGES[: last + 1] if not trained or kind in ("model", "exporter")]
        preflight(self.recipe, self.run, self.registry, asked, deep=deep and "model" in asked)

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

    def _until_trained(self, state: State, last: int, accept: bool) -> Outcome:
        recipe, run = self.recipe, self.run
        pins = Pins(recipe, run, state)
        rows = self.load_rows()
        pins.rows("data", rows)
        if last == 0:
            return Outcome("dataset")
        train, held = self.split_rows(rows)
        if held is not None:
            pins.rows("validation", held)
        tokenizer = self.load_tokenizer()
        pins.tokenizer(tokenizer)
        encoded = self.encode(train, tokenizer)
        encoded_held = None if held is None else self.encode(held, tokenizer)
        pins.encoding([encoded] if encoded_held is None else [encoded, encoded_held], accept)
        if last == 1:
            return Outcome("formatter")
        with self._stage("model", recipe.model):
            pins.hold("base", {"sha256": files.hash_weights(recipe.model.base(run))})
        if last < STAGES.index("trainer"):
            self._load_model()
            return Outcome(STAGES[last])
        path = run.folder / "recipe.lock.toml"
        files.write_text(path, lock.lock_text(recipe, self.registry, pins.facts()))
        run.publish(path)
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

    def _export(self, state: State) -> None:
        recipe, run = self.recipe, self.run
        wanted = lock.as_table(recipe, self.registry, secrets=True)["exporter"]
        made: dict[str, Path] = {}
        for exporter, options in zip(recipe.exporter, wanted, strict=True):
            place = exporter.place(run)
            if not self._is_made(state, place, options):
                with self._stage("exporter", exporter):
                    base = recipe.model.base(run)
                    base_id = str(getattr(recipe.model, "id", base))
                    samples = [Sample(**sample) for sample in state["samples"]]
                    extras = {name: path for name, path in published(run.folder).items() if path.stat().st_size}
                    trained = Trained(
                        run, run.folder / "adapter", base, base_id, extras, state["figures"], samples, made
                    )
                    state["artefacts"][str(place)] = "begun"
                    save(run, state)
                    with files.fresh_place(place) as out:
                        exporter.export(trained, out)
                state["artefacts"][str(place)] = "made"
                state.setdefault("exporters", {})[str(place)] = seal(options)
                save(run, state)
            made[exporter.name] = place
            run.emit("artefact", name=exporter.name, path=str(place))

    def _is_made(self, state: State, place: Path, options: dict[str, Any]) -> bool:
        """Whether an artefact is there, and was made with these options."""
        if state["artefacts"].get(str(place)) != "made" or not place.exists():
            return False
        old = state.get("exporters", {}).get(str(place))
        changed = differences(old["recipe"], old["secrets"], options) if old else []
        if changed:
            self.run.say(f"{place}: made again, since other options are asked for ({', '.join(changed)})")
        return not changed

    @contextmanager
    def _stage(self, kind: str, part: Component) -> Iterator[None]:
        try:
            with stage(self.registry, self.run, kind, part):
                yield
        except Exception:
            self.failed = True
            raise

    # the run's folder

    def _check_places(self, state: State, ours: Container[str], fresh: bool) -> None:
        for exporter in self.recipe.exporter:
            place = exporter.place(self.run)
            files.check_writable(place.parent)
            files.recover(place)
            if not place.exists() or str(place) in state["artefacts"] or str(place) in ours:
                continue
            if not fresh:
                raise InputError(
                    "is there already and was not made by this run",
                    where=place,
                    todo="choose another run_name, move it away, or start with --fresh, which keeps it aside",
                )
            aside = free_name(place)
            with files.working_on(place):
                place.rename(aside)
            self.run.say(f"kept what was in the way: {aside}")

    def _keep(self, state: State, result: TrainingResult) -> None:
        state["figures"] = dict(result.figures)
        state["samples"] = redacted([attrs.asdict(sample) for sample in result.samples])
        save(self.run, state)

    def _outcome(self, state: dict[str, Any], reached: str) -> Outcome:
        places = {exporter.name: exporter.place(self.run) for exporter in self.recipe.exporter}
        samples = [Sample(**sample) for sample in state["samples"]]
        return Outcome(reached, state["figures"], samples, places if reached == "exporter" else {})


def _rank() -> int:
    """Which of the processes of one training this is, as launchers say (`accelerate launch`, `torchrun`)."""
    return int(os.environ.get("RANK", "0"))
