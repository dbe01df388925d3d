"""A LoRA config and tensor names from pairs, in peft's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from loraplug_export.derive.low_rank import Pair

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

PREFIX = "base_model.model."


def plain_lora(pairs: Mapping[str, Pair], modules: Iterable[str]) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """The config and tensors of an adapter with these LoRA pairs, by module.

    Args:
        modules: names of all modules of the base; layers are named by their last part if that is unambiguous.
    """
    from peft import LoraConfig

    rank = Counter(pair.rank for pair in pairs.values()).most_common(1)[0][0]
    odd = {module: pair.rank for module, pair in pairs.items() if pair.rank != rank}
    leaves = {module.rpartition(".")[2] for module in pairs}
    meant = {module for module in modules if module.rpartition(".")[2] in leaves}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(leaves if meant == set(pairs) else pairs),
        rank_pattern=odd,
        alpha_pattern=dict(odd),
        inference_mode=True,
    )
    tensors = {}
    for module, pair in pairs.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = pair.a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = pair.b
    return config, tensors
