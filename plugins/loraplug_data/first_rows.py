"""Which columns the first rows of a source have, before all of them are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from loraplug import InputError
from loraplug_data.paths import RELATIVE

ROWS = 100
"""How many are looked at."""
_LARGE = 64 << 20  # bytes; a .json file is one document, and is read whole


def columns_of(file: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of the first rows of a file.

    Raises:
        InputError: it has no rows, or one of them cannot be read.
    """
    found: dict[str, None] = {}
    for row in islice(rows, ROWS):
        found |= dict.fromkeys(row)
    if not found:
        raise InputError("has no rows", where=file, todo="check that it is the right file")
    return list(found)


def is_large(file: Path) -> bool:
    """Whether reading a whole document of its size takes more than an instant."""
    return file.stat().st_size > _LARGE


def disk_columns(folder: Path, split: str) -> list[str]:
    """The columns of a folder that `save_to_disk` wrote; none where it does not tell.

    Raises:
        InputError: it is no such folder, or has no such split.
    """
    todo = "create it with Dataset.save_to_disk"
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, todo=RELATIVE)
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits") or []
        if split not in splits:
            named = ", ".join(map(str, splits))
            raise InputError(f'has no split "{split}"', where=folder, todo=f"splits: {named}")
        folder = folder / split
    if not (folder / "state.json").is_file():
        raise InputError("is not a saved data set", where=folder, todo=todo)
    return list(_json(folder / "dataset_info.json").get("features") or ())


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        todo = "create it again with Dataset.save_to_disk"
        raise InputError(f"cannot be read ({error})", where=path, todo=todo) from None
    return value if isinstance(value, dict) else {}
