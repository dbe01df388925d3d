"""Loads an adapter folder in peft's format onto a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from loraplug.config.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def tensor_names(folder: Path) -> list[str]:
    """Names of the adapter's tensors.

    Raises:
        InputError: no weights, pickled ones, a damaged file, or NaN or infinite values.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    config, file = folder / CONFIG, folder / WEIGHTS
    try:
        if "peft_type" not in json.loads(config.read_text(encoding="utf-8")):
            raise InputError(
                "has no peft_type", where=config, todo="the file may be incomplete: copy the adapter again"
            )
    except (ValueError, TypeError) as error:
        raise InputError(
            f"not JSON ({error})", where=config, todo="the file may be incomplete: copy the adapter again"
        ) from None
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        what = "has only pickled weights, which can run code when they are loaded" if pickled else f"has no {WEIGHTS}"
        raise InputError(what, where=folder, todo=f"copy the whole adapter, with {WEIGHTS}")
    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            bad = [name for name in names if not torch.isfinite(tensors.get_tensor(name)).all()]
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"is damaged ({error})", where=file, todo="the file may be incomplete: copy the adapter again"
        ) from None
    if bad:
        todo = "train again, with a smaller learning rate"
        raise InputError(f"{bad[0]} holds NaN or infinite values", where=file, todo=todo)
    return names


def put_on(model: Any, folder: Path, names: Collection[str], warn: Callable[[str], None] = lambda _: None) -> Any:
    """A `PeftModel` in evaluation mode; all tensors of the adapter have been loaded.

    It computes as it did when it was trained, see `precision`. An adapter of the published class around a model of text
    alone is put on that; what it has of towers that see or hear is left out, and warned of.

    Args:
        names: what `tensor_names` found in the folder.
        warn: is told what is left out.

    Raises:
        InputError: the adapter belongs to another base.
    """
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns about an optional package
    from peft import get_peft_model_state_dict

    from loraplug.adapters.names import model_names
    from loraplug.adapters.text_part import load_on_text_part, text_names

    todo = "give the base it was trained on with --base"
    moved = text_names(model, names)
    if moved and (left := len(names) - len(moved)):
        warn(
            f"{folder}: {left} of its {len(names)} tensors belong to image or audio encoders, which are not loaded: "
            "ignored"
        )
    names = moved.values() if moved else model_names(model, names).values()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is an error below
            adapted = load_on_text_part(model, folder, moved) if moved else load_adapter(model, folder)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"does not fit this base: {text}", where=folder, todo=todo) from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    strange = [name for name in names if "lora_" in name and name not in wanted]
    if lacking := [name for name in wanted if name not in names] or strange:
        raise InputError(
            f"does not fit this base: {len(lacking)} tensors are missing, such as {lacking[0]}", where=folder, todo=todo
        )
    return adapted.eval()


def put_beside(adapted: Any, folder: Path, names: Collection[str], name: str) -> None:
    """Load a further adapter into a `PeftModel`, in place; the active adapter does not change.

    Args:
        adapted: what `put_on` made.
        names: what `tensor_names` found in the folder.
        name: by which peft is to know the adapter.

    Raises:
        InputError: the adapter belongs to another base, or changes more of the base than its linear layers, so that it
            cannot lie beside others.
    """
    import warnings

    from peft import PeftConfig, get_peft_model_state_dict

    from loraplug.adapters.compat import names_as_saved
    from loraplug.adapters.names import model_names
    from loraplug.adapters.precision import store_in_float32

    todo = "give the base it was trained on with --base"
    try:
        config = PeftConfig.from_pretrained(str(folder))
        more = [key for key in ("modules_to_save", "trainable_token_indices", "target_parameters", "bias")
                if getattr(config, key, None) not in (None, [], {}, "none")]  # fmt: skip
        if more:
            raise InputError(
                f"has {', '.join(more)}, and cannot be loaded beside other adapters",
                where=folder,
                todo="serve this adapter alone",
            )
        names = model_names(adapted.get_base_model(), names).values()
        with warnings.catch_warnings(), names_as_saved():
            warnings.simplefilter("ignore")  # what is missing is an error below
            adapted.load_adapter(
                str(folder), name, is_trainable=False, local_files_only=True, use_safetensors=True,
                autocast_adapter_dtype=True,
            )  # fmt: skip
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"does not fit this base: {text}", where=folder, todo=todo) from error
    wanted = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False).keys()
    if lacking := {*wanted} ^ {*names}:
        what = f"does not fit this base: {len(lacking)} tensors are missing, such as {min(lacking)}"
        raise InputError(what, where=folder, todo=todo)
    store_in_float32(adapted)
    adapted.eval()


def load_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """A `PeftModel`: the model with the folder's adapter, its values in float32 as they were saved; see `precision`.

    Args:
        trainable: a trainer will hold it to the rule of precision, after its own changes; else it is held to it here.

    Raises:
        OSError, RuntimeError, ValueError, KeyError, TypeError: peft's, where the adapter does not fit.
    """
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    from loraplug.adapters.attach import as_modules, name_as_weights
    from loraplug.adapters.compat import names_as_saved, targets_as_written
    from loraplug.adapters.precision import mixed_precision, store_in_float32
    from loraplug.adapters.tokens import grow_for_adapter

    dtype = model.dtype
    options = {"use_safetensors": True, "local_files_only": True}
    config = PeftConfig.from_pretrained(str(folder))
    by_weight = as_modules(model, config)
    grow_for_adapter(model, config)
    named = set(getattr(config, "target_modules", None) or ())
    with targets_as_written() if by_weight else nullcontext(), names_as_saved():
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable, config=config, **options)
    if by_weight:
        name_as_weights(adapted, named)
    narrow = any(config.modules_to_save for config in adapted.peft_config.values()) and dtype.itemsize < 4
    store_in_float32(adapted) if trainable else mixed_precision(adapted, dtype)
    if narrow:  # peft copied them from the base, in its dtype, and rounded what it read
        with names_as_saved():
            set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu", **options))
    return adapted
