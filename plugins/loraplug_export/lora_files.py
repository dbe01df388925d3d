"""Reading an adapter folder as peft writes it."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from loraplug import InputError
from loraplug_export.edits import Edit, LowRank, Rows
from loraplug_export.tensors import Tensor, read_header

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

UNDERSTOOD = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
        "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
        "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r",
        "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices",
        "use_dora", "use_rslora",
    }
)  # fmt: skip
"""Settings whose effect on merged weights is implemented here; adapters with any other are merged by peft."""

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that do not change the base."""

_PART = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.weight)?$"
)


_TOKENS = ".token_adapter.trainable_tokens_delta"


@frozen
class Adapter:
    """An opened adapter folder, whose tensors are read lazily.

    Attributes:
        unknown: why it cannot be merged by this package's own arithmetic, or None.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    unknown: str | None

    @property
    def full_modules(self) -> tuple[str, ...]:
        """Names of fully trained modules (`modules_to_save`)."""
        return tuple(self.config.get("modules_to_save") or ())


def open_adapter(folder: Path) -> Adapter:
    """Open an adapter folder.

    Raises:
        InputError: a file is missing or damaged, or the weights are a pickle.
    """
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise InputError(
                "is a pickle, which can run code when it is loaded",
                where=folder / "adapter_model.bin",
                todo=f"ask for the adapter as {WEIGHTS}",
            )
        raise InputError(f"has {CONFIG} but no {WEIGHTS}", where=folder, todo="copy the whole adapter folder")
    tensors, _ = read_header(folder / WEIGHTS)
    if not tensors:
        raise InputError("holds no tensors", where=folder / WEIGHTS, todo="save the adapter again")
    return Adapter(folder, config, tensors, _unknown(config, tensors))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        what = f"has no {CONFIG}, so it is not an adapter folder" if folder.is_dir() else "no such folder"
        raise InputError(what, where=folder, todo="give a folder such as outputs/adapters/<run>")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not JSON ({error})", where=path, todo="the file may be incomplete: copy the adapter again"
        ) from None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise InputError("has no peft_type", where=path, todo="the file may be incomplete: copy the adapter again")
    return config


def _unknown(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    if config["peft_type"] != "LORA":
        return f"its peft_type is {config['peft_type']}"
    if strange := sorted(key for key, value in config.items() if value and key not in UNDERSTOOD):
        return f"it was trained with {', '.join(strange)}"
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        return f"init_lora_weights = {config['init_lora_weights']!r} changed the base when training began"
    odd = [
        name
        for name in tensors
        if not _PART.match(name) and not name.endswith(_TOKENS) and re.search(r"lora_|trainable_tokens|ranknum", name)
    ]
    return f"it holds {odd[0]}" if odd else None


def read_edits(adapter: Adapter, transposed: set[str]) -> dict[str, Edit]:
    """The adapter's changes, by the name of the model's parameter.

    Args:
        transposed: modules of the base whose weights are stored as (inputs, outputs).

    Raises:
        InputError: A or B is missing, ranks differ, or values are not finite.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    edits: dict[str, Edit] = {}
    where = adapter.folder / WEIGHTS
    for name, tensor in adapter.tensors.items():
        if not tensor.is_finite():
            raise InputError(
                f"{name} holds NaN or infinite values", where=where, todo="use an earlier checkpoint, or train again"
            )
        plain = name.removeprefix("base_model.model.")
        if match := _PART.match(plain):
            parts[match["module"]][match["part"]] = tensor
        elif plain.endswith(_TOKENS):
            module = plain.removesuffix(_TOKENS)
            edits[f"{module}.weight"] = Edit(rows=_rows(adapter.config, module, tensor, where))
        else:
            plain = re.sub(r"\.(base_layer|modules_to_save)(?=\.)", "", plain)
            edits[plain] = Edit(replacement=tensor)
    for module, found in parts.items():
        pair = _low_rank(adapter.config, module, found, module in transposed, where)
        edits[f"{module}.weight"] = evolve(edits.get(f"{module}.weight", Edit()), low_rank=pair)
        if pair.bias is not None:
            edits[f"{module}.bias"] = evolve(edits.get(f"{module}.bias", Edit()), added=pair)
    return edits


def _rows(config: Mapping[str, Any], module: str, values: Tensor, where: Path) -> Rows:
    """The trained rows of one module; the config names modules by full name, by its last parts, or not at all."""
    told = config.get("trainable_token_indices") or ()
    if isinstance(told, Mapping):
        told = next((ids for name, ids in told.items() if module == name or module.endswith(f".{name}")), ())
    numbers = tuple(told)
    if (
        not numbers
        or len(values.shape) != 2
        or values.shape[0] != len(set(numbers))
        or len(set(numbers)) < len(numbers)
    ):
        what = f"{module} has values for {values.shape[0]} tokens, and {CONFIG} names {len(numbers)}"
        raise InputError(what, where=where, todo="the file may be incomplete: copy the adapter again")
    return Rows(numbers, values)


def _low_rank(
    config: Mapping[str, Any], module: str, found: Mapping[str, Tensor], transposed: bool, where: Path
) -> LowRank:
    embedding = "lora_embedding_A" in found
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{module} has no {missing[0]}", where=where, todo="save the adapter again")
    a, b = (found[name] for name in names)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise InputError(f"A and B of {module} do not fit: {a.shape} and {b.shape}", where=where)
    rank = a.shape[0]
    alpha = _alpha(config, module)
    return LowRank(
        a=a,
        b=b,
        scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        magnitude=found.get("lora_magnitude_vector"),
        bias=found.get("lora_B.bias"),
        transposed=embedding or transposed,
    )


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """`lora_alpha`, or the first matching entry of `alpha_pattern`, matched as in peft: at the name's end."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(alpha)
    return float(config.get("lora_alpha", 8))
