"""Gemma 3, whose norms, windows and rotary positions differ from the other families', through GGUF and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import export_tokenizers as small
import pytest
import torch

from loraplug.testing import tiny_run
from loraplug_gguf.converter import run_converter
from loraplug_gguf.settings import carried

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 7, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 8,
         "max_position_embeddings": 128}  # fmt: skip


def test_gemma_answers_alike_from_gguf(tmp_path: Path) -> None:
    """Read back by transformers: rows longer than the window, norms that are not one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path / "gemma"
    small.save("llama", folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(vocab_size=len(AutoTokenizer.from_pretrained(folder)), **SIZES)
        ).eval()
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                value.data.normal_(0, 0.3)
            else:
                value.data.copy_(value.data.half().float())  # what f16 holds
    model.save_pretrained(folder)
    run_converter(tiny_run(tmp_path), "convert", folder, out=str(tmp_path / "gemma.gguf"), type="f16")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="gemma.gguf", dtype=torch.float32).eval()
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        apart = (read(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()
    assert apart < 1e-4


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is ignored by llama.cpp"),
        ({"query_pre_attn_scalar": 168}, "query_pre_attn_scalar = 168 is ignored by llama.cpp"),
        ({"layer_types": ["full_attention"] * 7}, "layer_types is ignored by llama.cpp"),
        ({"vision_config": {"hidden_size": 8}}, "vision_config = "),
    ],
)
def test_what_llama_cpp_takes_to_be_otherwise_is_told(setting: dict[str, Any], told: str) -> None:
    """Settings without a key in a GGUF file; of the plain ones nothing is told."""
    from transformers import Gemma3TextConfig

    plain = Gemma3TextConfig(**SIZES).to_dict()
    assert carried(plain) == []
    assert any(told in problem for problem in carried(plain | setting))
