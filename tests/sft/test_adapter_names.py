"""Adapters whose tensors peft alone would take for others: saved so that it reads them, read under either name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import families
from loraplug import ExportContext, Run, load_adapter, model_names, settle_names
from loraplug.adapters import compat

IDS = list(range(3, 40))
TARGETS = ["model.layers.1.mlp.shared_experts.up_proj", "model.layers.1.self_attn.q_proj"]
STORED = "base_model.model.model.layers.1.mlp.shared_expert.up_proj.lora_A.weight"


@pytest.fixture(autouse=True)
def laguna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "laguna", families.Family("laguna", experts=True))


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([IDS])).logits


def saved(folder: Path, settle: bool = True) -> Any:
    """An adapter with values on a shared expert, saved; and its logits."""
    from peft import LoraConfig

    from loraplug import attach_adapter, save_adapter

    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=TARGETS, init_lora_weights=False)
    made = attach_adapter(families.build("laguna"), config)
    if settle:
        assert save_adapter(made, folder) == []
    else:
        made.save_pretrained(folder)
    return logits(made)


def test_peft_alone_reads_what_is_saved(tmp_path: Path) -> None:
    """The file has the checkpoint's name for a module whose own name peft changes; both read it whole."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    wanted = saved(tmp_path)
    assert STORED in load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(logits(PeftModel.from_pretrained(families.build("laguna"), tmp_path)), wanted)
    assert torch.equal(logits(load_adapter(families.build("laguna"), tmp_path)), wanted)
    assert torch.equal(logits(load_adapter(families.build("laguna"), tmp_path, trainable=True)), wanted)


@pytest.mark.parametrize("settle", [True, False], ids=["as-peft-reads-it", "by-the-modules-names"])
def test_every_way_loads_every_tensor(settle: bool, tmp_path: Path) -> None:
    """Chat and eval, a second adapter beside another, the merge, and what peft's own merge starts from."""
    import torch
    from transformers import AutoModelForCausalLM

    from loraplug.adapters.load import put_beside, put_on, tensor_names
    from loraplug_export.merged import MergedExporter
    from loraplug_export.peft_merge import with_adapter

    base = families.save("laguna", tmp_path / "base")
    one = tmp_path / "one"
    wanted = saved(one, settle)
    put = put_on(families.build("laguna"), one, tensor_names(one))
    assert torch.equal(logits(put), wanted)
    put_beside(put, one, tensor_names(one), "second")
    put.set_adapter("second")
    assert torch.equal(logits(put), wanted)
    assert torch.equal(logits(with_adapter(families.build("laguna"), one)), wanted)
    run = Run("one", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    merged = MergedExporter().export(ExportContext(run, one, base, str(base), {}, {}), tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert float((logits(model) - wanted).abs().max()) < 1e-4


@pytest.mark.parametrize("settle", [True, False], ids=["as-peft-reads-it", "by-the-modules-names"])
def test_adapters_made_of_it_are_read_whole_by_peft_alone(settle: bool, tmp_path: Path) -> None:
    """Merged with itself, half and half, and converted at its own rank: both change the base as it does."""
    from attrs import evolve
    from peft import PeftModel

    from loraplug_export.derive.conversion import convert
    from loraplug_export.derive.folder import write_adapter_folder
    from loraplug_export.derive.merging import Mix, merge_adapters
    from loraplug_export.derive.plain import plain_lora
    from loraplug_export.derive.sources import Base, Source
    from loraplug_export.lora_files import open_adapter

    base = Base(families.save("laguna", tmp_path / "base"), "some/base")
    wanted = saved(tmp_path / "one", settle)
    source = Source("one", open_adapter(tmp_path / "one"), base)
    run = Run("merged", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    merged = merge_adapters([source, source], base, Mix("cat", (0.5, 0.5), None, None, 0))
    converted = convert(source, 2, run)
    facts = {"made_by": "loraplug merge", "method": "cat", "sources": [{"name": "one", "weight": 0.5}]}
    for name, (config, tensors) in {
        "merged": (merged.config, merged.tensors),
        "converted": plain_lora(converted.pairs, converted.modules),
    }.items():
        assert any("shared_expert" in one for one in tensors), name
        made = write_adapter_folder(evolve(run, name=name), base, config, tensors, facts, [])
        got = logits(PeftModel.from_pretrained(families.build("laguna"), made))
        assert float((got - wanted).abs().max()) < 1e-4, name


def test_what_no_name_helps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where peft would read the checkpoint's name wrongly, too, the file stays as it is."""
    saved(tmp_path, settle=False)
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr(compat, "renamed", lambda model, path, saved=False: path)
    assert settle_names(families.build("laguna"), tmp_path) == [TARGETS[0]]
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before


def test_other_names_stay_as_they_are() -> None:
    """A model whose names nobody changes; a name that leads nowhere."""
    names = ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "base_model.model.nowhere.lora_A.weight"]
    assert model_names(families.build("llama"), names) == {name: name for name in names}


def test_the_trainer_and_the_card_tell_what_peft_alone_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By module, with what to take instead; a card of an adapter that peft reads says nothing of it."""
    from peft import LoraConfig

    from loraplug import Reporter, Share, attach_adapter, testing
    from loraplug_export.card import write_card
    from loraplug_train.engine.saving import save_result

    def card(name: str) -> tuple[str, list[str]]:
        said = Reporter()
        run = Run(name, outputs=tmp_path / "outputs", cache=tmp_path / "cache", reporter=said)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=list(TARGETS))
        save_result(run, None, attach_adapter(families.build("laguna"), config), testing.tiny_tokenizer(), Share(1, 2))
        folder = run.folder / "adapter"
        write_card(ExportContext(run, folder, folder, "some/base", {}, {}), folder, "adapter")
        return (folder / "README.md").read_text(), said.warnings

    text, lines = card("read")
    assert "peft alone" not in text and not lines
    monkeypatch.setattr(compat, "renamed", lambda model, path, saved=False: path)
    text, lines = card("lost")
    assert f"1 modules (`{TARGETS[0]}`)" in text and "--to merged" in text
    assert "up_proj) at zero" in lines[0] and "exporter merged" in lines[0]


def test_an_adapter_of_a_whole_class_loses_its_tower_alone(tmp_path: Path) -> None:
    """Made elsewhere, on all linear layers of a model that also sees: its text part is what chat and eval load."""
    from peft import LoraConfig, get_peft_model
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    from loraplug.adapters.load import put_on, tensor_names

    text, sight = families.build("qwen3_5"), {"hidden_size": 64, "intermediate_size": 64, "depth": 1, "num_heads": 4}
    config = CONFIG_MAPPING["qwen3_5"](
        text_config=text.config.to_dict(), vision_config=sight | {"out_hidden_size": 64, "patch_size": 14}
    )
    whole = AutoModelForImageTextToText.from_config(config)
    values = {name.replace("model.", "model.language_model.", 1): one for name, one in text.state_dict().items()}
    lacking = whole.load_state_dict({name: one for name, one in values.items() if "lm_head" not in name}, strict=False)
    assert not lacking.unexpected_keys
    whole.lm_head.weight.data.copy_(text.lm_head.weight)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    made = get_peft_model(whole, lora)
    made.save_pretrained(tmp_path)
    names, said = tensor_names(tmp_path), []
    opened = put_on(text, tmp_path, names, said.append)
    assert float((logits(opened) - logits(made)).abs().max()) < 1e-5
    assert len(said) == 1 and f"of its {len(names)} tensors belong to image or audio encoders" in said[0]
