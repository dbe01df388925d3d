"""What is exported where the model itself was trained: its own files, and a GGUF file of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import export_tokenizers
import pytest

from loraplug import ExportContext
from loraplug_export.adapter import AdapterExporter
from loraplug_export.hub import HubExporter
from loraplug_export.merged import MergedExporter
from loraplug_gguf.exporter import GgufExporter


@pytest.fixture
def whole(make_base: Any, trained: Any, tmp_path: Any) -> ExportContext:
    """A finished run that trained every weight, in shards."""
    base = make_base(vocab_size=1200)
    (base / "LICENSE").write_text("Apache License")
    model = tmp_path / "model"
    from transformers import AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_pretrained(base)
    for parameter in weights.parameters():
        parameter.data.mul_(1.5)
    weights.save_pretrained(model, max_shard_size="100KB")
    export_tokenizers.save("qwen2", model)
    made: ExportContext = trained(model, base)
    return attrs.evolve(made, kind="model")


def test_merged_is_the_model_that_was_trained(whole: ExportContext, tmp_path: Any) -> None:
    """Its weights, tokenizer and licence; the card names no LoRA."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = MergedExporter().export(whole, tmp_path / "out")
    one, other = (AutoModelForCausalLM.from_pretrained(place) for place in (folder, whole.adapter))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert (folder / "LICENSE").is_file()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Fine-tuned model of" in card
    assert "LoRA" not in card


def test_gguf_holds_the_trained_weights(whole: ExportContext, tmp_path: Any) -> None:
    """As they lie in the model's folder, without a merge."""
    from gguf import GGUFReader
    from safetensors import safe_open

    file = GgufExporter(type="bf16").export(whole, tmp_path / "out.gguf")
    reader = GGUFReader(file)
    (norm,) = (tensor for tensor in reader.tensors if tensor.name == "output_norm.weight")
    shards = sorted(whole.adapter.glob("*.safetensors"))
    for shard in shards:
        with safe_open(shard, "np") as weights:
            if "model.norm.weight" in weights.keys():  # noqa: SIM118 - it is no mapping
                assert (norm.data == weights.get_tensor("model.norm.weight")).all()
                return
    pytest.fail("no shard has the norm")


def test_what_takes_adapters_alone_says_so() -> None:
    """Before training; the hub pushes the model where it is asked to."""
    assert "model" not in AdapterExporter.takes
    recipe = SimpleNamespace(trainer=SimpleNamespace(makes=lambda: "model"))
    (problem,) = HubExporter(repo="a/b").check(recipe)
    assert 'set what = "merged"' in problem.message
    assert not [*HubExporter(repo="a/b", what="merged").check(recipe)]
