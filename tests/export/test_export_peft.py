"""Adapters that peft merges: said so, and proved layer by layer on the written files."""

from __future__ import annotations

import json

import pytest

from loraplug import LoraplugError
from loraplug_export.merged import MergedExporter
from loraplug_export.peft_merge import _load
from loraplug_export.peft_verify import verify_with_peft

ROWS = [list(range(3, 60)), list(range(60, 119))]
LORA = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "trained tokens": {"trainable_token_indices": [4, 5]},
    "trained tokens and a whole norm": {"trainable_token_indices": [4, 5], "modules_to_save": ["norm"]},
    "PiSSA and a whole block": {"init_lora_weights": "pissa", "modules_to_save": ["mlp"]},
}
OTHERS = {
    "LoHa": ("LoHaConfig", {"r": 4}),
    "LoKr": ("LoKrConfig", {"r": 4}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 8}),
    "VeRA": ("VeraConfig", {"r": 8}),
}
TOKENS = ("trained tokens", "trained tokens and a whole norm")
WORDS = {
    "PiSSA": "init_lora_weights", "OLoRA": "olora", "PiSSA and a whole block": "pissa",
    "LoHa": "LOHA", "LoKr": "LOKR", "IA3": "IA3", "OFT": "OFT", "VeRA": "VERA",
}  # fmt: skip


def config(kind):
    import peft

    if kind in LORA:
        return peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **LORA[kind])
    name, options = OTHERS[kind]
    return getattr(peft, name)(target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [*(kind for kind in LORA if kind not in TOKENS), *OTHERS])
def test_peft_merges_are_said_and_proved_by_layer(kind, tied, make_base, make_adapter, trained, logits, tmp_path):
    """Every layer of the written folder was compared, and the whole answers like base + adapter."""
    base = make_base(attention_bias=True, tie_word_embeddings=tied)
    result = trained(make_adapter(base, config(kind)), base)
    merged = MergedExporter().export(result, tmp_path / "merged")
    said = [line for line in result.run.reporter.lines if "peft merges" in line]
    assert len(said) == 1 and WORDS[kind] in said[0]
    wanted = logits(base, result.adapter)
    assert float((wanted - logits(base)).abs().max()) > 1e-2, "the adapter does nothing"
    assert float((logits(merged) - wanted).abs().max()) < 1e-4
    proof = json.loads((merged / "loraplug.json").read_text())["proof"]
    assert 0 < proof["relative"] <= proof["allowed"] == 1e-5 and proof["tokens"] > 0 and proof["logits"] < 1e-4
    # embedding, head, last norm; in each of two layers four, three (or their block) and two norms
    layers = 3 + 2 * (4 + (1 if "block" in kind else 3) + 2)
    assert any(f"the outputs of {layers} modules" in line for line in result.run.reporter.lines)
    assert not result.run.reporter.warnings


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TOKENS)
def test_trained_tokens_are_merged_without_peft(kind, tied, make_base, make_adapter, trained, logits, tmp_path):
    """Rows of the embedding are put in place by us; the merged model answers like base + adapter, and it is proved."""
    base = make_base(attention_bias=True, tie_word_embeddings=tied)
    result = trained(make_adapter(base, config(kind)), base)
    merged = MergedExporter().export(result, tmp_path / "merged")
    assert not any("peft merges" in line for line in result.run.reporter.lines)
    wanted = logits(base, result.adapter)
    assert float((wanted - logits(base)).abs().max()) > 1e-2, "the adapter does nothing"
    assert float((logits(merged) - wanted).abs().max()) < 1e-4
    assert json.loads((merged / "loraplug.json").read_text())["proof"]["tokens"] > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bound_is_that_of_the_written_type(dtype, make_base, make_adapter, trained, tmp_path):
    """Rounding to the base's type is inside its bound, and is what the lock says."""
    base = make_base(dtype=dtype)
    result = trained(make_adapter(base, config("PiSSA"), size=0.02), base)
    merged = MergedExporter().export(result, tmp_path / "merged")
    proof = json.loads((merged / "loraplug.json").read_text())["proof"]
    bound = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    assert bound / 50 < proof["relative"] < 0.7 * bound == 0.7 * proof["allowed"]


def forgotten(tensors, base):
    tensors["model.layers.1.self_attn.q_proj.weight"] = base["model.layers.1.self_attn.q_proj.weight"]


def weak(tensors, base):
    name = "model.layers.0.self_attn.v_proj.weight"
    tensors[name] = base[name] + 0.98 * (tensors[name] - base[name])


def other_norm(tensors, _):
    tensors["model.norm.weight"].mul_(1.001)


def one_token(tensors, _):
    tensors["model.embed_tokens.weight"][17] += 0.01


@pytest.mark.parametrize("kind", ["PiSSA", "trained tokens"])
@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (forgotten, r"layers\.1\.self_attn\.q_proj"),
        (weak, r"layers\.0\.self_attn\.v_proj"),
        (other_norm, r"model\.norm"),
        (one_token, r"embed_tokens"),
    ],
)
def test_wrong_files_are_found(kind, change, layer, make_base, make_adapter, trained, tmp_path):
    """A matrix left as it was, one merged too weakly, a copied weight or one token's row changed."""
    from safetensors.torch import load_file, save_file

    base = make_base()
    result = trained(make_adapter(base, config(kind)), base)
    merged = MergedExporter(verify=False).export(result, tmp_path / "merged")
    path = merged / "model.safetensors"
    tensors = load_file(path)
    change(tensors, load_file(base / "model.safetensors"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(LoraplugError, match=rf"{layer} gives another output"):
        verify_with_peft(_load(result.adapter, base), merged, ROWS, result.run)


def test_experts_that_are_stored_singly_are_proved_too(make_base, make_adapter, trained, logits, tmp_path):
    """Experts and their gates are stored under other names than they are held: put together as loading does."""
    base = make_base("mixtral", num_local_experts=2)
    result = trained(make_adapter(base, config("PiSSA")), base)
    merged = MergedExporter().export(result, tmp_path / "merged")
    # embedding, head, last norm; in each of two layers four, experts, router and two norms
    assert any("the outputs of 19 modules" in line for line in result.run.reporter.lines)
    assert not result.run.reporter.warnings
    assert float((logits(merged) - logits(base, result.adapter)).abs().max()) < 1e-4


def test_what_cannot_be_compared_singly_is_proved_by_logits(make_base, make_adapter, trained, tmp_path, monkeypatch):
    """A module whose stored form is not known: the whole model's logits are the proof, and a wrong file is found."""
    from safetensors.torch import load_file, save_file

    from loraplug_export import compat, peft_verify

    def without_one(model, names):
        made = compat.stored_forms(model, names)
        return compat.Forms({k: v for k, v in made.direct.items() if "1.self_attn.q_proj" not in k}, made.converted)

    base = make_base()
    result = trained(make_adapter(base, config("PiSSA")), base)
    merged = MergedExporter(verify=False).export(result, tmp_path / "merged")
    monkeypatch.setattr(peft_verify, "stored_forms", without_one)
    proof = verify_with_peft(_load(result.adapter, base), merged, ROWS, result.run)
    assert (proof.by, proof.modules, proof.layer) == ("logits", 0, "logits") and 0 < proof.relative < 1e-4
    assert any("1 modules cannot be compared" in line for line in result.run.reporter.warnings)
    path = merged / "model.safetensors"
    tensors = load_file(path)
    forgotten(tensors, load_file(base / "model.safetensors"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(LoraplugError, match="logits differ"):
        verify_with_peft(_load(result.adapter, base), merged, ROWS, result.run)
