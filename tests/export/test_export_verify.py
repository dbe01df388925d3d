"""The proof passes for right merges and fails for wrong ones, however small the fault."""

from __future__ import annotations

import json

import pytest

from loraplug import LoraplugError
from loraplug_export.lora_files import open_adapter
from loraplug_export.merged import MergedExporter
from loraplug_export.plan import make_plan
from loraplug_export.tensors import open_checkpoint
from loraplug_export.verify import verify

ROWS = [list(range(3, 60)), list(range(60, 119))]


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def merged(request, make_base, make_adapter, trained, tmp_path):
    """Base, adapter and the right merge of a type."""
    from peft import LoraConfig

    base = make_base(dtype=request.param, hidden_size=128, intermediate_size=256, num_hidden_layers=3)
    adapter = make_adapter(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), size=0.05)
    result = trained(adapter, base)
    return result, MergedExporter(verify=False).export(result, tmp_path / "merged")


def prove(result, folder):
    plan = make_plan(open_adapter(result.adapter), open_checkpoint(result.base))
    return verify(plan, folder, ROWS, result.run)


def test_right_merge_is_well_inside_the_bound(merged):
    """Rounding alone uses less than the bound, so the bound leaves room for no more than that."""
    proof = prove(*merged)
    assert proof.tokens == sum(map(len, ROWS))
    assert proof.relative < 0.7 * proof.allowed
    assert not json.loads((merged[1] / "loraplug.json").read_text())["proof"]


def tamper(folder, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_forgotten_layer_is_found(merged):
    """One matrix is left as in the base."""
    from safetensors.torch import load_file

    result, folder = merged
    name = "model.layers.1.mlp.up_proj.weight"
    tamper(folder, lambda tensors: tensors.update({name: load_file(result.base / "model.safetensors")[name]}))
    with pytest.raises(LoraplugError, match=r"layers\.1\.mlp\.up_proj gives another output"):
        prove(result, folder)


def test_wrong_scale_is_found(merged):
    """An adapter merged at 97% of its strength."""
    from safetensors.torch import load_file

    result, folder = merged
    name = "model.layers.2.self_attn.o_proj.weight"
    base = load_file(result.base / "model.safetensors")[name].float()

    def weaken(tensors):
        tensors[name] = (base + 0.97 * (tensors[name].float() - base)).to(tensors[name].dtype)

    tamper(folder, weaken)
    with pytest.raises(LoraplugError, match=r"o_proj gives another output"):
        prove(result, folder)


def test_changed_copy_is_found(merged):
    """A weight the adapter does not touch, changed by a hundredth."""
    result, folder = merged
    tamper(folder, lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    with pytest.raises(LoraplugError, match=r"model\.norm gives another output"):
        prove(result, folder)


def test_export_proves_before_it_ends(make_base, make_adapter, trained, tmp_path, monkeypatch):
    """A merge that goes wrong makes no folder that counts: the exporter raises."""
    from peft import LoraConfig

    from loraplug_export import edits

    base = make_base()
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    right = edits.Loaded.apply
    monkeypatch.setattr(edits.Loaded, "apply", lambda self, rows, first: right(self, rows, first) * 1.001)
    with pytest.raises(LoraplugError, match="gives another output"):
        MergedExporter().export(trained(adapter, base), tmp_path / "merged")
