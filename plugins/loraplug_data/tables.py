"""Rows as a `datasets.Dataset` in the cache, found again as long as none of the files they come from has changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

    Read = Callable[[Path], Iterator[dict[str, Any]]]

_FORM = "exact"
"""Goes into the cache's names; another word where what is stored changes."""


def rows_to_dataset(read: Read, files: Sequence[Path], options: str, run: Run) -> Dataset:
    """Rows that `read` gives for each file, one after the other, as a data set on disk.

    Columns that are text (or numbers) throughout keep that type; everything else becomes `datasets.Json`, which keeps
    nested values just as they are, where Arrow's structs would fill every row with every other row's keys.

    Args:
        read: gives the rows of one file.
        files: at least one.
        options: all that decides what `read` makes of a file's bytes.
        run: its cache, and its way to speak.
    """
    from datasets import Dataset, Features, Json, disable_progress_bars

    disable_progress_bars()
    types: dict[str, set[type]] = {}
    for file in files:
        count = 0
        for count, row in enumerate(read(file), 1):  # noqa: B007 - the last count is the number
            for key, value in row.items():
                types.setdefault(key, set()).add(type(value))
        if not count:
            _tell_empty(file, files, run)
    if not types:
        raise InputError("its rows have no columns", where=files[0], todo="check that it is the right file")
    features = Features({key: _feature(found - {type(None)}) for key, found in types.items()})
    nested = tuple(key for key in types if isinstance(features[key], Json))

    def rows() -> Iterator[dict[str, Any]]:
        """With all keys; what goes into `Json` columns as JSON, as `datasets` would round numbers in it."""
        for file in files:
            for row in read(file):
                made = {key: row.get(key) for key in types}
                for key in nested:
                    if made[key] is not None:
                        made[key] = json.dumps(made[key], ensure_ascii=False)
                yield made

    _tell_copies(files, run)
    name = _named([_FORM, options, *(digest(file).hex() for file in files)])
    return Dataset.from_generator(rows, features, cache_dir=str(run.cache / "rows"), fingerprint=name)


def _tell_empty(file: Path, files: Sequence[Path], run: Run) -> None:
    if len(files) == 1:
        raise InputError("has no rows", where=file, todo="check that it is the right file")
    run.warn(f"{file.name} has no rows")


def _feature(found: set[type]) -> Any:
    from datasets import Json, Value

    plain = {str: "string", bool: "bool", float: "float64"}
    only = next(iter(found)) if len(found) == 1 else None
    return Value(plain[only]) if only in plain else Json()


def _named(parts: Iterable[str]) -> str:
    from hashlib import sha256

    return sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]


def digest(file: Path) -> bytes:
    """16 bytes of xxh3, which `datasets` hashes with as well: 20 times as fast as SHA-256."""
    import mmap

    import xxhash

    with file.open("rb") as opened:
        if not file.stat().st_size:
            return bytes(16)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return xxhash.xxh3_128_digest(view)


def _stamp(file: Path) -> str:
    """What tells that a file was written to: hashing it would take a tenth of the time in which parquet is read."""
    found = file.stat()  # the time of change is set by every write and cannot be set back, that of writing can
    return f"{file} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _tell_copies(files: Sequence[Path], run: Run) -> None:
    sizes = Counter(file.stat().st_size for file in files)
    seen: dict[bytes, Path] = {}
    for file in files:
        size = file.stat().st_size
        if size and sizes[size] > 1 and (twin := seen.setdefault(digest(file), file)) != file:
            run.warn(f"{file.name} is identical to {twin.name}, so each of its rows occurs twice")


def arrow_dataset(kind: str, files: Sequence[Path], run: Run) -> Dataset:
    """The rows of files that are tables already; `kind` is "parquet" or "arrow".

    Raises:
        InputError: a file is of another kind or damaged, or a column has types in two files that do not go together.
    """
    from glob import escape

    import pyarrow
    from datasets import disable_progress_bars
    from datasets.exceptions import DatasetGenerationError
    from datasets.packaged_modules.arrow.arrow import Arrow
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.utils import logging

    disable_progress_bars()
    features = _common_features({file: schema(kind, file) for file in files})
    _tell_copies(files, run)
    cache = run.cache / kind / _named(map(_stamp, files))
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what goes wrong is told below
    try:
        names = [escape(str(file)) for file in files]  # patterns are what is asked for
        builder = {"parquet": Parquet, "arrow": Arrow}[kind](cache_dir=str(cache), data_files=names, features=features)
        builder.download_and_prepare()  # load_dataset would tell the hub's counter, too
        return builder.as_dataset(split="train")
    except (pyarrow.ArrowException, DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        where = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        raise InputError(
            f"cannot be read as {kind} ({_short(cause)})", where=where, todo="create the file again"
        ) from None
    finally:
        logging.set_verbosity(level)


def schema(kind: str, file: Path) -> pa.Schema:
    """The schema of a parquet or Arrow file.

    Raises:
        InputError: it is empty, or of another kind.
    """
    import pyarrow

    if not file.stat().st_size:
        raise InputError("is empty", where=file, todo="check that it was copied completely")
    name = "a parquet file" if kind == "parquet" else "an Arrow file"
    try:
        if kind == "parquet":
            from pyarrow import parquet

            return parquet.read_schema(file)
        with file.open("rb") as opened:
            try:
                return pyarrow.ipc.open_stream(opened).schema
            except (OSError, pyarrow.ArrowInvalid):
                return pyarrow.ipc.open_file(opened).schema
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise InputError(
            f"is not {name} ({_short(error)})", where=file, todo="check that it was copied completely"
        ) from None


def _common_features(schemas: dict[Path, pa.Schema]) -> Features | None:
    """What the files' columns are together; None where all are alike, as `datasets` finds that itself."""
    import pyarrow
    from datasets import Features

    found = {file: Features.from_arrow_schema(schema) for file, schema in schemas.items()}
    first, *others = found.values()
    if all(other == first for other in others):
        return None
    common: dict[str, Any] = {}
    said: dict[str, Path] = {}
    for file, features in found.items():
        for name, feature in features.items():
            if common.setdefault(name, feature) != feature:
                pair = [Features({name: one}) for one in (common[name], feature)]
                try:
                    unified = pyarrow.unify_schemas([one.arrow_schema for one in pair], promote_options="permissive")
                except pyarrow.ArrowException:
                    types = [str(one.arrow_schema.field(name).type) for one in pair]
                    what = f'the column "{name}" is {types[1][:60]} here, and {types[0][:60]} in {said[name].name}'
                    raise InputError(what, where=file, todo="write the files with the same types") from None
                if any("Json" in repr(one) for one in pair):
                    what = (
                        f'the column "{name}" is JSON in one of this file and {said[name].name}, and not in the other'
                    )
                    raise InputError(what, where=file, todo="write the files with the same types")
                common[name] = Features.from_arrow_schema(unified.remove_metadata())[name]
            said.setdefault(name, file)
    return Features(common)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
