"""`[trainer.adapter] use = "lora"`: what `[trainer.lora]` is, as a component of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError
from loraplug_tools.plugins.conformance import assert_conforms
from loraplug_train.adapters.lora import Lora, LoraAdapter
from loraplug_train.trainer import Sft


def rows(count: int) -> list[dict[str, Any]]:
    """Tokens in order, all of them trained."""
    found = ([*range(5 + at, 15 + at)] for at in range(count))
    return [{"input_ids": ids, "labels": ids, "row": [str(at)]} for at, ids in enumerate(found)]


def test_it_conforms(tmp_path: Path) -> None:
    """To what is asked of every adapter."""
    assert_conforms(LoraAdapter(r=4), tmp_path)


def test_both_tables_train_the_same(train: Any) -> None:
    """The very same weights, LoRA+ and the layers that are named included."""
    options = {"r": 4, "target_modules": ("q_proj", "v_proj"), "loraplus_lr_ratio": 4.0, "use_rslora": True}
    short = train(Sft, rows(8), name="short", lora=Lora(**options))
    long = train(Sft, rows(8), name="long", adapter=LoraAdapter(**options))
    files = [result.path / "adapter_model.safetensors" for result in (short, long)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_wrong_is_told_by_the_table_that_says_it(train: Any, inside: Any, recipe: Path) -> None:
    """On the model, in the recipe, and where both tables are there."""
    with pytest.raises(InputError, match=r'trainer.adapter: target_modules: "q_prj" matches no module'):
        train(Sft, rows(4), adapter=LoraAdapter(target_modules=("q_prj",)))
    text = recipe.read_text(encoding="utf-8")
    table = '[trainer.adapter]\nuse = "lora"\ninit_lora_weights = "pissa"\nstart_from = "nowhere"\n'
    recipe.write_text(text.replace("[[exporter]]", f"{table}[[exporter]]", 1), encoding="utf-8")
    said = " ".join(inside("recipe", "check", recipe).stderr.split())
    assert "trainer.adapter.init_lora_weights: start_from uses weights that exist already" in said
    said = " ".join(inside("recipe", "check", recipe, "--set", "trainer.lora.r=4").stderr.split())
    assert "trainer.adapter: and [trainer.lora] both say what is trained" in said
    recipe.write_text(recipe.read_text(encoding="utf-8").replace('init_lora_weights = "pissa"\n', ""), encoding="utf-8")
    said = " ".join(inside("recipe", "check", recipe).stderr.split())
    assert "trainer.adapter.start_from" in said and "is not an adapter folder" in said


def test_eva_begins_by_the_rows(train: Any, tiny_model: Path) -> None:
    """With the directions and ranks that peft finds by itself; begun again it ends with the same bytes."""
    import torch
    from peft import EvaConfig, LoraConfig, get_eva_state_dict, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from loraplug import load_adapter

    names = ("q_proj", "v_proj", "down_proj")
    lora = Lora(r=3, alpha=6, target_modules=names, init_lora_weights="eva")
    options = {"lora": lora, "max_steps": 2, "kernel": "plain"}
    result = train(Sft, rows(8), name="eva", **options)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    config = LoraConfig(r=3, lora_alpha=6, target_modules=list(names), init_lora_weights="eva", eva_config=EvaConfig())
    ids = torch.tensor([row["input_ids"] for row in rows(8)])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    batch["labels"][:, 0] = -100
    theirs = get_eva_state_dict(get_peft_model(model, config), [batch], show_progress_bar=False,
                                forward_fn=lambda model, inputs: model(inputs["input_ids"]))  # fmt: skip
    ours = load_file(result.path.parent / "checkpoints/eva.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name].float(), atol=1e-3, rtol=1e-3)
    assert sum(map(len, ours.values())) == 3 * len(ours)
    assert len({len(value) for value in ours.values()}) > 1
    again = train(Sft, rows(8), name="again", **options)
    weights = [(one.path / "adapter_model.safetensors").read_bytes() for one in (result, again)]
    assert weights[0] == weights[1]
    loaded = load_adapter(AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"), result.path)
    ranks = {name: module.r["default"] for name, module in loaded.named_modules() if hasattr(module, "lora_A")}
    assert ranks == {name: len(value) for name, value in ours.items() if len(value)}


def test_eva_wants_more_trained_tokens_than_directions(train: Any) -> None:
    """Told with what to do."""
    with pytest.raises(InputError, match=r"trainer.lora.init_lora_weights: .eva. finds 200 directions"):
        train(Sft, rows(4), lora=Lora(r=100, init_lora_weights="eva"))


@pytest.mark.parametrize("way", ["loftq", "corda"])
def test_ways_to_begin_that_are_not_to_be_had_are_refused(inside: Any, recipe: Path, way: str) -> None:
    """Before any work, with the reason."""
    said = inside("recipe", "check", recipe, "--set", f"trainer.lora.init_lora_weights={way}").stderr
    assert f'trainer.lora.init_lora_weights: "{way}" is not available: peft' in " ".join(said.split())
