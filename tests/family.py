"""One kind of tiny model: its `model_type`, and what its config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from attrs import frozen

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
_EXPERTS |= {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "n_shared_experts": 1}
VOCABULARY = "vocabulary"
"""In a config: as many as the tokenizer has."""


@frozen
class Family:
    """One kind of model: its `model_type`, and its config where it differs from the sizes that all share.

    Attributes:
        model_type: as transformers has it.
        config: arguments of its config.
        experts: whether it has experts, so that their sizes are said, too.
        sizes: further sizes, of which the config is given those that it knows.
    """

    model_type: str
    config: Mapping[str, Any] = {}
    experts: bool = False
    sizes: Mapping[str, Any] = {}

    def options(self, vocabulary: int) -> dict[str, Any]:
        """The config's arguments, those alone that it knows or that are asked for by name."""
        from transformers import CONFIG_MAPPING

        kind = CONFIG_MAPPING[self.model_type]
        known = {one.name for one in fields(kind)} if is_dataclass(kind) else set(_SIZES | _EXPERTS)
        known |= set(kind.attribute_map)
        shared = {**_SIZES, **(_EXPERTS if self.experts else {}), **self.sizes}
        shared = {name: value for name, value in shared.items() if name in known}
        made = {**shared, "vocab_size": vocabulary, **self.config}
        made = {name: vocabulary if value == VOCABULARY else value for name, value in made.items()}
        return {name: value for name, value in made.items() if value is not None}
