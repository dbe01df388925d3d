"""What `loraplug.adapters.compat` relies on in peft and bitsandbytes: a failure says what changed there."""

from __future__ import annotations

from pathlib import Path

import pytest

from families import FAMILIES, Family, build
from loraplug.adapters import compat


def test_what_is_used_of_peft_is_there() -> None:
    """peft's rewriting of names, and its refusal of layers of Mamba kinds, are as `compat` expects."""
    from peft import LoraConfig, get_peft_model

    assert {"gate_proj", "up_proj", "down_proj"} <= compat.rewritten_names(build("deepseek_v3"))
    assert not compat.rewritten_names(build("llama"))
    assert compat.refused(build("mamba"), "x.out_proj") and not compat.refused(build("llama"), "x.out_proj")
    targets = ["model.layers.1.mlp.shared_experts.up_proj"]
    with compat.targets_as_written():
        kept = get_peft_model(build("deepseek_v3"), LoraConfig(r=2, target_modules=targets))
    assert kept.peft_config["default"].target_modules == set(targets)
    with pytest.raises(ValueError, match="without also targeting"):
        get_peft_model(build("deepseek_v3"), LoraConfig(r=2, target_modules=targets))


def test_names_of_tensors_are_changed_by_peft_unless_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared expert's adapter, loaded by peft alone, does nothing; once it does, what renames adapters can go."""
    import torch
    from peft import LoraConfig, PeftModel

    from loraplug import attach_adapter, load_adapter

    monkeypatch.setitem(FAMILIES, "laguna", Family("laguna", experts=True))
    targets = ["model.layers.1.mlp.shared_experts.up_proj", "model.layers.1.self_attn.q_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
    made = attach_adapter(build("laguna"), config).eval()
    made.save_pretrained(tmp_path)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        wanted = made(input_ids=ids).logits
        assert torch.equal(load_adapter(build("laguna"), tmp_path).eval()(input_ids=ids).logits, wanted)
        with pytest.warns(UserWarning, match="missing adapter keys"):
            alone = PeftModel.from_pretrained(build("laguna"), tmp_path).eval()
        assert not torch.allclose(alone(input_ids=ids).logits, wanted, atol=1e-3)


def test_eight_bit_layers_lose_their_scales_to_dora_unless_they_are_kept(tiny_model: Path) -> None:
    """What `loraplug.adapters.compat` is for: once this fails without it no longer, it can go."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from loraplug.adapters.compat import keep_int8_scales

    bits = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32", quantization_config=bits)
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.weight.CB is not None and layer.weight.SCB is not None and layer.state.SCB is None
    ids = torch.arange(3, 12)[None]
    bare = model(input_ids=ids).logits
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], use_dora=True))
    with pytest.raises(AttributeError):
        adapted(input_ids=ids)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32", quantization_config=bits)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], use_dora=True))
    keep_int8_scales(adapted.get_base_model())
    for _ in range(3):
        assert torch.allclose(adapted(input_ids=ids).logits, bare, atol=1e-3)
