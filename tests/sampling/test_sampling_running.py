"""Answers that join and leave at any time are those that each would be alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from families import build
from loraplug_serve.sampling import Drawing, Prefixes, Prompt, Running, Sampler
from loraplug_serve.sampling.drawing import choose, stream

TOGETHER = ("llama", "qwen3", "qwen3_moe", "gpt2", "granite", "opt")
APART = ("gemma3", "gpt_oss", "mamba", "qwen3_next")
STOP = 2


def prompts_for(model: Any) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    return [torch.randint(3, size, (length,), generator=drawn).tolist() for length in (7, 19, 4, 11)]


def expected(model: Any, prompt: list[int], drawing: Drawing, sample: int = 0) -> list[int]:
    (found,) = Sampler(model, {STOP}).completions([Prompt(prompt, [sample])], drawing)
    return found.ids


def run(running: Running, joins: dict[int, tuple[list[int], Drawing, tuple[int, ...]]]) -> list[Any]:
    """Join at the given steps, and go on until all is said."""
    made, at = [], 0
    while at <= max(joins) or len(running):
        if at in joins:
            ids, drawing, samples = joins[at]
            made += running.join(ids, drawing, samples)
        running.step()
        at += 1
    return made


@pytest.mark.parametrize("name", [*TOGETHER, *APART])
def test_who_joins_later_says_what_he_would_say_alone(name: str) -> None:
    """Of every kind of cache; one is drawn with two samples, beside others that are greedy."""
    model = build(name)
    running = Running(model, {STOP})
    prompts = prompts_for(model)
    greedy, drawn = Drawing(max_tokens=12), Drawing(temperature=0.9, top_p=0.9, max_tokens=9, seed=5)
    joins = {
        0: (prompts[0], greedy, (0,)), 3: (prompts[1], drawn, (0, 1)), 5: (prompts[2], greedy, (0,)),
        14: (prompts[3], greedy, (0,)),
    }  # fmt: skip
    made = run(running, joins)
    assert running.shared == (name in TOGETHER)
    wanted = [expected(model, ids, how, sample) for ids, how, samples in joins.values() for sample in samples]
    assert [one.ids for one in made] == wanted
    assert len(running) == 0


def test_who_leaves_changes_nothing_for_the_others() -> None:
    """The first of three is given up in the middle, and one before it said a word."""
    model = build("llama")
    running = Running(model, {STOP})
    prompts = prompts_for(model)
    how = Drawing(max_tokens=16)
    (first,), (second,) = running.join(prompts[0], how), running.join(prompts[1], how)
    for _ in range(4):
        running.step()
    (third,), (fourth,) = running.join(prompts[2], how), running.join(prompts[3], how)
    running.leave([first, fourth])
    assert len(running) == 2 and len(first.ids) == 4
    while len(running):
        running.step()
    assert second.ids == expected(model, prompts[1], how) and third.ids == expected(model, prompts[2], how)
    assert fourth.ids == []


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba"])
def test_a_conversation_that_goes_on_is_not_read_again(name: str) -> None:
    """A second turn and a branch, beside one that reads all of it; where a cache cannot go back, all is read."""
    model = build(name)
    running = Running(model, {STOP}, prefixes=Prefixes())
    prompt, how = prompts_for(model)[1], Drawing(max_tokens=8)
    (first,) = run(running, {0: (prompt, how, (0,))})
    assert running.prefixes is not None
    further, branch = [*prompt, *first.ids, 5, 6, 7], [*prompt[:9], 4, 4]
    known = running.prefixes.cache(further)[0]
    assert known == (len(prompt) + 7 if name == "llama" else 0)
    for ids in (further, branch, prompt, further):
        (said,) = run(running, {0: (ids, how, (0,))})
        assert said.ids == expected(model, ids, how)
    running.prefixes.room = 1
    running.prefixes.keep([1], [(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))])
    assert running.prefixes.cache(further) == (0, None)


def test_the_likeliest_tokens_are_told() -> None:
    """As many as were asked for, the chosen one first where it is greedy."""
    model = build("llama")
    running = Running(model, set())
    running.join(prompts_for(model)[0], Drawing(max_tokens=2), top=3)
    ((_, token),) = running.step()
    logits = model(torch.tensor([prompts_for(model)[0]])).logits[0, -1].log_softmax(-1)
    best = logits.topk(3)
    assert [one for one, _ in token.top] == best.indices.tolist() and token.id == token.top[0][0]
    assert torch.allclose(torch.tensor([value for _, value in token.top]), best.values, atol=1e-4)
    ((_, last),) = running.step()
    assert last.finish == "length"


def test_what_a_generation_config_asks_for_is_as_transformers_has_it() -> None:
    """top_k, min_p and the repetition penalty leave the tokens that transformers' own processors leave."""
    from transformers.generation import logits_process as process

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 3
    text = [3, 7, int(logits.argmax())]
    penalised = process.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([text]), logits.clone())
    greedy = choose(logits, [stream(0, text, 0)], 0, Drawing(repetition_penalty=1.3), [text])[0]
    assert int(greedy) == int(penalised.argmax())
    for how, own in (
        (Drawing(temperature=1.0, top_k=4), process.TopKLogitsWarper(4)),
        (Drawing(temperature=1.0, min_p=0.2), process.MinPLogitsWarper(0.2)),
    ):
        left = set(own(torch.tensor([text]), logits.clone()).isfinite().nonzero()[:, 1].tolist())
        keys = [stream(0, text, at) for at in range(400)]
        found = set(choose(logits.expand(400, -1), keys, 0, how)[0].tolist())
        assert found <= left and len(found) > 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, as in a program at a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_an_interrupt_within_a_token_spoils_nothing(name: str) -> None:
    """Between two layers, in the steps and while the model is tried; the talk goes on as if it had come later."""
    model = build(name)
    running = Running(model, {STOP}, prefixes=Prefixes())
    prompt, how = prompts_for(model)[1], Drawing(max_tokens=8)
    own = model.config._attn_implementation
    (answer,) = running.join(prompt, how)
    for _ in range(3):
        running.step()
    last = model.base_model.layers[-1]
    hook = last.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        running.step()
    hook.remove()
    running.leave([answer])
    assert len(answer.ids) == 4 and model.config._attn_implementation == own
    further = [*prompt, *answer.ids]
    (said,) = run(running, {0: (further, how, (0,))})
    assert said.ids == expected(model, further, how)
    fresh = Running(model, {STOP})
    hook = last.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fresh.join(prompt, how)
    hook.remove()
    assert model.config._attn_implementation == own
    (said,) = run(fresh, {0: (prompt, how, (0,))})
    assert said.ids == expected(model, prompt, how)
