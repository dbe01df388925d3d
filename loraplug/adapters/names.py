"""Names of an adapter's tensors: those that modules have in the model, and those that its file has.

They are the same, but where peft would take a module's own name for one of the base's checkpoint and rename it: then
the file has the checkpoint's name for the module, which peft reads as it should, and so do servers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loraplug.adapters import compat
from loraplug.adapters.load import WEIGHTS

_HEAD = "base_model.model."


def model_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Names of an adapter's tensors in a model, by their names in a file; a name that leads nowhere stays as it is.

    Args:
        model: the base; it may have no memory.
    """
    modules = {name for name, _ in model.named_modules()}
    found = {}
    for name in names:
        path = name.removeprefix(_HEAD)
        found[name] = name
        if ".lora_" in path and _module(path) not in modules:
            other = compat.renamed(model, path)
            if _module(other) in modules:
                found[name] = _HEAD + other
    return found


def save_adapter(adapted: Any, folder: Path) -> list[str]:
    """Save a `PeftModel`'s adapter so that peft alone reads all of it, as far as that can be done.

    Returns:
        Modules whose adapters peft alone would leave at zero, whatever the file calls them.
    """
    adapted.save_pretrained(folder, save_embedding_layers=False)  # those of the base stay out, beside their adapters
    return settle_names(adapted.get_base_model(), folder)


def settle_names(model: Any, folder: Path) -> list[str]:
    """Rename the tensors in an adapter's file that peft alone would miss, where that helps.

    Args:
        model: the base, whose memory is not looked at.

    Returns:
        Modules whose adapters peft alone would leave at zero all the same.
    """
    from peft import PeftConfig
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != "LORA":  # no other kind's names are changed
        return []
    with safe_open(folder / WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if ".lora_" in name]  # noqa: SIM118 - no mapping
    lost = _lost(model, config, {name: name for name in names})
    if not lost:
        return []
    others = {name: name for name in names}
    others |= {name: _HEAD + compat.renamed(model, name.removeprefix(_HEAD), saved=True) for name in lost}
    if (
        len(set(others.values())) < len(others)
        or _lost(model, config, others)
        or model_names(model, others.values()) != {stored: name for name, stored in others.items()}
    ):
        return sorted({_module(name.removeprefix(_HEAD)) for name in lost})
    with safe_open(folder / WEIGHTS, "pt") as file:
        values = {others.get(name, name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    save_file(values, folder / WEIGHTS, about)
    return []


def _lost(model: Any, config: Any, stored: dict[str, str]) -> list[str]:
    """The names in the model to which peft alone would not bring what the file has for them."""
    read = compat.read_by_peft(model, config, [*stored.values()])
    return [name for name, place in stored.items() if read.get(name) != place]


def _module(path: str) -> str:
    return path.partition(".lora_")[0]
