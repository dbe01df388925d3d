"""What share of a model is quantised and adapted is told by loader, forecast and card; and defaults that start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from families import build, save
from loraplug import Encoded, ExportContext, InputError, Run
from loraplug.testing import tiny_tokenizer
from loraplug_bnb.quantizer import BitsAndBytes
from loraplug_export.card import write_card
from loraplug_hf.loader import TransformersModel
from loraplug_train.adapters.lora import Lora
from loraplug_train.trainer import Sft


def test_fused_experts_left_in_full_are_told(tmp_path: Path) -> None:
    """By the loader with their share, by the forecast, and beside the adapter for its card."""
    run = Run("a", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    run.folder.mkdir(parents=True)
    loader, quantizer = TransformersModel(id=str(save("mixtral", tmp_path / "base")), dtype="float32"), BitsAndBytes()
    model = quantizer.prepare(loader.load_model(run, quantizer))
    assert any("bitsandbytes quantized 11.1% of the weights" in line for line in run.reporter.lines)
    assert any("89% of the weights of the layers are fused experts" in text for text in run.reporter.warnings)
    trainer = Sft(max_steps=1, samples=0, lora=Lora(r=2))
    notes = trainer.estimate(run, model, [20, 30]).notes
    assert notes["quantised"].startswith("11.1%")
    assert notes["adapters"].startswith("11.1%")
    assert "do not influence each other" in notes["documents"]
    model = quantizer.prepare(loader.load_model(run, quantizer))
    result = trainer.train(run, lambda _: model, tiny_tokenizer(), Encoded(encoded(8)), None)
    assert result.figures["adapted_share"] == pytest.approx(0.111, abs=1e-3)
    assert any("experts, which get no adapter" in text for text in run.reporter.warnings)
    facts = json.loads((result.path / "loraplug.json").read_text(encoding="utf-8"))
    assert facts["adapted"]["weights"] == facts["quantised"]["weights"]
    write_card(
        ExportContext(run, result.path, loader.base(run), "base", figures=result.figures), result.path, "adapter"
    )
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert "- **Adapted:** 11.1% of the weights" in card
    assert "- **Quantized in training:** 11.1%" in card


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "mamba"])
def test_attention_is_what_the_model_has(name: str, tmp_path: Path) -> None:
    """A model without sdpa loads by default."""
    run = Run("a", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    TransformersModel(id=str(save(name, tmp_path / "base")), dtype="float32").load_model(run)


def _step(name: str, folder: Path, **options: Any) -> tuple[float, list[str]]:
    run = Run(f"{name}-{len(options)}", outputs=folder)
    run.folder.mkdir(parents=True)
    settings = {"max_steps": 1, "samples": 0, "batch_size": 8, **options}
    result = Sft(**settings).train(run, lambda _: build(name), tiny_tokenizer(), Encoded(encoded(8)), None)
    return result.figures["train_loss"], run.reporter.lines


@pytest.mark.parametrize("name", ["granitemoe", "qwen3_moe"])
def test_the_router_loss_is_off_unless_asked_for(name: str, tmp_path: Path) -> None:
    """Off, the loss is the cross entropy; on, it has coefficient times the model's own balance loss on top."""
    import torch

    plain, _ = _step(name, tmp_path)
    balanced, _ = _step(name, tmp_path, router_loss=0.5)
    twice, _ = _step(name, tmp_path, router_loss=1.0, micro_batch=1)
    model, total, nats, trained = build(name), 0.0, 0.0, 0
    with torch.no_grad():
        for row in encoded(8):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            out = model(input_ids=ids, output_router_logits=True)
            count = int((labels[:, 1:] != -100).sum())
            losses = torch.nn.functional.cross_entropy(out.logits[0, :-1], labels[0, 1:], reduction="sum")
            nats, total, trained = nats + float(losses), total + count * float(out.aux_loss), trained + count
    assert plain == pytest.approx(nats / trained, rel=1e-5)
    assert twice - plain == pytest.approx(total / trained, rel=1e-3)
    assert balanced > plain + 0.1
    with pytest.raises(InputError, match="has no routers"):
        _step("llama", tmp_path, router_loss=0.1)


def test_a_model_that_trls_head_does_not_fit_has_its_own_loss(tmp_path: Path) -> None:
    """Llama 4 trains, and its loss is that of its own logits."""
    import torch

    loss, said = _step("llama4", tmp_path, kernel="plain")
    assert any("losses are computed from the model's own logits" in line for line in said)
    model, nats, trained = build("llama4"), 0.0, 0
    with torch.no_grad():
        for row in encoded(8):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            nats += float(
                torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[1:], reduction="sum")
            )
            trained += int((labels[1:] != -100).sum())
    assert loss == pytest.approx(nats / trained, rel=1e-5)


def test_the_forecast_reads_sizes_of_each_layer(tmp_path: Path) -> None:
    """Gemma 3n's config has a list of them."""
    from loraplug_train.engine.forecast import needs_checkpointing

    assert not needs_checkpointing(build("gemma3n"), 64, fast=False)
