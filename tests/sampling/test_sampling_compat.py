"""What the sampler relies on in transformers: a failure says what a new version has changed."""

from __future__ import annotations

import torch

from families import build
from loraplug_serve.sampling.compat import attention_of, base_of, cache_of, with_cache

SEE = "see loraplug_serve/sampling/compat.py"


def test_a_models_attention_is_known_by_name_and_can_be_set() -> None:
    """By the public method; the name that is read is the one that was set."""
    model = build("llama")
    assert attention_of(model) == "sdpa", f"the name of the attention is told otherwise: {SEE}"
    model.set_attn_implementation("eager")
    assert attention_of(model) == "eager", f"set_attn_implementation sets another name: {SEE}"


def test_a_pass_goes_on_from_the_cache_it_left() -> None:
    """By the argument that the version has, without a word of deprecation."""
    import warnings

    model = build("llama")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = model(input_ids=ids, use_cache=False).logits[:, -1]
        cache = cache_of(model(input_ids=ids[:, :3], use_cache=True, logits_to_keep=1))
        assert cache is not None, f"a forward pass leaves its cache elsewhere: {SEE}"
        last = model(input_ids=ids[:, 3:], **with_cache(model, cache)).logits[:, -1]
    assert torch.allclose(whole, last, atol=1e-5), f"the cache was not gone on from: {SEE}"


def test_the_model_inside_adapters_is_found() -> None:
    """`get_base_model` of peft."""
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    assert base_of(get_peft_model(model, LoraConfig(target_modules=["q_proj"]))) is model, SEE
    assert base_of(model) is model
