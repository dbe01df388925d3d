"""The fast path is held equal to the plain one: losses, gradients, and reasons where it steps aside."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def tiny(family: str, **options: Any) -> Any:
    """A random model of two layers, grouped attention and a vocabulary of 99, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "vocab_size": 99}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    extra = {"sliding_window": None} if family == "mistral" else {}
    config = AutoConfig.for_model(family, **{**sizes, **heads, **extra, "initializer_range": 0.2, **options})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.7, 0.3)
    return model


def adapted(model: Any, **options: Any) -> Any:
    """`model` with adapters on all linear layers that already differ from nothing."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options}, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return model.train()


def made_batch(lengths: tuple[int, ...] = (17, 5, 30), seed: int = 0, left: bool = False) -> dict[str, Any]:
    """Padded rows of random ids with the first third masked."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, 99, shape, generator=draw)
    mask, labels = torch.zeros(shape, dtype=torch.long), ids.clone()
    for row, length in enumerate(lengths):
        at = shape[1] - length if left else 0
        mask[row, at : at + length] = 1
        labels[row, at : at + length // 3] = -100
    labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model: Any, batch: dict[str, Any], count: float | None = None) -> Any:
    """What transformers computes."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    total = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum")
    return total / (count or (labels != -100).sum())


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    """Gradients of the trained parameters by name."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_equal_paths(model: Any, batch: dict[str, Any], wanted: Any = None) -> None:
    """Loss and every gradient of the fast path are the plain path's within float32's rounding."""
    from loraplug_sft import kernel

    expected = plain_loss(model, batch) if wanted is None else wanted
    by_plain = gradients(model, expected)
    done, sentence = kernel.install(model)
    assert done, sentence
    loss = kernel.label_loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    by_fast = gradients(model, loss)
    assert by_fast.keys() == by_plain.keys()
    largest = max(float(grad.abs().max()) for grad in by_plain.values())
    assert largest > 1e-3
    for name, grad in by_plain.items():
        torch.testing.assert_close(by_fast[name], grad, rtol=1e-4, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [False, True])
def test_equals_plain(family, left):
    """Padded rows of several lengths, on either side, in each family."""
    assert_equal_paths(adapted(tiny(family)), made_batch(left=left))


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["down_proj", "k_proj"], "layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 2, "gate_proj": 7}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True},
        {"init_lora_weights": "pissa"},
        {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_equals_plain_however_adapted(options):
    """Adapters on some layers, ranks and scales by layer, PiSSA's changed base, trained embeddings."""
    assert_equal_paths(adapted(tiny("llama"), **options), made_batch())


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_equals_plain_with_scaled_rope(rope):
    """Scaled rotary embeddings."""
    rope = {"rope_theta": 10000.0, **rope}
    assert_equal_paths(adapted(tiny("llama", rope_parameters=rope)), made_batch())


def test_equals_plain_with_biases():
    """Frozen biases on every linear layer."""
    assert_equal_paths(adapted(tiny("llama", attention_bias=True, mlp_bias=True)), made_batch())
