"""Which files a `path` of a recipe means: a file, several, a pattern or a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from loraplug import InputError
from loraplug_data.remote import is_address, is_remote, name_of, shown
from loraplug_data.streams import PACKED

Paths = str | Path | tuple[str | Path, ...]
"""Paths, and addresses, which stay text: a path has no `//` in it."""

SOURCES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".traj": "traces",
}
"""The source that reads files of an ending."""

RELATIVE = "a relative path starts from the recipe's folder, or with --set from the current one"
"""What to say where a file that a recipe names is not there."""
_OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ("a workbook", 'save the sheet as CSV and write use = "csv"')),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), ("an archive", "unpack it and give the files in it")),
    **dict.fromkeys((".pkl", ".pickle", ".pt"), ("a pickle, which can run any code", "save the rows as JSON Lines")),
}
_ALIKE = {"json": {"json", "jsonl"}, "jsonl": {"json", "jsonl"}, "traces": {"json", "jsonl", "traces"}}
_SPLITS = {"test", "valid", "validation", "val", "dev", "eval"}
_SHOWN = 5


def as_written(value: Path | str | Sequence[Path | str]) -> Paths:
    """One path or several; addresses stay as they are."""
    return _one(value) if isinstance(value, Path | str) else tuple(map(_one, value))


def _one(value: Path | str) -> Path | str:
    return value if isinstance(value, str) and is_address(value) else Path(value)


def ending(name: str) -> str:
    """The ending that tells what a file holds: `.jsonl` of `part.JSONL.gz`."""
    path = Path(name)
    return (Path(path.stem) if path.suffix.lower() in PACKED else path).suffix.lower()


def source_of(path: str) -> str | None:
    """The source that reads what a path means, by endings; None where they do not tell, or tell of several."""
    if is_address(path):
        return SOURCES.get(ending(name_of(path)))
    folder = Path(path)
    if saved_by_datasets(folder):
        return "disk"
    names = [one.name for one in _inside(folder)] if folder.is_dir() else [path]
    found = {SOURCES[ending(name)] for name in names if ending(name) in SOURCES}
    return found.pop() if len(found) == 1 else None


def saved_by_datasets(folder: Path) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def find_files(path: Paths, source: str, fetch: Callable[[str], list[Path]]) -> list[Path]:
    """The files a `path` means, for the source of that name; patterns and folders in the order of names.

    Args:
        path: of the recipe.
        source: its name.
        fetch: gives the local copies of what lies at an address.

    Raises:
        InputError: nothing there, a file that another source reads, a file that is named twice, or a folder or pattern
            of which it is not plain what is to be trained.
    """
    files = [
        file
        for one in (path if isinstance(path, tuple) else (path,))
        for file in (fetch(str(one)) if is_remote(one) else _of_one(one, source))
    ]
    for file in files:
        check_kind(file, source)
    seen: dict[Path, Path] = {}
    for file in files:
        if (real := file.resolve()) in seen:
            what = "is named twice" if seen[real] == file else f"is the same file as {seen[real]}"
            raise InputError(what, where=file, todo="list every file once")
        seen[real] = file
    return files


def _of_one(one: str | Path, source: str) -> list[Path]:
    path, given = Path(one), str(one)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            return _of_folder(path, source)
    except OSError as error:  # no right to look, or a name that is too long
        raise InputError(f"cannot be read ({error.strerror})", where=given, todo="check the path") from None
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", given):
        hub = given.startswith(("hf:", "hub:")) or "huggingface.co/" in given
        todo = 'write use = "hub" and id = "owner/name"' if hub else "download it, and give the path of the file"
        what = "is an address of " + (
            "the hub" if hub else "an unsupported kind; supported are https://, s3:// and gs://"
        )
        raise InputError(what, where=shown(given), todo=todo)
    if re.search(r"[*?\[]", given):
        return _of_pattern(given)
    if path.exists():
        raise InputError("is neither a file nor a folder", where=given)
    raise InputError("no such file or folder", where=given, todo=_near(path))


def _of_pattern(given: str) -> list[Path]:
    from glob import glob

    files = [path for path in map(Path, sorted(glob(given, recursive=True))) if path.is_file()]  # noqa: PTH207
    if not files:
        raise InputError("no file matches this pattern", where=given, todo=_near(Path(given)))
    _check_splits(files, given)
    return files


def _of_folder(folder: Path, source: str) -> list[Path]:
    inside = list(_inside(folder))
    files = [path for path in inside if SOURCES.get(ending(path.name)) == source]
    others = [path for path in inside if ending(path.name) in SOURCES and path not in files]
    if saved_by_datasets(folder):
        raise InputError("is a folder that save_to_disk wrote", where=folder, todo='write use = "disk"')
    if not files:
        wanted = " or ".join(one for one, name in SOURCES.items() if name == source)
        what = f"the folder has no {wanted} files"
        if others:
            kinds = sorted({SOURCES[ending(path.name)] for path in others})
            raise InputError(what, where=folder, todo=f"for {_named(others)} write use = {_quoted(kinds)}")
        raise InputError(what, where=folder, todo=_further_in(folder, source))
    if others:
        what = f"the folder has {_named(files)}, and also files that {source} cannot read: {_named(others)}"
        todo = f'select the files: path = "{folder}/*{ending(files[0].name)}"'
        raise InputError(what, where=folder, todo=todo)
    _check_splits(files, str(folder))
    return files


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def _further_in(folder: Path, source: str) -> str:
    wanted = [one for one, name in SOURCES.items() if name == source]
    for one in wanted:
        if next(folder.glob(f"*/**/*{one}*"), None) is not None:
            return f'there are some in subfolders: path = "{folder}/**/*{one}"'
    return "check that it is the right folder; for files without an extension give a pattern"


def _check_splits(files: list[Path], given: str) -> None:
    """A folder with train and test files is not trained on whole by mistake."""
    words = {path: set(re.split(r"[^a-z0-9]+", path.name.lower())) for path in files}
    train = [path for path in files if words[path] & {"train", "training"}]
    held = [path for path in files if words[path] & _SPLITS and path not in train]
    if train and held:
        names = f'path = "{train[0].name}", or a list of the files'
        what = f"has files of several splits ({_named(train)}; {_named(held)})"
        raise InputError(what, where=given, todo=f"select those to train on, {names}")


def check_kind(file: Path | str, source: str) -> None:
    """InputError where the ending of a file, or of an address, is of another source."""
    found = ending(name_of(file) if isinstance(file, str) else file.name)
    what, todo = _OTHERS.get(found, ("", ""))
    kind = SOURCES.get(found)
    if kind is not None and kind not in _ALIKE.get(source, {source}):
        what, todo = f"a {found} file, which the source {source} does not read", f'write use = "{kind}"'
    if what:
        raise InputError(f"is {what}", where=shown(str(file)), todo=todo)


def _near(path: Path) -> str:
    try:
        names = [one.name for one in _inside(path.parent)]
    except OSError:
        return RELATIVE
    near = get_close_matches(path.name, names, n=3)
    return f"{RELATIVE}; similar: {', '.join(near)}" if near else RELATIVE


def _named(files: Iterable[Path]) -> str:
    names = [path.name for path in files]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _quoted(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
