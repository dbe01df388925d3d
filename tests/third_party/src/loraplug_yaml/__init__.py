"""A whole plugin: one component, one hook, one entry point (in pyproject.toml)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import frozen

import loraplug
from loraplug import DatasetSource, Doc, InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class YamlSource(DatasetSource):
    """Rows of a YAML file, each a mapping."""

    name = "yaml"
    path: Annotated[Path, Doc("the YAML file")]
    key: Annotated[str, Doc("what the list of rows stands under")] = "rows"

    def load(self, run: Run) -> Dataset:
        """The file's rows."""
        import yaml
        from datasets import Dataset

        if not self.path.is_file():
            raise InputError("no such file", where=self.path, todo="check dataset.path in the recipe")
        rows = Dataset.from_list(yaml.safe_load(self.path.read_text(encoding="utf-8"))[self.key])
        run.say(f"yaml: {len(rows)} rows")
        return rows


@loraplug.hookimpl
def loraplug_dataset_sources() -> list[type[DatasetSource]]:
    """The one source."""
    return [YamlSource]
