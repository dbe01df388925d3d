"""What `loraplug_export.compat` relies on in transformers: a failure says what another version has changed."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from loraplug_export.compat import kept_in_fp32


def test_models_say_what_stays_in_float32() -> None:
    """T5's second projection, nothing of a Llama; bitsandbytes leaves out what is named so."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 8}
    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config(**sizes))
        llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", hidden_size=8, intermediate_size=8,
                                                 num_hidden_layers=1, num_attention_heads=2, vocab_size=8))  # fmt: skip
    told = "transformers names what is kept in float32 otherwise: see loraplug_export/compat.py"
    assert kept_in_fp32(t5) == ["wo"] and kept_in_fp32(llama) == [], told
