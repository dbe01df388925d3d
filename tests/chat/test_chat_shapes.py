"""Rows of a known shape come out as the long way would have them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from chat_help import CHATML, answer, system, templates, tokenizer_for, user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraplug import Conversation
from loraplug_chat.mask import Masker
from loraplug_chat.opaque import OpaqueStr
from loraplug_chat.provenance import InspectedError

contents = st.text(st.sampled_from("ab \n<|>im_end{}é漢"), max_size=20) | st.sampled_from(
    ["<|im_end|>", "", " x ", "end|>"]
)
NAMES = ["chatml", "qwen2_5", "llama3", "gemma", "phi3", "cohere2", "gemma3", "lfm2"]


@cache
def taught(name: str) -> tuple[Any, Masker]:
    """A tokenizer, and a masker that has learnt the shapes of the test."""
    tokenizer = tokenizer_for(CHATML if name == "chatml" else templates()[name])
    masker = Masker.of(tokenizer)
    for messages in ([user("a"), answer("b")], [user("a"), answer("b"), user("c"), answer("d")]):
        masker.encode(Conversation("taught", messages))
        masker.encode(Conversation("taught", messages), "last-assistant")
    assert all(masker._learnt.values()) and len(masker._learnt) == 4
    return tokenizer, masker


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(texts=st.lists(contents, min_size=4, max_size=4), turns=st.sampled_from([2, 4]), last=st.booleans())
def test_known_shapes_give_what_the_long_way_gives(name: str, texts: list[str], turns: int, last: bool) -> None:
    """Whatever is in the row."""
    _, masker = taught(name)
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts[:turns])]
    train_on: Any = "last-assistant" if last else "assistant"
    conversation = Conversation("row", messages)
    assert masker.encode(conversation, train_on) == fresh(name).encode(conversation, train_on)


def fresh(name: str) -> Masker:
    """The same masker with nothing learnt."""
    _, masker = taught(name)
    return Masker(masker.template, masker.tokens, masker.locator, masker.shapes)


@pytest.mark.parametrize(
    "looking",
    [
        "{% if message['content'] == 'x' %}!{% endif %}",
        "{% if message['content'] %}!{% endif %}",
        "{% if 'x' in message['content'] %}!{% endif %}",
        "{% if message['content'] in 'xyz' %}!{% endif %}",
        "{% if message['content'] is in(['x']) %}!{% endif %}",
        "{% if message['content'] | length > 3 %}!{% endif %}",
        "{% if message['content'].startswith('x') %}!{% endif %}",
        "{{ message['content'][:3] }}",
        "{{ message['content'] | upper }}",
        "{{ message['content'] | replace('x', 'y') }}",
        "{{ message | tojson }}",
        "{{ message['content'].split('x')[-1] }}",
        "{% set ns = namespace(last=message['content']) %}{% if ns.last == 'x' %}!{% endif %}",
        "{{ {'x': 1}.get(message['content'], 2) }}",
        "{{ 'xyz'.find(message['content']) }}",
        "{{ '%s' % message['content'] }}",
        "{{ '{}'.format(message['content']) }}",
        "{{ message['content'] ~ message['content'] | trim }}",
    ],
)
def test_templates_that_look_at_contents_are_rendered_row_by_row(looking: str) -> None:
    """No shape is learnt where what is written may depend on a content."""
    template = CHATML.replace("{% for message in messages %}", "{% for message in messages %}" + looking)
    masker = Masker.of(tokenizer_for(template))
    for text in ("x", "abcdef", "", "x y", " z "):
        conversation = Conversation("row", [system(text), user(text), answer(text)])
        try:
            ids = masker.encode(conversation).ids
        except Exception as error:
            assert "cannot verify" in str(error), error
            continue
        expected = masker.tokens.tokenizer.apply_chat_template(conversation.messages, return_dict=False)
        assert ids == expected
    if "~" not in looking:
        assert not any(masker._learnt.values())


def test_sealed_text_lets_nothing_out() -> None:
    """Each way to look at it raises; joining and stripping do not."""
    sealed = OpaqueStr("x", ((1_000_000, 1),))
    looks: list[Any] = [
        lambda: sealed == "x",
        lambda: sealed != "x",
        lambda: sealed == "x",
        lambda: bool(sealed),
        lambda: len(sealed),
        lambda: hash(sealed),
        lambda: "x" in sealed,
        lambda: sealed[0],
        lambda: list(sealed),
        lambda: sealed < "y",
        lambda: f"{sealed}",
        lambda: sealed.find("x"),
        lambda: sealed.isdigit(),
        lambda: sealed.strip("x"),
        lambda: ("a" + sealed).strip(),
        lambda: {"x": 1}[sealed],
    ]
    for look in looks:
        with pytest.raises(InspectedError):
            look()
    assert ("a" + sealed.strip() + "b").runs == ((-1, 1), (2_000_000, 1), (-1, 1))
