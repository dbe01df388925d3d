"""Checks the files of a base model's folder or repository, by names and safetensors headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from loraplug import InputError, weight_names

Weights = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name to dtype (safetensors' name) and shape."""
_LONGEST = 100_000_000  # largest header in bytes, as in the library
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_POINTER = b"version https://git-lfs"


def weights_of(names: Collection[str], read: Callable[[str], str], where: object) -> list[str]:
    """The weight files of a base model, of all file names in its folder or repository.

    Args:
        names: the files, with `/` between folders.
        read: returns the text of one of them.
        where: errors name it.

    Raises:
        InputError: it is not a complete base model with safetensors weights.
    """
    if "adapter_config.json" in names:
        raise InputError(
            "is an adapter, not a base model", where=where, todo="give the adapter's base model, or a merged folder"
        )
    if "config.json" not in names:
        what, todo = "has no config.json", "give a folder or repository written by save_pretrained"
        if any(name.endswith(".gguf") for name in names):
            what, todo = "has GGUF files and no config.json", "give the path of one .gguf file as model.id"
        raise InputError(what, where=where, todo=todo)
    found = weight_names(names, read, where)
    if found:
        return found
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if others:
        what = f"has no model.safetensors and no index of shards, only {', '.join(others[:3])}"
        raise InputError(what, where=where, todo="use a folder or repository written by save_pretrained")
    todo = "convert it: AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder) in a sandbox"
    if any(name.endswith(_PICKLED) for name in names):
        raise InputError("has no .safetensors weights; pickled ones are not loaded", where=where, todo=todo)
    raise InputError("has no weights", where=where, todo="give a model that has .safetensors files")


def check_whole(file: Path, where: object, todo: str) -> None:
    """Check a safetensors file against its header, which gives the file's length.

    Raises:
        InputError: it is truncated, damaged, or a Git LFS pointer.
    """
    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        raise InputError(
            "is a Git LFS pointer, not the weights themselves", where=f"{where}: {file.name}", todo="run `git lfs pull`"
        )
    try:
        header(file)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        text = f"is truncated or damaged ({' '.join(str(error).split())[:200]})"
        raise InputError(text, where=f"{where}: {file.name}", todo=todo) from None


def header(path: Path) -> Weights:
    """The header of a safetensors file (8 bytes of length, then JSON); read here, as the library imports numpy.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not safetensors, or truncated.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST:
            raise ValueError("no header")
        table = json.loads(file.read(length))
    tensors = {name: told for name, told in table.items() if name != "__metadata__"}
    ends = max((int(told["data_offsets"][1]) for told in tensors.values()), default=0)
    if (size := path.stat().st_size) != (whole := 8 + length + ends):
        raise ValueError(f"{size:,} bytes of {whole:,}")
    return {name: (str(told["dtype"]), tuple(map(int, told["shape"]))) for name, told in tensors.items()}
