"""From messages to ids: what transformers makes of them, but for text that only looks like a control token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraplug import Conversation, InputError, Prompter
from loraplug_chat.mask import Masker
from loraplug_serve.text import Pieces

WORDS = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_", "end|>", "the bug", "\n", " ", "é", "🎉"]
)
TEXT = st.lists(WORDS | st.text(max_size=4), max_size=8).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    """The tiny model's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@settings(deadline=None, max_examples=200)
@given(system=st.none() | TEXT, asked=TEXT, answered=TEXT, again=TEXT)
def test_the_prompt_has_the_ids_of_the_training(
    tokenizer: Any, system: str | None, asked: str, answered: str, again: str
) -> None:
    """The formatter's ids of the same conversation begin with the prompt's, typed control tokens or none."""
    first = [] if system is None else [{"role": "system", "content": system}]
    messages = [*first, {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages.append({"role": "user", "content": again})
    ids = Prompter.of(tokenizer, "test").ids(messages)
    talk = Conversation(id="0", messages=[*messages, {"role": "assistant", "content": "42"}])
    assert Masker.of(tokenizer).encode(talk, "assistant").ids[: len(ids)] == ids
    control = {tokenizer.convert_tokens_to_ids(text) for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")}
    turns = len(messages)
    assert sum(number in control for number in ids) == 2 * turns + 1
    assert asked in tokenizer.decode(ids) and again in tokenizer.decode(ids)


def test_plain_text_is_encoded_as_transformers_does(tokenizer: Any) -> None:
    """Without such text the ids are `apply_chat_template`'s."""
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "what is 1 and one?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert Prompter.of(tokenizer, "test").ids(messages) == list(expected)


def test_what_frames_turns_is_control_though_not_marked_special(tokenizer: Any) -> None:
    """An added token that is not special but begins a turn cannot be typed either."""
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer)
    tokenizer.add_tokens(["<user>", "<bot>", "<other>"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    ids = Prompter.of(tokenizer, "test").ids([{"role": "user", "content": "a<bot>b<other>"}])
    assert ids.count(tokenizer.convert_tokens_to_ids("<bot>")) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("<other>")) == 1
    assert tokenizer.decode(ids) == "<user>a<bot>b<other><|im_end|><bot>"


def test_answers_end_where_the_template_ends_a_turn(tokenizer: Any) -> None:
    """Even where neither model nor tokenizer names that token as its end."""
    from copy import deepcopy

    from transformers import GenerationConfig

    tokenizer = deepcopy(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    pad = tokenizer.eos_token_id
    assert Prompter.of(tokenizer, "test").stops(GenerationConfig(eos_token_id=[7, 8])) == {7, 8, pad, end}


def test_a_template_that_refuses_is_told(tokenizer: Any) -> None:
    """A template without system messages says so in one of our errors; none at all is said at once."""
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(InputError, match="no system here"):
        Prompter.of(tokenizer, "test").ids(messages)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        Prompter.of(tokenizer, "test")


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=30) | TEXT)
def test_pieces_come_to_the_whole_text(tokenizer: Any, text: str) -> None:
    """Streamed pieces joined are the decoded answer, and no piece ends within a character."""
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    pieces = Pieces(tokenizer)
    said = [pieces.add(number) for number in ids]
    assert "".join([*said, pieces.rest()]) == tokenizer.decode(ids, skip_special_tokens=True)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in said)
