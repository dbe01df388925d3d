"""Attaches new LoRA adapters to exactly the named layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loraplug.adapters import compat


def attach_adapter(model: Any, config: Any) -> Any:
    """A `PeftModel`: the model with new adapters on the modules and parameters of a `LoraConfig`, and no others.

    The config that is saved with them makes peft alone put them on the same layers, with the same values: where it
    would take a module's name for another (see `compat`), the module's weight is named as a parameter.

    Args:
        config: `target_modules` must be a list of names; it is changed in place.

    Raises:
        ValueError: peft's, where a layer cannot be adapted in the way the config says.
    """
    from peft import get_peft_model

    named = set(config.target_modules or ())
    with compat.targets_as_written():
        adapted = get_peft_model(model, config)
    name_as_weights(adapted, named)
    return adapted


def name_as_weights(adapted: Any, named: Iterable[str]) -> None:
    """Have the config of a `PeftModel`, as it will be saved, name those modules by weight that peft would mistake.

    Args:
        named: names of the modules that have adapters.
    """
    rewritten = compat.rewritten_names(adapted.get_base_model())
    mistaken = {name for name in named if name.rsplit(".", 1)[-1] in rewritten}
    if mistaken:
        saved = adapted.peft_config["default"]
        saved.target_modules = set(named) - mistaken
        saved.target_parameters = sorted({f"{name}.weight" for name in mistaken} | set(saved.target_parameters or ()))


def as_modules(model: Any, config: Any) -> bool:
    """Name layers whose weight a saved config names as a parameter as modules again, in place; whether there were any.

    peft would make such a layer's whole difference at every call, and could not do it for a quantised one.
    """
    named = list(getattr(config, "target_parameters", None) or ())
    modules = dict(model.named_modules())
    layers = {
        name for name in (one.removesuffix(".weight") for one in named) if hasattr(modules.get(name), "in_features")
    }
    if not layers:
        return False
    config.target_modules = set(config.target_modules or ()) | layers
    config.target_parameters = [one for one in named if one.removesuffix(".weight") not in layers] or None
    return True
