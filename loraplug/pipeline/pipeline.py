"""Runs the stages in order, keeps their state in the run's folder, and resumes killed runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from loraplug import files
from loraplug.config.secrets import redacted
from loraplug.context import Event, Named, Reporter, Run
from loraplug.data.labels import check_labels
from loraplug.data.mixture import Taken, alike, mixed, together
from loraplug.data.schemas import SCHEMAS, Encoded, Placement, check_encoded
from loraplug.data.split import split
from loraplug.errors import InputError
from loraplug.pipeline.exports import LOCK, Exports
from loraplug.pipeline.pins import Pins
from loraplug.pipeline.preflight import preflight
from loraplug.pipeline.stages import observer, stage
from loraplug.pipeline.state import (
    State,
    open_state,
    read_state,
    save,
    set_aside,
    worth_keeping,
)
from loraplug.pipeline.transforms import transformed
from loraplug.plugin.components import Component
from loraplug.plugin.handover import Sample, TrainingResult
from loraplug.plugin.registry import Registry
from loraplug.recipe import lock, own_locks
from loraplug.recipe.recipe import DataSet, Recipe, Validation
from loraplug.recipe.validation import validation_source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Prepared = tuple[PreTrainedTokenizerBase, Encoded, Encoded | None]

T = TypeVar("T")
STAGES = ("dataset", "formatter", "model", "quantizer", "trainer", "exporter")


@attrs.frozen
class Outcome:
    """The result of a run; `reached` is the last completed stage."""

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
        if self.run.distributed.leads:
            self.run = attrs.evolve(self.run, observe=observer(self.registry, self.run))
        else:  # of several processes that train together only the first speaks
            self.run = attrs.evolve(self.run, reporter=Reporter())

    def execute(self, until: str = "exporter", fresh: bool = False, accept_encoding: bool = False) -> Outcome:
        """Run the stages up to `until`, resuming an earlier, killed run of this recipe.

        Args:
            until: the last stage to run.
            fresh: start over; an earlier run of this name is moved aside.
            accept_encoding: run a lock file although its rows are now encoded differently.

        Raises:
            InputError: the name is taken by another recipe or a running run; recipe, data or base cannot be used, or
                are not what the run was begun with.
            LoraplugError: a stage failed.
        """
        if not self.run.distributed.leads:
            return self._assist()
        outcome = self._lead(until, fresh, accept_encoding)
        if not self.met:
            self._meet(work=False)
        return outcome

    def _lead(self, until: str, fresh: bool, accept: bool) -> Outcome:
        run = self.run
        with files.exclusive_lock(run.folder, run.name):
            self._ask(until, fresh)
            ours = set(read_state(run.folder, broken={}).get("artefacts", {})) if fresh else set()
            if fresh and (aside := set_aside(run.folder)) is not None:
                run.say(f"moved the earlier run of this name to {aside}")
            state = open_state(run, self.recipe, self.registry)
            self._exports(state).check_places(ours, fresh)
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
        self._exports(state).make()
        return self._outcome(state, "exporter")

    def preflight(self, until: str = "exporter", *, deep: bool = False) -> None:
        """Ask every stage up to `until` what would stop it; with `deep` of a model without weights, too.

        Raises:
            RecipeError: with every problem of all of them.
        """
        asked = STAGES[: STAGES.index(until) + 1]
        preflight(self.recipe, self.run, self.registry, asked, deep=deep and "model" in asked)

    def _ask(self, until: str, fresh: bool) -> None:
        """As `preflight`; of a run that is trained only for what is not exported yet."""
        if fresh or "figures" not in read_state(self.run.folder, broken={}):
            self.preflight(until, deep=True)
        elif not all(exporter.place(self.run).exists() for exporter in self.recipe.exporter):
            preflight(self.recipe, self.run, self.registry, ("model", "exporter"))

    # the stages

    def load_rows(self) -> Dataset:
        """The rows of the dataset source, through its transforms; at least one.

        Raises:
            InputError: it cannot be read, or there are several data sets, which `load_sets` reads.
        """
        if self.recipe.sets:
            names = ", ".join(one.name for one in self.recipe.sets)
            raise InputError(f"has several data sets ({names}), where one is needed", where=self.recipe.file,
                             todo="write the one you mean as [dataset] in a separate recipe")  # fmt: skip
        with self._stage("dataset", self.recipe.dataset):
            rows = self.recipe.dataset.load(run=self.run)
            if len(rows) == 0:
                raise InputError("has no rows", where="dataset", todo="check the path and the filters in the recipe")
            rows = transformed(rows, self.recipe.transforms, self.run, partial(self._stage, "transform"))
            self._check_labels(rows, "dataset")
            self.run.say(f"dataset: {len(rows)} rows, {self._recognise(rows)}")
            return rows

    def of_set(self, one: DataSet) -> Pipeline:
        """This pipeline as if one of its several data sets were the only one; what it says begins with its name."""
        view = copy(self)
        view.recipe, view.failed = self.recipe.only(one.name), False
        tell = partial(_tell_of, place=one.place, observe=self.run.observe)
        view.run = attrs.evolve(self.run, reporter=Named(self.run.reporter, one.name), observe=tell)
        return view

    def load_sets(self) -> dict[str, Dataset]:
        """The rows of each of several data sets, through its transforms."""
        return {one.name: self._in_set(one, lambda view: view.load_rows()) for one in self.recipe.sets}

    def split_sets(self, rows: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
        """Training and validation rows by set; of one that is only watched all are validation rows."""
        train: dict[str, Dataset] = {}
        held: dict[str, Dataset] = {}
        for one in self.recipe.sets:
            if one.watched:
                held[one.name] = rows[one.name]
                continue
            train[one.name], kept = self._in_set(one, partial(_split, rows=rows[one.name]))
            if kept is not None:
                held[one.name] = kept
        return train, held

    def encode_sets(self, rows: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase) -> dict[str, Encoded]:
        """Rows of each set as its formatter encodes them."""
        named = {one.name: one for one in self.recipe.sets}
        return {
            name: self._in_set(named[name], partial(_encode, rows=part, tokenizer=tokenizer))
            for name, part in rows.items()
        }

    def mix(self, encoded: Mapping[str, Encoded]) -> tuple[Encoded, dict[str, Taken]]:
        """The encoded training rows of all sets as one data set, and what it takes of each."""
        shares = {one.name: one.share for one in self.recipe.sets}
        return mixed(encoded, shares, self.recipe.mix, self.run)

    def _in_set(self, one: DataSet, work: Callable[[Pipeline], T]) -> T:
        """What is done for one set; an error says which it was."""
        view = self.of_set(one)
        try:
            return work(view)
        except InputError as error:
            where = str(error.where or "dataset")
            placed = where.replace("dataset", one.place, 1) if where.startswith("dataset") else f"{one.place}, {where}"
            raise InputError(error.what, where=f'{placed} (set "{one.name}")', todo=error.todo) from None
        finally:
            self.failed |= view.failed

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
            held = source.load(run=self.run)
            if len(held) == 0:
                raise InputError("has no rows", where="validation.path", todo="check that this is the right file")
            for_both = [part for part in self.recipe.transforms if part.for_validation]
            held = transformed(held, for_both, self.run, partial(self._stage, "transform"))
            shape = self._recognise(held)
        except InputError as error:
            todo = [error.todo] if error.todo else []
            if wanted.rename is None and ("rename" in str(error.where) or error.where is None):
                todo.append("[validation] may have its own rename, {} for none, in place of that of [dataset]")
            where = error.where or f"validation.path, read by {source.name}"
            raise InputError(error.what, where=where, todo="; ".join(todo) or None) from None
        self.run.say(f"validation: {len(held)} rows, {shape}")
        return held

    def _recognise(self, rows: Dataset) -> str:
        schema = self.recipe.trainer.consumes
        return self.recipe.formatter.recognise(columns=rows.column_names, schema=schema)

    def _check_labels(self, rows: Dataset, where: str) -> None:
        trainer = self.recipe.trainer
        schema = SCHEMAS.get(trainer.consumes)
        known = trainer.columns | (schema.judged if schema else frozenset())
        check_labels(rows, known, where, f"the trainer {trainer.name}")

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Rows as token ids and labels, by the schema that the trainer takes."""
        trainer, formatter = self.recipe.trainer, self.recipe.formatter
        with self._stage("formatter", formatter):
            encoded = formatter.encode(rows=rows, tokenizer=tokenizer, run=self.run, schema=trainer.consumes)
            check_encoded(encoded, trainer.consumes, formatter.name)
            if len(encoded.dataset) == 0:
                raise InputError("kept no row to train on", where="formatter", todo="see `loraplug preview` for why")
            if "token_weights" in encoded.dataset.column_names and "token_weights" not in trainer.columns:
                what = f"rows have token weights, which the trainer {trainer.name} does not use"
                raise InputError(what, where="formatter", todo="remove weights other than 0 and 1 from the data")
            return encoded

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        with self._stage("model", self.recipe.model):
            return self.recipe.model.load_tokenizer(run=self.run)

    def _until_trained(self, state: State, last: int, accept: bool) -> Outcome:
        recipe, run = self.recipe, self.run
        pins = Pins(recipe, run, state)
        made = self._encoded_sets(pins, last) if recipe.sets else self._encoded(pins, last)
        if made is None:
            return Outcome("dataset")
        tokenizer, encoded, encoded_held = made
        pins.encoding([encoded.dataset, *([] if encoded_held is None else [encoded_held.dataset])], accept)
        if last == 1:
            return Outcome("formatter")
        with self._stage("model", recipe.model):
            pins.hold("base", {"sha256": files.hash_weights(recipe.model.base(run=run))})
        if last < STAGES.index("trainer"):
            self.load_model(recipe.trainer.placement(run=run))
            return Outcome(STAGES[last])
        path = run.folder / LOCK
        files.write_text(path, lock.lock_text(recipe, self.registry, pins.facts()))
        own_locks.remember(path.read_bytes(), run)
        run.publish(path)
        self.met = self._meet(work=True)
        with self._stage("trainer", recipe.trainer):
            result = recipe.trainer.train(
                run=run, load_model=self.load_model, tokenizer=tokenizer, train=encoded, validation=encoded_held
            )
        self._keep(state, result)
        return Outcome("trainer")

    def _encoded(self, pins: Pins, last: int) -> Prepared | None:
        rows = self.load_rows()
        pins.rows("data", rows)
        if last == 0:
            return None
        train, held = self.split_rows(rows)
        if held is not None:
            pins.rows("validation", held)
        tokenizer = self.load_tokenizer()
        pins.tokenizer(tokenizer)
        encoded = self.encode(train, tokenizer)
        return tokenizer, encoded, None if held is None else self.encode(held, tokenizer)

    def _encoded_sets(self, pins: Pins, last: int) -> Prepared | None:
        rows = self.load_sets()
        pins.sets("data", rows)
        if last == 0:
            return None
        train, held = self.split_sets(rows)
        if held:
            pins.sets("validation", held)
        tokenizer = self.load_tokenizer()
        pins.tokenizer(tokenizer)
        encoded, taken = self.mix(self.encode_sets(train, tokenizer))
        for name, one in taken.items():
            self.run.say(f"mix: {name}: {one}")
        watched = alike(self.encode_sets(held, tokenizer)) if held else {}
        return tokenizer, encoded, together(watched) if watched else None

    def load_model(self, placement: Placement) -> PreTrainedModel:
        """The model of the recipe, quantised where it says so."""
        recipe, run = self.recipe, self.run
        with self._stage("model", recipe.model):
            model = recipe.model.load_model(run=run, quantization=recipe.quantizer, placement=placement)
        if recipe.quantizer is not None:
            with self._stage("quantizer", recipe.quantizer):
                model = recipe.quantizer.prepare(model=model)
        return model

    def _assist(self) -> Outcome:
        """What a further process of one training does: it has the rows from the first one, and writes nothing."""
        if self._meet(work=True):
            tokenizer, trainer = self.load_tokenizer(), self.recipe.trainer
            with self._stage("trainer", trainer):
                trainer.train(
                    run=self.run, load_model=self.load_model, tokenizer=tokenizer, train=None, validation=None
                )
        return Outcome("assisting")

    def _meet(self, work: bool) -> bool:
        """Join the other processes of this training; what the first says about `work` is returned on all."""
        self.recipe.trainer.placement(run=self.run)  # before any process hears of another one
        return self.run.distributed.broadcast(work)

    def _exports(self, state: State) -> Exports:
        return Exports(self.recipe, self.registry, self.run, state, self._stage)

    @contextmanager
    def _stage(self, kind: str, part: Component) -> Iterator[None]:
        try:
            with stage(self.registry, self.run, kind, part):
                yield
        except Exception:
            self.failed = True
            raise

    # the run's folder

    def _keep(self, state: State, result: TrainingResult) -> None:
        path = Path(os.path.relpath(result.path, self.run.folder)).as_posix()  # outputs may be moved
        state["result"] = {"kind": result.kind, "path": path}
        state["figures"] = dict(result.figures)
        state["samples"] = redacted([attrs.asdict(sample) for sample in result.samples])
        save(self.run, state)

    def _outcome(self, state: dict[str, Any], reached: str) -> Outcome:
        places = {exporter.name: exporter.place(run=self.run) for exporter in self.recipe.exporter}
        samples = [Sample(**sample) for sample in state["samples"]]
        return Outcome(reached, state["figures"], samples, places if reached == "exporter" else {})


def _tell_of(event: Event, place: str, observe: Callable[[Event], None]) -> None:
    """Tell an event of one of several data sets, whose table stands at `place`."""
    observe(attrs.evolve(event, data={**event.data, "place": place}) if event.kind == "transformed" else event)


def _split(pipeline: Pipeline, rows: Dataset) -> tuple[Dataset, Dataset | None]:
    return pipeline.split_rows(rows)


def _encode(pipeline: Pipeline, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    return pipeline.encode(rows, tokenizer)
