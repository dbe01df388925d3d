"""Loads what `open_model` has found: the base, the adapter on it, and the tokenizer it was trained with."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError, LoraplugError, Opened, Run
from loraplug_play.prompt import Prompter
from loraplug_play.voice import Voice

WEIGHTS = "adapter_model.safetensors"


@frozen
class Loaded:
    """A model ready to answer, and its base; `base` is None where the model is not known to come from another."""

    tuned: Voice
    base: Voice | None = None


def load(opened: Opened, run: Run, where: object) -> Loaded:
    """Load model and tokenizer; with an adapter, one model in memory speaks with it and without it.

    Args:
        where: the model as the user named it; errors name it.

    Raises:
        InputError: the base is missing, the adapter broken or of another shape, or there is no chat template.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    if opened.adapter is None:
        model = opened.loader.load_model(run, opened.quantizer)
        return Loaded(Voice(model, Prompter.of(opened.loader.load_tokenizer(run), where)))
    header = _check_files(opened.adapter)
    try:
        model = opened.loader.load_model(run, opened.quantizer)
        tokenizer = _tokenizer(opened, run)
    except LoraplugError as error:
        todo = f"{error.todo}; or name another place of the same base with --base"
        raise type(error)(f"its base cannot be loaded: {error.where}: {error.what}", where=where, todo=todo) from error
    prompter = Prompter.of(tokenizer, where)
    adapted = _put_on(model, opened.adapter, header)
    return Loaded(Voice(adapted, prompter, nullcontext), Voice(adapted, prompter, adapted.disable_adapter))


def _tokenizer(opened: Opened, run: Run) -> Any:
    """The one saved with the adapter; its chat template is the one of the training."""
    from transformers import AutoTokenizer

    folder = opened.adapter
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return opened.loader.load_tokenizer(run)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _check_files(folder: Path) -> list[str]:
    """Names of the adapter's tensors.

    Raises:
        InputError: no weights, pickled ones, a broken file, or values that are no numbers.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    try:
        if "peft_type" not in json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")):
            raise InputError("says no peft_type", where=folder / "adapter_config.json", todo="copy the adapter again")
    except (ValueError, TypeError) as error:
        where = folder / "adapter_config.json"
        raise InputError(f"not JSON ({error})", where=where, todo="copy the adapter again") from None
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        what = "has only pickled weights, which can run code when they are opened" if pickled else f"has no {WEIGHTS}"
        raise InputError(what, where=folder, todo=f"copy the whole adapter, with {WEIGHTS}")
    try:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            bad = [name for name in names if not torch.isfinite(tensors.get_tensor(name)).all()]
    except (SafetensorError, OSError) as error:
        raise InputError(f"is broken ({error})", where=file, todo="copy the adapter again") from None
    if bad:
        todo = "train again, with a smaller learning rate"
        raise InputError(f"{bad[0]} holds NaN or infinite values", where=file, todo=todo)
    return names


def _put_on(model: Any, folder: Path, names: list[str]) -> Any:
    """The model with the adapter, every tensor of which must have found its place."""
    import warnings

    from peft import PeftModel, get_peft_model_state_dict

    todo = "name the base it was trained on with --base"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is an error below
            adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"does not fit this base: {text}", where=folder, todo=todo) from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    strange = [name for name in names if "lora_" in name and name not in wanted]
    if lacking := [name for name in wanted if name not in names] or strange:
        raise InputError(
            f"does not fit this base: {len(lacking)} tensors, such as {lacking[0]}", where=folder, todo=todo
        )
    return adapted.eval()
