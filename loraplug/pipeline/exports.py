"""The artefacts of a run: their places, what is made already, and their making in the order they need."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from loraplug import files
from loraplug.context import Run, published
from loraplug.errors import InputError
from loraplug.pipeline.state import State, differences, free_name, save, seal
from loraplug.plugin.components import Component, Exporter
from loraplug.plugin.handover import Artefact, ExportContext, Sample
from loraplug.plugin.registry import Registry
from loraplug.recipe import lock, own_locks
from loraplug.recipe.recipe import Recipe

LOCK = "recipe.lock.toml"


@attrs.frozen
class Exports:
    """The exporters of a recipe, and what they have made.

    Attributes:
        state: of the run; what is made is kept in it.
        stage: a context for the work of one stage, by its kind.
    """

    recipe: Recipe
    registry: Registry
    run: Run
    state: State
    stage: Callable[[str, Component], AbstractContextManager[None]]

    def check_places(self, ours: Container[str], fresh: bool) -> None:
        """See that nothing of others is in the way.

        Args:
            ours: further places that an earlier run of this name has made.
            fresh: move what is in the way aside.

        Raises:
            InputError: a place cannot be written, or holds what this run has not made.
        """
        for exporter in self.recipe.exporter:
            place = exporter.place(run=self.run)
            files.check_writable(place.parent)
            files.recover(place)
            if not place.exists() or str(place) in self.state["artefacts"] or str(place) in ours:
                continue
            if not fresh:
                raise InputError(
                    "exists already and was not made by this run",
                    where=place,
                    todo="choose another run_name, move it away, or start with --fresh, which moves it aside",
                )
            aside = free_name(place)
            with files.wrap_os_errors(place):
                place.rename(aside)
            self.run.say(f"moved an existing file or folder to {aside}")

    def make(self) -> None:
        """Write what is not there yet, or was made with other options.

        Raises:
            LoraplugError: an exporter failed.
        """
        recipe, run, state = self.recipe, self.run, self.state
        wanted = lock.as_table(recipe, self.registry, secrets=True)["exporter"]
        made: list[Artefact] = []
        for index in in_order(recipe.exporter):
            exporter, options = recipe.exporter[index], wanted[index]
            place = exporter.place(run=run)
            if not self._is_made(place, options):
                with self.stage("exporter", exporter):
                    trained = self._trained(made)
                    state["artefacts"][str(place)] = "begun"
                    save(run, state)
                    with files.atomic_output(place) as out:
                        exporter.export(result=trained, out=out)
                        old, new = trained.extras.get(LOCK), out / LOCK
                        if old is not None and own_locks.is_own(old.read_bytes()) and new.is_file():
                            own_locks.remember(new.read_bytes(), run)  # it has figures of the export in it
                state["artefacts"][str(place)] = "made"
                state.setdefault("exporters", {})[str(place)] = seal(options)
                save(run, state)
            made.append(Artefact(exporter.name, place, options))
            run.emit("artefact", name=exporter.name, path=str(place))

    def _trained(self, made: Sequence[Artefact]) -> ExportContext:
        recipe, run, state = self.recipe, self.run, self.state
        base = recipe.model.base(run=run)
        result = state.get("result", {"kind": "adapter", "path": "adapter"})
        return ExportContext(
            run=run,
            adapter=run.folder / result["path"],
            base=base,
            base_id=str(getattr(recipe.model, "id", base)),
            extras={name: path for name, path in published(run.folder).items() if path.stat().st_size},
            figures=state["figures"],
            samples=[Sample(**sample) for sample in state["samples"]],
            artefacts=tuple(made),
            kind=result["kind"],
            quantizer=recipe.quantizer,
        )

    def _is_made(self, place: Path, options: dict[str, Any]) -> bool:
        """Whether an artefact is there, and was made with these options."""
        if self.state["artefacts"].get(str(place)) != "made" or not place.exists():
            return False
        old = self.state.get("exporters", {}).get(str(place))
        changed = differences(old["recipe"], old["secrets"], options) if old else []
        if changed:
            self.run.say(f"{place}: exported again, as its options have changed ({', '.join(changed)})")
        return not changed


def in_order(exporters: Sequence[Exporter]) -> list[int]:
    """Exporters in the order of the recipe, each behind those whose artefacts it needs."""
    waiting, order = [*range(len(exporters))], list[int]()
    while waiting:
        left = {exporters[index].name for index in waiting}
        ready = [at for at in waiting if not (left & set(exporters[at].needs)) - {exporters[at].name}]
        index = (ready or waiting)[0]
        waiting.remove(index)
        order.append(index)
    return order
