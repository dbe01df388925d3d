"""One rule of precision: what is trained is float32, and training, validation, answers and chat compute alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from loraplug import TrainingResult
from loraplug_train.adapters.lora import Lora

Train = Callable[..., TrainingResult]

WHOLE: list[dict[str, Any]] = [
    {"modules_to_save": ("lm_head",)},
    {"modules_to_save": ("embed_tokens",)},
    {"modules_to_save": ("norm", "input_layernorm")},
    {"use_dora": True},
]


@pytest.mark.parametrize("lora", WHOLE, ids=lambda lora: str(next(iter(lora.values()))))
def test_float32_modules_train_and_answer_on_a_bfloat16_base(lora: dict[str, Any], train: Train) -> None:
    """Validated before, on the way and after, answered before and after; all that was trained is saved in float32."""
    from safetensors.torch import load_file

    held = encoded(3, seed=5)
    result = train("a", dtype="bfloat16", held=held, lora=Lora(**lora), samples=1, kernel="plain", validate_every=2)
    exact = train("b", held=held, lora=Lora(**lora), samples=1, kernel="plain", validate_every=2)
    for name in ("validation_loss_before", "validation_loss_after"):
        assert result.figures[name] == pytest.approx(exact.figures[name], rel=3e-3)
    assert len(result.samples) == 1
    saved = load_file(result.path / "adapter_model.safetensors")
    assert {str(value.dtype) for value in saved.values()} == {"torch.float32"}
    assert all(bool((value != value.bfloat16().float()).any()) for name, value in saved.items() if "lora_B" in name)


@pytest.mark.parametrize("lora", WHOLE, ids=lambda lora: str(next(iter(lora.values()))))
def test_an_adapter_answers_in_chat_as_it_did_after_training(
    lora: dict[str, Any], train: Train, tiny_model: Path
) -> None:
    """Put on the base anew it holds the very values that were saved, and the greedy answer is the training's own."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loraplug.adapters.load import put_on, tensor_names

    result = train("a", dtype="bfloat16", lora=Lora(**lora), samples=1, kernel="plain")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="bfloat16")
    adapted = put_on(model, result.path, tensor_names(result.path))
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name, value in load_file(result.path / "adapter_model.safetensors").items():
        assert torch.equal(found[name], value), name
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = encoded(14)[0]
    first = next(at for at, label in enumerate(prompt["labels"]) if label != -100)
    ids = torch.tensor([prompt["input_ids"][:first]])
    out = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=96, do_sample=False)
    assert tokenizer.decode(out[0, first:], skip_special_tokens=True) == result.samples[0].after


def test_going_on_from_an_adapter_keeps_every_bit_of_whole_modules(train: Train) -> None:
    """`start_from` on a bfloat16 base begins with the float32 values that were saved, not with rounded ones."""
    lora = Lora(modules_to_save=("lm_head",))
    held = encoded(4, seed=5)
    first = train("first", dtype="bfloat16", lora=lora, held=held)
    second = train("second", dtype="bfloat16", held=held, lora=Lora(start_from=first.path), max_steps=1)
    assert second.figures["validation_loss_before"] == first.figures["validation_loss_after"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_of_the_output_layer_train_as_elsewhere(dtype: str, train: Train) -> None:
    """trl refuses them; the loss before is that of its fused head without them, and what is saved is adapters alone."""
    from safetensors.torch import load_file

    held = encoded(3, seed=5)
    names = ("q_proj", "lm_head")
    result = train("a", dtype=dtype, held=held, lora=Lora(target_modules=names), kernel="plain")
    other = train("b", dtype=dtype, held=held, lora=Lora(target_modules=("q_proj",)), kernel="plain")
    near = pytest.approx(other.figures["validation_loss_before"], rel=1e-6 if dtype == "float32" else 1e-3)
    assert result.figures["validation_loss_before"] == near
    assert result.figures["train_loss"] < other.figures["train_loss"]
    saved = load_file(result.path / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    assert any("lm_head.lora_B" in name and bool(value.any()) for name, value in saved.items())


def test_a_model_is_held_to_the_rule_once(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where training goes on from an adapter, which is put on by the function that chat uses."""
    from loraplug_train.engine import model as loading

    first, wrapped = train("first", dtype="bfloat16", max_steps=1), []
    hold = loading.mixed_precision

    def counted(model: Any, dtype: Any) -> None:
        wrapped.append(str(dtype))
        assert "autocast" not in model.get_base_model().forward.__code__.co_qualname
        hold(model, dtype)

    monkeypatch.setattr(loading, "mixed_precision", counted)
    train("second", dtype="bfloat16", lora=Lora(start_from=first.path), max_steps=1, kernel="plain")
    assert wrapped == ["torch.bfloat16"]


@pytest.mark.parametrize("micro_batch", ["auto", 4])
def test_a_model_that_bfloat16_alone_stops_is_measured_trained_and_asked(micro_batch: Any, tmp_path: Path) -> None:
    """xLSTM fails in bfloat16 on a row as long as its chunks, but not under the rule; measuring is under it, too."""
    import torch
    from transformers import AutoTokenizer

    import families
    from loraplug import Encoded, Run
    from loraplug.adapters.load import put_on, tensor_names
    from loraplug_serve.sampling import Drawing, Prompt, Sampler
    from loraplug_train.trainer import Sft

    base, ids = families.save("xlstm", tmp_path / "base"), list(range(3, 43))
    model = families.build("xlstm").bfloat16()
    with pytest.raises(RuntimeError, match="same dtype"), torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    (alone,) = Sampler(model, ()).completions([Prompt(ids)], Drawing(max_tokens=4))
    assert len(alone.ids) == 4
    run = Run("a", outputs=tmp_path / "outputs")
    run.folder.mkdir(parents=True, exist_ok=True)
    options = Sft(samples=1, learning_rate=1e-2, max_steps=2, batch_size=4, micro_batch=micro_batch)
    rows = Encoded(encoded(8, longest=32))
    result = options.train(run, lambda _: model, AutoTokenizer.from_pretrained(base), rows, rows)
    assert result.figures["validation_loss_after"] < result.figures["validation_loss_before"]
    adapted = put_on(families.build("xlstm").bfloat16(), result.path, tensor_names(result.path))
    (answer,) = Sampler(adapted, ()).completions([Prompt(ids)], Drawing(max_tokens=4))
    wanted = adapted.generate(input_ids=torch.tensor([ids]), max_new_tokens=1, do_sample=False, use_cache=False)
    assert len(answer.ids) == 4 and answer.ids[0] == int(wanted[0, -1])
