"""The fast path is held equal to the plain one: losses, gradients, and reasons where it steps aside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def quantised(folder: Any, quantizer: Any, published: Any = torch.float32, **options: Any) -> Any:
    """A random model of widths that blocks of 64 scales divide, saved in a dtype and loaded with a quantizer."""
    from transformers import AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8}
    tiny("qwen2", **sizes | options).to(published).save_pretrained(folder)
    kind = {"quantization_config": quantizer.config(torch.float32)} if quantizer else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kind)
    return quantizer.prepare(model) if quantizer else model


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
    """What transformers computes, times the tokens' weights where there are some."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    total = (losses * batch["token_weights"][:, 1:]).sum() if "token_weights" in batch else losses.sum()
    return total / (count or (labels != -100).sum())


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    """Gradients of the trained parameters by name."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_equal_paths(model: Any, batch: dict[str, Any], wanted: Any = None) -> None:
    """Loss and every gradient of the fast path are the plain path's within float32's rounding."""
    from loraplug_train.cpu import kernel

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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [False, True])
def test_equals_plain_with_token_weights(family, left):
    """Each token's loss times 0, 0.5, 1 or 2; what is divided by stays the number of labels."""
    batch = made_batch(left=left)
    draw = torch.Generator().manual_seed(3)
    batch["token_weights"] = torch.tensor([0.0, 0.5, 1.0, 2.0])[torch.randint(4, batch["labels"].shape, generator=draw)]
    assert_equal_paths(adapted(tiny(family)), batch)


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_equals_plain_with_scaled_rope(rope):
    """Scaled rotary embeddings."""
    rope = {"rope_theta": 10000.0, **rope}
    assert_equal_paths(adapted(tiny("llama", rope_parameters=rope)), made_batch())


def test_equals_plain_with_biases():
    """Frozen biases on every linear layer."""
    assert_equal_paths(adapted(tiny("llama", attention_bias=True, mlp_bias=True)), made_batch())


