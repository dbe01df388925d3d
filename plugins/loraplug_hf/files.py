"""What a base model's folder or repository must hold, told by its file names and the heads of its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from loraplug import InputError, weight_names

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
        what, todo = "has no config.json", "give a folder that save_pretrained wrote"
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
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        raise InputError("is a Git LFS pointer, not weights", where=f"{where}: {file.name}", todo="run `git lfs pull`")
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        text = f"is cut short or broken ({' '.join(str(error).split())[:200]})"
        raise InputError(text, where=f"{where}: {file.name}", todo=todo) from None
