"""The adapters `peft` and `full`: options held to peft's own, what is trained, what is saved and put on again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loraplug import InputError, mixed_precision
from loraplug_tools.plugins.conformance import assert_conforms
from loraplug_train.adapters.full import Full
from loraplug_train.adapters.peft_fields import OURS, methods
from loraplug_train.adapters.peft_method import REFUSED, UNMERGEABLE, PeftMethod

IDS = torch.arange(5, 17)[None]
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
METHODS: dict[str, dict[str, Any]] = {
    "ia3": {**ATTENTION, "feedforward_modules": []}, "vera": {**ATTENTION, "r": 4}, "oft": ATTENTION, "boft": ATTENTION,
    "loha": ATTENTION, "hra": ATTENTION, "ln_tuning": {}, "lily": ATTENTION, "prompt_tuning": {"num_virtual_tokens": 3},
    "prefix_tuning": {"num_virtual_tokens": 3},
}  # fmt: skip


def loaded(folder: Path, dtype: Any = torch.float32) -> Any:
    """The tiny model."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def recipe(*exporters: str, quantizer: Any = None) -> Any:
    """As much of a recipe as an adapter asks."""
    return SimpleNamespace(exporter=[SimpleNamespace(name=name) for name in exporters], quantizer=quantizer)


def test_options_are_those_of_peft() -> None:
    """What is read from peft's files is what its classes take."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    theirs = {
        str(kind.value).lower(): frozenset(one.name for one in dataclasses.fields(config) if one.init) - OURS
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    assert dict(methods()) == theirs
    assert set(REFUSED) | UNMERGEABLE <= set(theirs)


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_peft_train_and_come_back(method: str, tiny_model: Path, tmp_path: Path) -> None:
    """What is trained has gradients; saved and put on a fresh base it answers alike; it merges where it says so."""
    torch.manual_seed(0)
    part = PeftMethod(method=method, options=METHODS[method])
    assert not [*part.check(recipe("adapter"))]
    model = part.attach(loaded(tiny_model))
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, weight in part.trainable(model).items():
        if "mask" not in name:
            assert weight.grad is not None, name
            weight.data.add_(weight.grad, alpha=-0.1)
    part.save(model, tmp_path / "saved")
    again = part.load(loaded(tiny_model), tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    merges = part.mergeable({"peft_type": method.upper()})
    if merges:
        with torch.no_grad():
            before = model(input_ids=IDS).logits
            assert torch.allclose(model.merge_and_unload()(input_ids=IDS).logits, before, atol=1e-4)
    else:
        with pytest.raises((AttributeError, NotImplementedError)):
            model.merge_and_unload()


@pytest.mark.parametrize(
    ("given", "exporters", "path", "words"),
    [
        ({"method": "ia33"}, (), "method", "did you mean ia3?"),
        ({"method": "adalora"}, (), "method", "changes its ranks"),
        ({"method": "lora"}, (), "method", 'use = "lora"'),
        ({"method": "vera", "options": {"rank": 4}}, (), "options.rank", "has no such option"),
        ({"method": "vera", "options": {"task_type": "x"}}, (), "options.task_type", "leave it out"),
        ({"method": "prompt_tuning"}, ("adapter", "merged"), "exporter[1]", "cannot be merged"),
    ],
)
def test_what_peft_does_not_take_is_told(
    given: dict[str, Any], exporters: tuple[str, ...], path: str, words: str
) -> None:
    """By key, before peft is loaded."""
    (problem,) = PeftMethod(**given).check(recipe(*exporters))
    assert problem.path.endswith(path)
    assert words in problem.message


def test_values_that_peft_refuses_are_told(tiny_model: Path) -> None:
    """In peft's words, with the key."""
    wrong = PeftMethod(method="loha", options={"target_modules": ["nothing_like_it"]})
    with pytest.raises(InputError, match="peft refuses loha: Target modules"):
        wrong.attach(loaded(tiny_model))
    with pytest.raises(InputError, match=r"trainer.adapter.options: peft refuses ia3"):
        PeftMethod(method="ia3", options={"target_modules": ["q_proj"], "feedforward_modules": ["x"]}).config()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_trains_weights_in_float32(dtype: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Computed and saved in what was loaded; an update too small for bfloat16 is not lost in the masters."""
    part = Full()
    model = part.attach(loaded(tiny_model, dtype))
    mixed_precision(model, dtype)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert set(part.trainable(model)) == {name for name, _ in model.named_parameters()}
    out = model(input_ids=IDS, labels=IDS)
    assert out.logits.dtype == dtype
    out.loss.backward()
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    weight.data.add_(weight.grad, alpha=-1e-5)
    assert not torch.equal(weight, before)
    part.save(model, tmp_path / "saved")
    saved = loaded(tmp_path / "saved", "auto")
    assert {one.dtype for one in saved.parameters()} == {dtype}
    assert torch.equal(saved.model.layers[0].mlp.up_proj.weight, weight.to(dtype))
    again = part.load(loaded(tiny_model, dtype), tmp_path / "saved")
    assert all(torch.equal(one, other.to(dtype).float()) for one, other in zip(
        again.parameters(), model.parameters(), strict=True))  # fmt: skip


def test_full_trains_named_parts_alone(tiny_model: Path) -> None:
    """By name or its end; the rest is frozen and stays as it is stored."""
    model = Full(modules=("layers.1", "lm_head")).attach(loaded(tiny_model, torch.bfloat16))
    mixed_precision(model, torch.bfloat16)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("layers.1." in name or name == "lm_head.weight" for name in trained)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    (problem,) = Full(modules=("layers.9",)).preflight_model(None, None, model)  # type: ignore[arg-type]
    assert "matches no module" in problem.message
    with pytest.raises(InputError, match=r"layers\.9"):
        Full(modules=("layers.9",)).attach(loaded(tiny_model))


def test_full_is_refused_with_a_quantizer_and_over_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    (problem,) = Full().check(recipe(quantizer=object()))
    assert "quantized weights cannot be trained" in problem.message
    monkeypatch.setattr("loraplug_train.engine.shards.requested", lambda: "fsdp2")
    (problem,) = Full().check(recipe())
    assert "use_fsdp: false" in problem.message


def test_both_do_what_every_adapter_must(tmp_path: Path) -> None:
    """The checks that plugin authors have."""
    assert_conforms(PeftMethod(method="ia3", options=METHODS["ia3"]), tmp_path / "peft")
    assert_conforms(Full(), tmp_path / "full")
