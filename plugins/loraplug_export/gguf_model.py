"""Models in GGUF's words: hyperparameters, tensor names, and the layout llama.cpp expects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError
from loraplug_export.gguf_config import FAMILIES, WAY_OUT, carried, full_rope

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter


@frozen
class Family:
    """A model of a family that can be written.

    Attributes:
        config: its transformers config.
        arch: GGUF's name of the architecture.
        names: GGUF's tensor names, by transformers' without `.weight` or `.bias`.
    """

    config: Any
    arch: str
    names: Any

    @property
    def head_size(self) -> int:
        """Values a head."""
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)

    def tensor_name(self, name: str, folder: Path) -> str:
        """GGUF's name of a tensor.

        Raises:
            InputError: the family has no such tensor.
        """
        found: str | None = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(f"{name} has no place in a GGUF file of this family", where=folder, todo=WAY_OUT)
        return found

    def arranged(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """A whole tensor with its rows in llama.cpp's order.

        Llama's rotary embedding pairs neighbouring rows there, and rows half a head apart in transformers.
        """
        if self.arch != "llama" or not name.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")):
            return rows
        heads = self.config.num_attention_heads if ".q_proj." in name else self.config.num_key_value_heads
        halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    def values(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a tensor as llama.cpp computes with them: Gemma's norms multiply by one more than they store."""
        return rows.float() + 1 if self.arch == "gemma3" and name.endswith("norm.weight") else rows

    def whole(self, name: str) -> bool:
        """Whether a tensor's rows change places, so that it cannot be written a few rows at a time."""
        return self.arch == "llama" and (".q_proj." in name or ".k_proj." in name)

    def write(self, writer: GGUFWriter) -> None:
        """Add the hyperparameters to a GGUF header."""
        config = self.config
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(self.head_size)
        if self.arch == "gemma3":
            writer.add_sliding_window(config.sliding_window)
        rope = _rope(config)
        writer.add_rope_freq_base(float(rope.get("rope_theta") or 10000.0))
        kind = rope.get("rope_type", "default")
        if kind == "linear":
            from gguf import RopeScalingType

            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif kind == "yarn":
            self._write_yarn(writer, rope)

    def _write_yarn(self, writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
        """YaRN (arXiv:2309.00071): frequencies blended over a ramp, attention scaled by a factor."""
        from gguf import RopeScalingType

        original = rope.get("original_max_position_embeddings") or self.config.max_position_embeddings
        factor = float(rope.get("factor") or self.config.max_position_embeddings / original)
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(int(original))
        # llama.cpp multiplies by the paper's own 1 + 0.1 ln(factor) whatever the file says
        writer.add_rope_scaling_attn_factors(_attention_factor(rope, factor) / _yarn_scale(factor))

    def rope_factors(self) -> torch.Tensor | None:
        """Llama 3's divisors of the rotary frequencies, fp32, (head size / 2,); None for other kinds.

        Long waves are slowed by `factor`, short ones stay, those between are blended.
        """
        import torch

        rope = _rope(self.config)
        if rope.get("rope_type") != "llama3":
            return None
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        factor, context = rope["factor"], rope["original_max_position_embeddings"]
        step = torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size
        waves = 2 * math.pi * float(rope["rope_theta"]) ** step
        blend = ((context / waves - low) / (high - low)).clamp(0, 1)
        return (1 / ((1 - blend) / factor + blend)).float()


def _rope(config: Any) -> Mapping[str, Any]:
    return full_rope({"rope_parameters": getattr(config, "rope_parameters", None)})


def _yarn_scale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What cos and sin are multiplied by in transformers."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _yarn_scale(factor, rope["mscale"]) / _yarn_scale(factor, rope["mscale_all_dim"])
    return _yarn_scale(factor)


def read_family(folder: Path) -> Family:
    """Recognise the model of a folder.

    Raises:
        InputError: its architecture, or a setting of it, is not one that is written here.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoConfig

    path = folder / "config.json"
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if problems := carried(config.to_dict()):
        raise InputError("; ".join(problems), where=path, todo=WAY_OUT)
    arch = MODEL_ARCH[FAMILIES[config.model_type]]
    return Family(config, MODEL_ARCH_NAMES[arch], get_tensor_name_map(arch, config.num_hidden_layers))
