"""`loraplug data`: writes the rows of a dataset source to a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from loraplug import DatasetSource, InputError, Run, atomic_output, echo, iter_rows, transformed

if TYPE_CHECKING:
    from loraplug import App

_SUFFIXES = (".json", ".jsonl", ".parquet")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="A .json, .jsonl or .parquet file."
)
@click.option("--shard", metavar="I/N", help="Write only block I of N equal blocks; concatenated they are all rows.")
@click.option("--dataset", "named", metavar="NAME", help="The name of one of several data sets.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: dataset.limit=10.")
@click.pass_obj
def data(app: App, recipe: Path, output: Path, shard: str | None, named: str | None, settings: tuple[str, ...]) -> None:
    """Write the rows of RECIPE's dataset source, through its transforms, to a file, without training on them.

    RECIPE needs no table but [dataset].
    Rows that the source leaves out go to OUTPUT.rejects.jsonl, each with its reason.
    """
    if output.suffix not in _SUFFIXES:
        raise InputError(f'unknown ending "{output.suffix}"', where=output, todo=f"use {', '.join(_SUFFIXES)}")
    output = output.absolute()
    if shard is not None:
        settings = (*settings, f'dataset{f".{named}" if named else ""}.shard="{shard}"')
    source, transforms, run = app.source(recipe, settings, named)
    source = with_rejects(source, output)
    if transforms:
        rows: Iterable[dict[str, Any]] = iter_rows(transformed(source.load(run=run), transforms, run))
    else:
        rows = source_rows(source, run)
    count = write_rows(rows, output)
    echo(f"{count} rows in {output}")


def with_rejects(source: DatasetSource, output: Path) -> DatasetSource:
    """The source, its rejects told to go beside the output."""
    made: Any = source  # an attrs class by its kind's contract
    if any(field.name == "rejects" for field in attrs.fields(type(made))) and getattr(source, "rejects", 0) is None:
        source = attrs.evolve(made, rejects=output.with_name(f"{output.stem}.rejects.jsonl"))
    return source


def source_rows(source: DatasetSource, run: Run) -> Iterable[dict[str, Any]]:
    """A source's rows, one by one where it can (`rows(run)`)."""
    streamed = getattr(source, "rows", None)
    rows: Iterable[dict[str, Any]] = streamed(run) if streamed is not None else source.load(run=run)
    return rows


def write_rows(rows: Iterable[dict[str, Any]], output: Path) -> int:
    """Write rows as they come, so that memory stays flat, and name the file when it is whole; gives their number."""
    write = {".json": _write_json, ".jsonl": _write_json_lines, ".parquet": _write_parquet}[output.suffix]
    with atomic_output(output) as fresh:
        return write(rows, fresh)


def _line(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row, ensure_ascii=False)


def _write_json_lines(rows: Iterable[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last count is the number
            file.write(_line(row) + "\n")
    return count


def _write_json(rows: Iterable[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for count, row in enumerate(rows, 1):
            file.write(("," if count > 1 else "") + "\n" + _line(row))
        file.write("\n]\n")
    return count


def _write_parquet(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Batches of 1,000; nested values become Json columns, written here as JSON, as `datasets` would round numbers."""
    import json

    from datasets import Dataset, Features, Json, Value
    from pyarrow import parquet

    count, writer, text = 0, None, set()
    for batch in _batches(rows, 1000):
        if writer is None:
            text = {key for key in batch[0] if all(isinstance(row.get(key), str) for row in batch)}
            features = Features({key: Value("string") if key in text else Json() for key in batch[0]})
        columns = {key: [row.get(key) for row in batch] for key in features}
        for key in features.keys() - text:
            columns[key] = [None if value is None else json.dumps(value, ensure_ascii=False) for value in columns[key]]
        table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
        count += len(batch)
    if writer is None:
        raise InputError("no rows to write", where=path, todo="check the dataset's filters")
    writer.close()
    return count


def _batches(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