def test_packed_rows_do_not_see_each_other():
    """Rows laid end to end with positions that start again give what they give one by one."""
    from loraplug_train.cpu import kernel

    model = adapted(tiny("qwen3"))
    batch = made_batch()
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [{name: part[at, :n] for name, part in batch.items()} for at, n in enumerate(lengths)]
    packed = {name: torch.cat([row[name] for row in rows])[None] for name in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    done, sentence = kernel.install(model)
    assert done, sentence
    count = 30.0
    single = [{name: part[None] for name, part in row.items()} for row in rows]
    wanted = sum(plain_loss(model, row, count) for row in single)
    by_plain = gradients(model, wanted)
    by_packed = gradients(model, kernel.label_loss(model, packed, count))
    by_single = gradients(model, sum(kernel.label_loss(model, row, count) for row in single))
    for name, grad in by_plain.items():
        torch.testing.assert_close(by_packed[name], grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(by_single[name], grad, rtol=1e-4, atol=1e-6)


def test_equals_plain_with_checkpointing():
    """With gradient checkpointing a block keeps its input only, and makes the rest again, bit for bit."""
    from loraplug_train.cpu import kernel

    model = adapted(tiny("qwen3"))
    done, sentence = kernel.install(model)
    assert done, sentence
    kept: list[int] = []

    def count(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    found = []
    for _ in range(2):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = kernel.label_loss(model, made_batch())
        found.append((sum(kept), gradients(model, loss)))
        model.gradient_checkpointing_enable()
    assert found[1][0] < found[0][0] / 4
    for name, grad in found[0][1].items():
        assert torch.equal(found[1][1][name], grad)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("piece", [4 << 10, 8 << 20])
def test_equals_plain_in_4_bits(kind, double, piece, tmp_path, monkeypatch):
    """A base of bitsandbytes, whose weights are made again for each use, whole or in pieces."""
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_train.cpu import math as kernel_math

    monkeypatch.setattr(kernel_math, "_PIECE_BYTES", piece)
    assert_equal_paths(adapted(quantised(tmp_path, BitsAndBytes(quant_type=kind, double_quant=double))), made_batch())


@pytest.mark.parametrize("tied", [False, True])
def test_a_quantised_models_vocabulary_is_halved_where_nothing_changes(tied, tmp_path, monkeypatch):
    """Published in bfloat16 it is kept so, and loss, gradients and answers are the same; the model stays float32."""
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_train.cpu import kernel
    from loraplug_train.cpu import vocabulary as kernel_vocabulary

    monkeypatch.setattr(kernel_vocabulary, "_PIECE_ROWS", 40)
    model = adapted(quantised(tmp_path, BitsAndBytes(), torch.bfloat16, tie_word_embeddings=tied))
    ids = made_batch()["input_ids"][:1, :5]
    logits, answer = model(input_ids=ids).logits, model.generate(input_ids=ids, max_new_tokens=9, do_sample=False)
    assert_equal_paths(model, made_batch())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert type(embedding) is kernel_vocabulary.Lookup
    assert type(head) is kernel_vocabulary.Output
    assert (embedding.weight is head.weight) is tied
    assert embedding.weight.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    torch.testing.assert_close(model(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=9, do_sample=False), answer)
    with torch.no_grad():
        loss = kernel.label_loss(model, made_batch())
    assert kernel.install(model)[0], "an estimate before the training installs it first"
    with torch.no_grad():
        assert kernel.label_loss(model, made_batch()) == loss
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= model.get_base_model().state_dict().keys()


@pytest.mark.parametrize(
    ("published", "bits", "options", "halved"),
    [
        ("bfloat16", 4, {}, "embedding head"),
        ("bfloat16", 8, {}, ""),
        ("float32", 4, {}, ""),
        ("bfloat16", 0, {}, ""),
        ("bfloat16", 4, {"modules_to_save": ["embed_tokens"]}, ""),
        ("bfloat16", 4, {"target_modules": ["q_proj", "embed_tokens"]}, ""),
    ],
)
def test_what_is_trained_or_would_change_is_not_halved(published, bits, options, halved, tmp_path):
    """Other bits in it, a trained or adapted one, no quantizer, or no fast path: it stays as it was."""
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_train.cpu import kernel

    quantizer = BitsAndBytes(bits=bits) if bits else None
    model = adapted(quantised(tmp_path, quantizer, getattr(torch, published)), **options)
    kernel.install(model)
    parts = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    assert " ".join(name for name, part in parts.items() if part.weight.dtype == torch.bfloat16) == halved


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the fault is in a kernel for AVX-512")
def test_a_layer_that_bitsandbytes_misreads_is_refused(tmp_path):
    """48 inputs, a scale for 64 values: its weights would come back wrong, by up to their own size."""
    from loraplug import InputError
    from loraplug_bnb.quantizer import BitsAndBytes

    quantised(tmp_path, BitsAndBytes(bits=8), num_attention_heads=6)
    with pytest.raises(
        InputError, match=r"layers\.0.*o_proj.*dequantizes wrongly on this CPU: the layer has 48 inputs"
    ):
        quantised(tmp_path, BitsAndBytes(bits=4), num_attention_heads=6)


@settings(deadline=None)
@given(
    rows=st.integers(1, 70) | st.just(1100),
    width=st.integers(1, 8).map(lambda n: 64 * n) | st.sampled_from([16, 48, 96]),
    block=st.sampled_from([64, 128, 256]),
    double=st.booleans(),
    kind=st.sampled_from(["nf4", "fp4"]),
    piece=st.sampled_from([1, 4 << 10, 1 << 18]),
)
def test_a_4_bit_weight_in_pieces_is_the_weight(rows, width, block, double, kind, piece):
    """Bit for bit what bitsandbytes makes of it; none is larger than asked where rows are whole blocks of scales."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    from loraplug_train.cpu import math as kernel_math

    options = {"blocksize": block, "quant_type": kind, "compress_statistics": double, "requires_grad": False}
    weight = Params4bit(torch.randn(rows, width), **options).to("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_math, "_PIECE_BYTES", piece)
        pieces = list(kernel_math.four_bits(weight, torch.float32))
    assert torch.equal(torch.cat(pieces), dequantize_4bit(weight, weight.quant_state))
    if not width % block:
        assert all(part.nbytes <= max(piece, 4 * width) for part in pieces)
        assert rows <= 512 or len(pieces) > 1 or 4 * rows * width <= piece


def test_fifty_steps_end_where_plain_ones_do_and_twice_the_same():
    """50 steps of AdamW: each loss within 1e-3 of the plain path's; two fast runs are equal bit for bit."""
    from loraplug_train.cpu import kernel

    def losses(fast: bool) -> list[float]:
        model = adapted(tiny("llama"))
        assert not fast or kernel.install(model)[0]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        found = []
        for step in range(50):
            batch = made_batch(seed=step % 5)
            loss = kernel.label_loss(model, batch) if fast else plain_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    plain, fast = losses(False), losses(True)
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=1e-3)
    assert losses(True) == fast


def test_the_rest_of_the_model_stays_plain():
    """Generation and a forward without `label_count` are what they were; validation takes the fast loss too."""
    from loraplug_train.cpu import kernel

    model = adapted(tiny("llama"))
    batch = made_batch()
    before = model(input_ids=batch["input_ids"]).logits
    written = model.generate(input_ids=batch["input_ids"][:1, :5], max_new_tokens=5, do_sample=False)
    assert kernel.install(model)[0]
    assert torch.equal(model(input_ids=batch["input_ids"]).logits, before)
    again = model.generate(input_ids=batch["input_ids"][:1, :5], max_new_tokens=5, do_sample=False)
    assert torch.equal(again, written)
    with torch.no_grad():
        loss = kernel.label_loss(model.eval(), batch)
        assert loss.item() == pytest.approx(plain_loss(model, batch).item(), rel=1e-5)


def test_rows_without_labels_give_nothing():
    """A micro-batch with nothing to train has loss 0 and gradients of 0."""
    from loraplug_train.cpu import kernel

    model = adapted(tiny("llama"))
    assert kernel.install(model)[0]
    batch = made_batch()
    batch["labels"][:] = -100
    loss = kernel.label_loss(model, batch, 7.0)
    assert loss.item() == 0
    assert all(float(grad.abs().max()) == 0 for grad in gradients(model, loss).values())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_dropout": 0.1}, "dropout"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "output layer"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["o_proj"]}, "ModulesToSaveWrapper"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]}, "norms"),
    ],
)
def test_steps_aside_for_adapters(options, reason):
    """Adapters that the fast path does not compute: plain, and the reason is said."""
    from loraplug_train.cpu import kernel

    done, sentence = kernel.install(adapted(tiny("llama"), **options))
    assert not done
    assert reason in sentence


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("gpt2", {}, "GPT2LMHeadModel is not one of"),
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("llama", {"hidden_act": "gelu"}, "not SiLU"),
        ("llama", {"attention_dropout": 0.1}, "attention dropout"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope"),
    ],
)
def test_steps_aside_for_models(family, options, reason):
    """Models that the fast path does not compute: plain, and the reason is said."""
    from loraplug_train.cpu import kernel

    done, sentence = kernel.install(adapted(tiny(family, **options)))
    assert not done
    assert reason in sentence


