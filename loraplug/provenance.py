"""`loraplug.json`, which lies in every folder of weights that loraplug makes: one file, one schema, with a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, fields, frozen

from loraplug.errors import InputError

PROVENANCE = "loraplug.json"
"""Name of the provenance file in a folder of weights."""
PROVENANCE_VERSION = 1
"""Raised when a key changes its meaning or goes; a new key with a default does not raise it."""


@frozen(kw_only=True)
class Provenance:
    """What the weights in a folder were made from, and how.

    Attributes:
        base: hub id or path of the base model; None if it was not recorded.
        dtype: dtype in which the base was loaded for training, such as `"bfloat16"`; it was quantised from this one.
        quantization: the base's `quantization_config` in training; None if it was not quantised.
        adapted: share of the base's weights that were trained, as numbers and as a sentence (`text`).
        quantised: the same of the weights that were quantised.
        lost_by_peft: modules whose adapters plain peft does not load, as it takes their names for others.
        onto: of merged models: the weights that the adapter was merged into, `"original"` or `"dequantized"`.
        proof: of merged models: how the merge was verified, with its largest difference; None if it was not.
        derived: of adapters that were merged, extracted or converted: from what, how, and with what error.
    """

    base: str | None = None
    dtype: str | None = None
    quantization: Mapping[str, Any] | None = None
    adapted: Mapping[str, Any] | None = None
    quantised: Mapping[str, Any] | None = None
    lost_by_peft: tuple[str, ...] = ()
    onto: str | None = None
    proof: Mapping[str, Any] | None = None
    derived: Mapping[str, Any] | None = None


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write it into a folder."""
    text = json.dumps({"version": PROVENANCE_VERSION} | asdict(provenance), indent=1, default=str)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_provenance(folder: Path) -> Provenance | None:
    """What a folder records; None if it has no `loraplug.json`. Keys of later versions are ignored.

    Raises:
        InputError: the file is damaged, or was written by a loraplug whose schema is newer than this one.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    todo = "the file may be incomplete: copy the folder again"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})", where=path, todo=todo) from None
    if not isinstance(facts, dict):
        raise InputError("not a JSON object", where=path, todo=todo)
    version = facts.get("version", PROVENANCE_VERSION)
    if not isinstance(version, int):
        raise InputError("its version is not an integer", where=path, todo=todo)
    if version > PROVENANCE_VERSION:
        what = f"was written in version {version} of this file, and this loraplug reads up to {PROVENANCE_VERSION}"
        raise InputError(what, where=path, todo="install a newer loraplug")
    for key, kinds in _KINDS.items():
        if not isinstance(facts.get(key), (*kinds, type(None))):
            raise InputError(f"{key} has the wrong type, {type(facts[key]).__name__}", where=path, todo=todo)
    found = {one.name: facts[one.name] for one in fields(Provenance) if facts.get(one.name) is not None}
    return Provenance(**found | {"lost_by_peft": tuple(facts.get("lost_by_peft") or ())})


_KINDS: dict[str, tuple[type, ...]] = {
    "base": (str,), "dtype": (str,), "quantization": (dict,), "adapted": (dict,), "quantised": (dict,),
    "lost_by_peft": (list,), "onto": (str,), "proof": (dict,), "derived": (dict,),
}  # fmt: skip
