"""Answers of the sampler are those of the model, whatever is made beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import build
from loraplug_serve.sampling import Completion, Drawing, Prompt, Sampler
from loraplug_serve.sampling.drawing import choose, stream, uniform

STOP = 2
LENGTHS = (5, 17, 9)
TOGETHER = ("llama", "qwen3", "qwen3_moe", "gpt2", "granite", "opt")
APART = ("gemma3", "gpt_oss", "mamba", "qwen3_next", "falcon_h1", "deepseek_v3")


def prompts_for(model: Any) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    return [torch.randint(3, size, (length,), generator=drawn).tolist() for length in LENGTHS]


def said(sampler: Sampler, prompts: list[list[int]], samples: int, drawing: Drawing) -> dict[Any, Completion]:
    found = sampler.completions([Prompt(one, range(samples)) for one in prompts], drawing)
    return {(one.prompt, one.sample): one for one in found}


def by_hand(model: Any, prompt: list[int], most: int) -> tuple[list[int], list[float]]:
    """The likeliest token each time, everything computed anew; and how much likelier each was than the second."""
    made: list[int] = []
    margins = []
    while len(made) < most:
        with torch.inference_mode():
            best = model(torch.tensor([prompt + made]), use_cache=False).logits[0, -1].float().topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        if int(best.indices[0]) == STOP:
            break
        made.append(int(best.indices[0]))
    return made, margins


@pytest.mark.parametrize("name", [*TOGETHER, *APART])
def test_greedy_answers_are_the_models_own(name: str) -> None:
    """Of every kind of cache and attention; answers to several prompts are made together where that is the same."""
    model = build(name)
    sampler = Sampler(model, {STOP}, batch=8)
    prompts = prompts_for(model)
    found = said(sampler, prompts, 1, Drawing(max_tokens=12))
    assert sampler.shared == (name in TOGETHER)
    for at, prompt in enumerate(prompts):
        ids, margins = by_hand(model, prompt, 12)
        if found[at, 0].ids != ids:  # rounding may decide between two that are as likely
            first = next(
                place for place, pair in enumerate(zip(ids, found[at, 0].ids, strict=False)) if len({*pair}) > 1
            )
            assert margins[first] < 1e-3, f"prompt {at}: another token at {first}"


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_an_answer_does_not_depend_on_what_is_made_beside_it(name: str) -> None:
    """Drawn in batches of any size and order, together or apart: token for token; log-probabilities up to rounding."""
    model = build(name)
    prompts, drawing = prompts_for(model), Drawing(temperature=1.1, top_p=0.95, max_tokens=16, seed=3)
    whole = said(Sampler(model, {STOP}, batch=64), prompts, 5, drawing)
    assert len(whole) == 15 and len({tuple(one.ids) for one in whole.values()}) == 15
    for batch in (1, 4):
        parts = said(Sampler(model, {STOP}, batch=batch, shared=False), prompts, 5, drawing)
        assert {key: one.ids for key, one in parts.items()} == {key: one.ids for key, one in whole.items()}
        for key, one in parts.items():
            assert one.logprobs == pytest.approx(whole[key].logprobs, abs=1e-4)
    backwards = said(Sampler(model, {STOP}, batch=7), prompts[::-1], 5, drawing)
    assert all(backwards[2 - at, sample].ids == one.ids for (at, sample), one in whole.items())
    later = Sampler(model, {STOP}).completions([Prompt(prompts[1], [4])], drawing)
    assert [one.ids for one in later] == [whole[1, 4].ids]
    other = said(Sampler(model, {STOP}, batch=64), prompts, 5, Drawing(1.1, 0.95, 16, seed=4))
    assert all(other[key].ids != one.ids for key, one in whole.items())


def test_what_is_done_is_left_out_and_changes_nothing() -> None:
    """Bit for bit: the rest of what was interrupted is made in the same company."""
    model = build("llama")
    prompts, drawing = prompts_for(model), Drawing(temperature=1.0, max_tokens=8)
    asked = [Prompt(one, range(4)) for one in prompts]
    whole = {(one.prompt, one.sample): one for one in Sampler(model, {STOP}, batch=5).completions(asked, drawing)}
    done = {(0, 0), (0, 1), (1, 3), (2, 2)}
    rest = list(Sampler(model, {STOP}, batch=5).completions(asked, drawing, done))
    assert {(one.prompt, one.sample) for one in rest} == whole.keys() - done
    for one in rest:
        same = whole[one.prompt, one.sample]
        assert (one.ids, one.logprobs, one.margins, one.finish) == (same.ids, same.logprobs, same.margins, same.finish)


def test_log_probabilities_are_those_of_reading_the_answer() -> None:
    """At temperature 1 and without top_p, whatever it was drawn with; the token that ends an answer counts."""
    model = build("llama")
    prompts = prompts_for(model)
    found = said(
        Sampler(model, set(range(3, 60)), batch=8), prompts, 3, Drawing(temperature=1.7, top_p=0.9, max_tokens=40)
    )
    assert {one.finish for one in found.values()} == {"stop"}
    checked = 0
    for (at, _), one in found.items():
        with torch.inference_mode():
            read = model(torch.tensor([prompts[at] + one.ids])).logits[0].log_softmax(-1)
        for place, token in enumerate(one.ids):
            assert one.logprobs[place] == pytest.approx(float(read[len(prompts[at]) - 1 + place, token]), abs=1e-4)
            checked += 1
        assert len(one.logprobs) == len(one.margins) == len(one.ids) + 1
    assert checked > 5


def test_the_end_of_the_context_ends_an_answer() -> None:
    """A prompt that leaves room for three tokens gets three; one that leaves none gets none, and says so."""
    model = build("llama")
    most = model.config.max_position_embeddings
    prompts = [Prompt([5] * (most - 3)), Prompt([5] * most), Prompt([7, 8])]
    found = {one.prompt: one for one in Sampler(model, set()).completions(prompts, Drawing(max_tokens=10))}
    assert [len(found[at].ids) for at in range(3)] == [3, 0, 10]
    assert [found[at].finish for at in range(3)] == ["length", "prompt-too-long", "length"]


def test_the_adapter_is_on_or_off() -> None:
    """`adapter_context` is entered for every pass: off, the answers are the base's, and on again the adapter's."""
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    prompts, drawing = prompts_for(model), Drawing(max_tokens=8)
    base = said(Sampler(model, {STOP}), prompts, 1, drawing)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    on = Sampler(adapted, {STOP})
    changed = said(on, prompts, 1, drawing)
    off = said(Sampler(adapted, {STOP}, adapter_context=adapted.disable_adapter), prompts, 1, drawing)
    assert on.shared
    assert {key: one.ids for key, one in off.items()} == {key: one.ids for key, one in base.items()}
    assert any(changed[key].ids != base[key].ids for key in base)
    assert {key: one.ids for key, one in said(on, prompts, 1, drawing).items()} == {
        key: one.ids for key, one in changed.items()
    }
    assert model.config._attn_implementation == "sdpa"  # as it was


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """Of 20,000 numbers; with top_p nothing outside is drawn, and the rest in proportion."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    keys = [stream(1, [3, 4], sample) for sample in range(20_000)]
    for top_p in (1.0, 0.7):
        tokens, logprobs, margins = choose(logits.expand(len(keys), -1), keys, 0, Drawing(0.8, top_p))
        share = (logits[0] / 0.8).softmax(-1)
        if top_p < 1:
            share = torch.where(share >= share.sort(descending=True).values[1], share, 0.0)
        share = share / share.sum()
        counts = torch.bincount(tokens, minlength=5) / len(keys)
        assert float((counts - share).abs().max()) < 0.01
        assert torch.allclose(logprobs, logits[0].log_softmax(-1)[tokens], atol=1e-6)
        assert float(margins.min()) >= 0 and float(margins.max()) <= float(share.max()) / 2 + 1e-9


def test_numbers_belong_to_their_place() -> None:
    """Another position, sample, prompt or seed is another number; the same is the same."""
    of = [(seed, prompt, sample) for seed in (1, 2) for prompt in ([1], [1, 2]) for sample in range(4)]
    places = {uniform(stream(*one), position) for one in of for position in range(50)}
    assert len(places) == 800 and min(places) >= 0 and max(places) < 1
    assert abs(np.mean(sorted(places)) - 0.5) < 0.05
    assert uniform(stream(1, [1], 0), 7) == uniform(stream(1, [1], 0), 7)


def test_nothing_heavy_is_loaded_by_the_package(tmp_path: Path) -> None:
    """Plugins may import it at their top."""
    import subprocess
    import sys

    loaded = "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    code = f"import sys, loraplug_serve.sampling; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[]"