def test_steps_aside_for_other_precisions():
    """float16 is left to the plain path."""
    from loraplug_train.cpu import kernel

    done, sentence = kernel.install(adapted(tiny("llama").to(torch.float16)))
    assert not done
    assert "float32" in sentence


def test_a_row_of_one_token():
    """A row too short to predict anything, alone and beside another."""
    from loraplug_train.cpu import kernel

    model = adapted(tiny("llama"))
    assert kernel.install(model)[0]
    batch = made_batch((1, 9))
    batch["labels"][0] = batch["input_ids"][0]
    batch["labels"][0, 1:] = -100
    assert kernel.label_loss(model, {name: part[:1, :1] for name, part in batch.items()}).item() == 0
    assert kernel.label_loss(model, batch).item() == pytest.approx(plain_loss(model, batch).item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_only_products_are_rounded(family: str) -> None:
    """With weights in bfloat16 loss and gradients are nearer to float32's than the plain path's in bfloat16."""
    from loraplug_train.cpu import kernel

    exact, batch = adapted(tiny(family)), made_batch()
    wanted = plain_loss(exact, batch)
    by_exact = gradients(exact, wanted)
    model = adapted(tiny(family).bfloat16())
    plain = plain_loss(model, batch).float()
    by_plain = gradients(model, plain)
    done, sentence = kernel.install(model)
    assert done, sentence
    loss = kernel.label_loss(model, batch)
    by_fast = gradients(model, loss)
    assert loss.dtype == torch.float32
    assert abs(loss - wanted) < max(2e-3 * wanted, abs(plain - wanted))

    def off(found: dict[str, Any]) -> float:
        pairs = [(found[name].float(), by_exact[name]) for name in by_exact]
        return float(sum((a - b).norm() ** 2 for a, b in pairs) / sum(b.norm() ** 2 for _, b in pairs)) ** 0.5

    assert all(gradient.dtype == torch.float32 for gradient in by_fast.values())
    assert off(by_fast) < min(0.05, 1.05 * off(by_plain))
