"""Adapters of a model that also sees or hears, put on its text part alone.

transformers' causal language model of such a base may be the text part, whose modules have shorter names than those of
the published class; most others train adapters on that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_TEXT = {"language_model", "text_model"}  # what published classes call their text part
_HEAD = "base_model.model."


def text_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """New names of an adapter's tensors, by their old ones; those of towers, which text never reaches, are left out.

    Empty where the adapter is none of a published class around this model.
    """
    modules = {name for name, _ in model.named_modules()}
    found, moved = {}, False
    for name in names:
        path = name.removeprefix(_HEAD)
        module = path.partition(".lora_")[0]
        if module in modules or module == path:
            found[name] = _HEAD + _shorter(path)
        elif _shorter(module) in modules:
            found[name], moved = _HEAD + _shorter(path), True
        elif _shorter(module) != module:
            return {}
    return found if moved else {}


def load_on_text_part(model: Any, folder: Path, names: Mapping[str, str]) -> Any:
    """A `PeftModel` of the model and of what `text_names` found in an adapter's folder.

    Raises:
        OSError, RuntimeError, ValueError, KeyError, TypeError: peft's, where the adapter does not fit.
    """
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    from loraplug.adapters.compat import names_as_saved
    from loraplug.adapters.precision import mixed_precision

    dtype = model.dtype
    config = PeftConfig.from_pretrained(str(folder))
    adapted_layers = {name.removeprefix(_HEAD).partition(".lora_")[0] for name in names.values() if ".lora_" in name}
    config.target_modules, config.exclude_modules = adapted_layers, None
    for pattern in ("rank_pattern", "alpha_pattern"):
        given = getattr(config, pattern, None) or {}
        setattr(config, pattern, {_shorter(name): value for name, value in given.items()})
    adapted = PeftModel(model, config)
    values = load_peft_weights(str(folder), device="cpu", use_safetensors=True, local_files_only=True)
    mixed_precision(adapted, dtype)
    with names_as_saved():
        set_peft_model_state_dict(adapted, {names[name]: value for name, value in values.items() if name in names})
    return adapted


def _shorter(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _TEXT)
