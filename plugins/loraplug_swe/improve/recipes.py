"""The recipes of the rounds, all made of the one that the user wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug_swe.improve.options import Improve

if TYPE_CHECKING:
    from loraplug import App, Pipeline

_Place = tuple[str | int, ...]


@frozen
class Recipes:
    """Makes pipelines of a recipe and what `--set` puts over it."""

    app: App
    path: Path
    settings: tuple[str, ...] = ()

    def first(self) -> Pipeline:
        """The training that the rounds start from: the recipe as `loraplug run` takes it."""
        return self.app.pipeline(self.path, self.settings)

    def bugs(self, options: Improve, place: _Place, tasks: Path) -> Pipeline:
        """The recipe with `[improve.bugs]` over the data set at `place`, whose tasks go to `tasks`."""
        layers = self.app.read_layers(self.path, self.settings)
        said = _said(layers, ("improve", "bugs"))
        for inside, value in _leaves(options.bugs, ()):
            layers.put((*place, *inside), value, said, where=f"improve.bugs.{'.'.join(map(str, inside))}")
        layers.put((*place, "tasks_out"), str(tasks), said, where="improve.bugs")
        return self.app.pipeline_of(layers)

    def round(
        self, options: Improve, name: str, adapter: Path, trained: Mapping[str, Path], watched: Mapping[str, Path],
        batch_size: int | None = None,
    ) -> Pipeline:  # fmt: skip
        """The training of a round, with `[improve.round]` over the recipe.

        Args:
            name: of its run.
            adapter: what it goes on from.
            trained: files of rows to train on, by the name of the set.
            watched: files of rows whose loss is told.
            batch_size: in place of the recipe's, which is more than there are rows.
        """
        layers = self.app.read_layers(self.path, self.settings)
        said = _said(layers, ("improve", "round"))
        layers.overlay(_plain(options.round), said)
        if options.objective is not None:
            layers.put(("trainer", "use"), options.objective, said, where="improve.objective")
        if batch_size is not None:
            layers.put(("trainer", "batch_size"), batch_size, said, where="improve")
        own_adapter = layers.value(("trainer", "adapter"))
        for own in ("improve", "validation", "mix", "lock"):
            layers.table.pop(own, None)
        sets: list[dict[str, Any]] = [{"use": "jsonl", "name": key, "path": str(path)} for key, path in trained.items()]
        sets += [{"use": "jsonl", "name": key, "path": str(path), "share": 0} for key, path in watched.items()]
        layers.overlay(
            {
                "run_name": name, "dataset": sets, "exporter": [{"use": "adapter"}],
                "trainer": {"lora" if own_adapter is None else "adapter": {"start_from": str(adapter)}},
            },
            said,
        )  # fmt: skip
        return self.app.pipeline_of(layers)


def _said(layers: Any, place: _Place) -> Any:
    """Who said a table of `[improve]`, as relative paths in it start there; where nobody did, who named the run."""
    return layers.origin(place) or layers.origin(("run_name",))


def _leaves(value: Mapping[str, Any], place: _Place) -> Iterator[tuple[_Place, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, (*place, key))
        else:
            yield (*place, key), item


def _plain(value: Any) -> Any:
    """Tables and lists as TOML gives them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
