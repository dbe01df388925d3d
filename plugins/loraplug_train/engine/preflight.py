"""Checks before loading, from the model's files: module names, and lower bounds of memory and disk space."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import BaseFacts, InputError, Problem, Run, layer_weights
from loraplug_train.adapters.targets import name_problems
from loraplug_train.engine import shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_train.trainer import EngineTrainer

_BY_FILE = frozenset({
    "cohere", "gemma", "gemma2", "granite", "llama", "mistral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3",
    "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
"""Families whose weights have the names of their modules; in other families a module may have a name that no file
has.
"""
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "token_embd")
_HEAD = "lm_head"


def problems(options: EngineTrainer, run: Run, recipe: Any) -> Iterator[Problem]:
    """Problems that would stop the training, found from files alone."""
    facts, lora = recipe.model.facts(run=run), options.lora_options
    if lora is None:
        pass  # another adapter, which reports its own problems
    elif lora.start_from is not None:
        where = f"{lora.table}.start_from"
        yield from _not_an_adapter(where, lora.start_from, getattr(recipe.model, "add_tokens", ()))
    elif facts is not None and facts.weights and not facts.is_gguf and facts.config.get("model_type") in _BY_FILE:
        modules, linear = modules_of(facts)
        leaves = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
        for wrong in name_problems(lora, modules, linear):
            option, _, what = wrong.partition(": ")
            yield Problem(f"{lora.table}.{option}", f"{what}; linear layers: {leaves}")
    if facts is not None and facts.weights:
        yield from _too_large(facts, recipe)


def modules_of(facts: BaseFacts) -> tuple[list[str], list[str]]:
    """Names of all modules, and of the linear layers but the output, derived from the weights' names."""
    modules: dict[str, None] = {}
    linear = []
    for name, (_, shape) in facts.weights.items():
        parts = name.split(".")[:-1]
        modules |= {".".join(parts[:count]): None for count in range(1, len(parts) + 1)}
        if name.endswith(".weight") and len(shape) == 2 and parts[-1] not in (*_EMBEDDINGS, _HEAD):
            linear.append(".".join(parts))
    return [*modules, *([_HEAD] if _HEAD not in modules else [])], linear


def trained_numbers(options: EngineTrainer, run: Run, recipe: Any) -> int:
    """About how many parameters are trained: adapters of rank r, and modules_to_save."""
    facts = recipe.model.facts(run=run)
    if facts is None:
        return 0
    if options.makes() == "model":
        return int(facts.parameters)
    lora = options.lora_options or options.lora
    wanted = lora.target_modules
    ends = None if isinstance(wanted, str) else set(wanted)
    total = 0
    for name, (_, shape) in facts.weights.items():
        module = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if module in lora.modules_to_save:
            total += shape[0] * shape[-1]
        elif len(shape) == 2 and module not in (*_EMBEDDINGS, _HEAD, "output") and (ends is None or module in ends):
            total += lora.r * (shape[0] + shape[1])
    return total


def _not_an_adapter(where: str, folder: Path, tokens: Sequence[str]) -> Iterator[Problem]:
    path = folder / "adapter_config.json"
    try:
        trained = bool(json.loads(path.read_text(encoding="utf-8")).get("trainable_token_indices"))
        if trained != bool(tokens):
            had, now = ("some", "none") if trained else ("none", "some")
            what = f"was trained with {had} in model.add_tokens, and the recipe has {now}; both must be the same"
            yield Problem(where, f"{folder}: {what}")
    except (OSError, ValueError, AttributeError):
        what = "is not an adapter folder (no readable adapter_config.json); check the path"
        yield Problem(where, f"{folder}: {what}")


def experts_too_large(run: Run, recipe: Any, model: PreTrainedModel) -> Iterator[Problem]:
    """A base that fits into memory if everything is quantized, but not with fused experts unquantized."""
    facts = recipe.model.facts(run=run)
    fused = sum(weight.count for weight in layer_weights(model) if weight.kind == "experts")
    if recipe.quantizer is None or facts is None or not fused or any(_too_large(facts, recipe)):
        return
    wide = 4 if getattr(recipe.model, "dtype", "auto") == "float32" else 2
    yield from _too_large(facts, recipe, int(fused * (wide - getattr(recipe.quantizer, "bits", 4) / 8)))


def _too_large(facts: BaseFacts, recipe: Any, unquantised: int = 0) -> Iterator[Problem]:
    """A base whose weights alone exceed the machine's memory.

    Args:
        unquantised: bytes that fused experts take beyond the quantizer's bits, as they are not quantized.
    """
    if _has_gpu() or _shared_out():
        return
    least, there = _least_bytes(facts.weights, recipe) + unquantised, _memory()
    if least > there:
        why = ", as [quantizer] does not quantize fused experts" if unquantised else ""
        what = (
            f"the weights alone take {least / 1e9:.1f} GB{why}, and this machine has {there / 1e9:.1f} GB of memory; "
            "use a smaller base model" + ("" if recipe.quantizer else ', or 4 bits: [quantizer] use = "bitsandbytes"')
        )
        yield Problem("model.id", what)


def _least_bytes(weights: Mapping[str, tuple[str, tuple[int, ...]]], recipe: Any) -> float:
    """A lower bound of the weights' bytes: two per parameter, of quantized layers bits / 8."""
    bits = getattr(recipe.quantizer, "bits", 4) if recipe.quantizer is not None else None
    wide = 4 if getattr(recipe.model, "dtype", "auto") == "float32" else 2
    total = 0.0
    for name, (_, shape) in weights.items():
        numbers = 1
        for length in shape:
            numbers *= length
        whole = len(shape) < 2 or any(word in name for word in (*_EMBEDDINGS, _HEAD))
        total += numbers * (wide if bits is None or whole else bits / 8)
    return total


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def _shared_out() -> bool:
    try:
        return shards.requested() in shards.SHARDED
    except InputError:  # reported by the check of the options
        return True


def _memory() -> float:
    """The machine's memory and swap (bytes), or a container's limit."""
    import psutil

    sizes = [float(psutil.virtual_memory().total + psutil.swap_memory().total)]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        sizes.append(float(most))
    return min(sizes)
