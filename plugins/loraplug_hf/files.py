"""What a base model's folder or repository must hold, told by its file names and the heads of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from loraplug import InputError, weight_names

Weights = dict[str, tuple[str, tuple[int, ...]]]
"""Name to number format (as safetensors says it) and shape."""
_LONGEST = 100_000_000  # bytes of a header, as the library has it
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_POINTER = b"version https://git-lfs"


def weights_of(names: Collection[str], read: Callable[[str], str], where: object) -> list[str]:
    """The weights of a base model among the files that its folder or repository holds, by name.

    Args:
        names: the files, with `/` between folders.
        read: gives the text of one of them.
        where: errors name it.

    Raises:
        InputError: it is no whole base model with safetensors weights.
    """
    if "adapter_config.json" in names:
        raise InputError("is an adapter, not a base model", where=where, todo="give its base model, or a merged folder")
    if "config.json" not in names:
        what, todo = "has no config.json", "give a folder or repository that save_pretrained wrote"
        if any(name.endswith(".gguf") for name in names):
            what, todo = "holds GGUF files and no config.json", "give the path of one .gguf file as model.id"
        raise InputError(what, where=where, todo=todo)
    found = weight_names(names, read, where)
    if found:
        return found
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if others:
        what = f"has no model.safetensors and no index of shards, only {', '.join(others[:3])}"
        raise InputError(what, where=where, todo="take a repository or folder that save_pretrained wrote")
    todo = "convert it: AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder) in a sandbox"
    if any(name.endswith(_PICKLED) for name in names):
        raise InputError("has no .safetensors weights; pickled ones are not loaded", where=where, todo=todo)
    raise InputError("has no weights", where=where, todo="give a model that has .safetensors files")


def check_whole(file: Path, where: object, todo: str) -> None:
    """Hold a safetensors file to its head, which says how long it must be.

    Raises:
        InputError: it is cut short, broken, or the pointer that stands for it in a clone without Git LFS.
    """
    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        raise InputError("is a Git LFS pointer, not weights", where=f"{where}: {file.name}", todo="run `git lfs pull`")
    try:
        header(file)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        text = f"is cut short or broken ({' '.join(str(error).split())[:200]})"
        raise InputError(text, where=f"{where}: {file.name}", todo=todo) from None


def header(path: Path) -> Weights:
    """What a safetensors file says of its tensors: a length of 8 bytes, JSON, the tensors. The library loads numpy.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none, or cut short.
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
