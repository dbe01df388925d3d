"""`onto = "dequantized"` merges onto exactly the weights a quantised base has in training."""

from __future__ import annotations

import json

import pytest

from loraplug import InputError
from loraplug_export.merged import MergedExporter

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SETTINGS = {
    "nf4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
}


def quantised_logits(base, adapter, settings):
    """Logits of base + adapter with the base in 4 bits, computed in fp32.

    In training mode: out of it, bitsandbytes multiplies in bf16 on processors that can. There is no dropout.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    with torch.inference_mode():
        logits = PeftModel.from_pretrained(model, adapter).train()(torch.arange(3, 67)[None]).logits
    return config.to_dict(), logits


@pytest.mark.parametrize("kind", SETTINGS)
def test_dequantised_merge_is_what_training_saw(kind, make_base, make_adapter, trained, logits, tmp_path):
    """The merged model equals the 4-bit base + adapter to fp32 noise; merged onto the original it does not."""
    from peft import LoraConfig

    base = make_base(hidden_size=128, intermediate_size=192, tie_word_embeddings=False)
    adapter = make_adapter(base, LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR), size=0.05)
    settings, wanted = quantised_logits(base, adapter, SETTINGS[kind])
    (adapter / "loraplug.json").write_text(json.dumps({"quantization": settings}, default=str))
    result = trained(adapter, base)
    rounded = MergedExporter(onto="dequantized").export(result, tmp_path / "rounded")
    plain = MergedExporter().export(result, tmp_path / "plain")
    assert float((logits(rounded) - wanted).abs().max()) < 1e-4
    assert float((logits(plain) - wanted).abs().max()) > 1e-2
    assert json.loads((rounded / "loraplug.json").read_text())["onto"] == "dequantized"


def test_dora_on_a_quantised_base(make_base, make_adapter, trained, logits, tmp_path):
    """DoRA's norms are those of the rounded weights, too."""
    from peft import LoraConfig

    base = make_base(hidden_size=128, intermediate_size=192, tie_word_embeddings=True)
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True), size=0.05)
    settings, wanted = quantised_logits(base, adapter, SETTINGS["nf4, double"])
    (adapter / "loraplug.json").write_text(json.dumps({"quantization": settings}, default=str))
    merged = MergedExporter(onto="dequantized").export(trained(adapter, base), tmp_path / "merged")
    assert float((logits(merged) - wanted).abs().max()) < 1e-4


def test_eight_bits(make_base, make_adapter, trained, logits, tmp_path):
    """8-bit weights are one scale a row, 127 steps to each side."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file

    base = make_base()
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]), size=0.05)
    (adapter / "loraplug.json").write_text(json.dumps({"quantization": {"load_in_8bit": True}}))
    merged = MergedExporter(onto="dequantized").export(trained(adapter, base), tmp_path / "merged")
    name = "model.layers.0.mlp.up_proj.weight"
    old, new = load_file(base / "model.safetensors")[name], load_file(merged / "model.safetensors")[name]
    steps = new / (old.half().abs().amax(dim=1, keepdim=True).float() / 127)
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert float((new - old).abs().max()) <= float(old.abs().max()) / 127
    assert not torch.equal(new, old)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (None, "has no loraplug.json"),
        ({"quantization": None}, "was not quantized"),
        ({"quantization": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_nothing_to_round_to(facts, words, make_base, make_adapter, trained, tmp_path):
    """Adapters that were not trained on a bitsandbytes base, or do not say so."""
    from peft import LoraConfig

    base = make_base()
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    if facts is not None:
        (adapter / "loraplug.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=words):
        MergedExporter(onto="dequantized").export(trained(adapter, base), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
