"""The dataset sources of this package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run
from loraplug_data.reading import json_lines, json_rows, rows_to_dataset

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class _Shaped(DatasetSource):
    """What every source here can do with the rows it found."""

    rename: Annotated[dict[str, str], Doc('columns to rename, `{ question = "instruction" }`')] = field(
        factory=dict, kw_only=True
    )
    limit: Annotated[int | None, Doc("take only the first so many rows")] = field(
        default=None, kw_only=True, validator=validators.optional(validators.ge(1))
    )

    def shaped(self, rows: Dataset) -> Dataset:
        """Rows with columns renamed and cut to the limit."""
        for old, new in self.rename.items():
            if old not in rows.column_names:
                raise InputError(
                    f'no column "{old}" in the data', where="dataset.rename", todo=f"columns: {rows.column_names}"
                )
            if new in rows.column_names:
                rows = rows.remove_columns(new)
            rows = rows.rename_column(old, new)
        return rows if self.limit is None else rows.select(range(min(self.limit, len(rows))))


def _existing(path: Path, *, folder: bool = False) -> Path:
    if not path.exists():
        raise InputError("no such file or folder", where=path, todo="relative paths start from the recipe's folder")
    if path.is_dir() != folder:
        kind = "a folder written by save_to_disk" if folder else "a file"
        raise InputError(f"is not {kind}", where=path, todo="give the path of " + kind)
    return path


@frozen
class JsonSource(_Shaped):
    """Rows of a .json file: a list of objects (or one object a line, as many .json files hold)."""

    name = "json"
    path: Annotated[Path, Doc("the file")]

    def load(self, run: Run) -> Dataset:
        """The file's rows."""
        _existing(self.path)

        def read() -> Iterator[dict[str, Any]]:
            return json_rows(self.path)

        return self.shaped(rows_to_dataset(read, self.path, run))


@frozen
class JsonLinesSource(_Shaped):
    """Rows of a .jsonl file, one JSON object a line."""

    name = "jsonl"
    path: Annotated[Path, Doc("the file")]

    def load(self, run: Run) -> Dataset:
        """The file's rows."""
        _existing(self.path)

        def read() -> Iterator[dict[str, Any]]:
            return json_lines(self.path)

        return self.shaped(rows_to_dataset(read, self.path, run))


@frozen
class ParquetSource(_Shaped):
    """Rows of a parquet file."""

    name = "parquet"
    path: Annotated[Path, Doc("the file")]

    def load(self, run: Run) -> Dataset:
        """The file's rows."""
        import pyarrow
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        try:
            rows = Dataset.from_parquet(str(_existing(self.path)), cache_dir=str(run.cache / "parquet"))
        except (pyarrow.ArrowInvalid, ValueError) as error:
            raise InputError(f"is not a parquet file ({error})", where=self.path) from None
        return self.shaped(rows)


@frozen
class DiskSource(_Shaped):
    """A data set folder written by `datasets` with `save_to_disk`."""

    name = "disk"
    path: Annotated[Path, Doc("the folder")]
    split: Annotated[str, Doc("which split, where the folder holds several")] = "train"

    def load(self, run: Run) -> Dataset:  # noqa: ARG002
        """The folder's rows."""
        from datasets import DatasetDict, disable_progress_bars, load_from_disk

        disable_progress_bars()
        try:
            found = load_from_disk(str(_existing(self.path, folder=True)))
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise InputError(
                f"is not a saved data set ({error})", where=self.path, todo="make it with Dataset.save_to_disk"
            ) from None
        if isinstance(found, DatasetDict):
            if self.split not in found:
                raise InputError(f'has no split "{self.split}"', where=self.path, todo=f"splits: {', '.join(found)}")
            found = found[self.split]
        return self.shaped(found)


@frozen
class HubSource(_Shaped):
    """A data set of the Hugging Face hub; private and gated ones with HF_TOKEN."""

    name = "hub"
    id: Annotated[str, Doc("owner/name of the data set")]
    split: Annotated[str, Doc("which split; slices such as `train[:1000]` work")] = "train"
    config: Annotated[str | None, Doc("the configuration, where the data set has several", aka=("subset",))] = None
    revision: Annotated[str | None, Doc("a commit, tag or branch; pin it to get the same rows again")] = None

    def load(self, run: Run) -> Dataset:
        """The split's rows.

        Raises:
            InputError: no such data set, split or configuration, no access, or no network.
        """
        from datasets import disable_progress_bars, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        disable_progress_bars()
        run.say(f"dataset: asking the hub for {self.id}")
        try:
            rows = load_dataset(self.id, self.config, split=self.split, revision=self.revision)
        except (DatasetNotFoundError, HFValidationError) as error:
            todo = "check the id; for a private or gated one accept its terms on its page and set HF_TOKEN"
            raise InputError(f"cannot be had: {error}", where=f"dataset.id {self.id}", todo=todo) from None
        except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            todo = "check the network, or save the data set with save_to_disk elsewhere and use the `disk` source"
            raise InputError(f"the hub was not reached ({error})", where=f"dataset.id {self.id}", todo=todo) from None
        except ValueError as error:  # unknown split or configuration; the message lists those there are
            raise InputError(" ".join(str(error).split()), where=f"dataset.id {self.id}") from None
        return self.shaped(rows)
