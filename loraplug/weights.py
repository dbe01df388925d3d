"""Which of a model's files hold its weights: one set, the one that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from loraplug.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "download the complete model again"


def weight_names(names: Collection[str], read: Callable[[str], str], where: object) -> list[str]:
    """The safetensors files of a model, of all that its folder or repository holds.

    As in transformers: the file that `transformers_weights` in config.json names, else `model.safetensors`, else the
    shards that `model.safetensors.index.json` names. Other sets of the same weights (`consolidated.safetensors`, those
    of a variant, of `original/`, pickles) are never among them.

    Args:
        names: the files there are, with `/` between folders.
        read: gives the text of one of them.
        where: the folder or repository; errors name it.

    Returns:
        Names, sorted; none where there are no such weights.

    Raises:
        InputError: config.json or the index is broken, or a file they name is not there.
    """
    config = _table("config.json", read, where) if "config.json" in names else {}
    said = config.get("transformers_weights")
    first = said or next((name for name in (SINGLE, INDEX) if name in names), None)
    if first is None:
        return []
    by = "config.json"
    found: list[Any] = [first]
    if first in names and str(first).endswith(".index.json"):
        by, shards = first, _table(first, read, where).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InputError("not an index of weights (no weight_map)", where=f"{where}: {first}", todo=_AGAIN)
        found = [*dict.fromkeys(shards.values())]
    strays = [name for name in found if not isinstance(name, str) or Path(name).name != name]
    if strays:
        todo = "use a model from a source you trust"
        raise InputError(f"names a file outside its folder ({strays[0]})", where=f"{where}: {by}", todo=todo)
    if missing := sorted(set(found).difference(names)):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        verb = "is" if len(missing) == 1 else "are"
        text = f"is incomplete: {', '.join(missing[:3])}{more} {verb} missing"
        raise InputError(f"{text}, of {len(found)} weight files that {by} names", where=where, todo=_AGAIN)
    return sorted(found)


def weight_files(folder: Path) -> list[Path]:
    """`weight_names` of a local folder, as paths.

    Raises:
        InputError: as there; or the folder cannot be read.
    """
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=folder, todo="check the base model") from None
    return [folder / name for name in weight_names(names, lambda name: _text(folder / name), folder)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _table(name: str, read: Callable[[str], str], where: object) -> dict[str, Any]:
    try:
        found = json.loads(read(name))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})", where=f"{where}: {name}", todo=_AGAIN) from None
    if not isinstance(found, dict):
        raise InputError("not a JSON object", where=f"{where}: {name}", todo=_AGAIN)
    return found
