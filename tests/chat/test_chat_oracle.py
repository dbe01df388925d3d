"""Our masks against those that trl's training templates give through transformers."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from chat_help import TALKS, inference, pairs, parts, said, talk, templates, tokenizer_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from loraplug import Conversation, InputError
from loraplug_chat.mask import Masker

MARK = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
PARTS_ONLY = {"idefics3", "llava_next", "smolvlm"}
# where the training variant marks something else than what the model says; see docs/masks.md
OTHER_MARKS = {"diffusion_gemma"}


def without_marks(template: str) -> str:
    """The same template with `{% generation %}` made invisible."""
    return MARK.sub(lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", template)


def oracle(tokenizer: Any, conversation: Conversation, training: str) -> tuple[list[int], list[int]]:
    """Ids and mask by transformers, from a template with `{% generation %}`."""
    made = tokenizer.apply_chat_template(
        conversation.messages,
        tools=conversation.tools,
        chat_template=training,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    return made["input_ids"], made["assistant_masks"]


def agrees(tokenizer: Any, conversation: Conversation, encoded: Any, mask: list[int]) -> None:
    """Ours is theirs but for what inference puts before a turn and white space behind its end."""
    prompts = []
    for index, message in enumerate(conversation.messages):
        if message["role"] == "assistant" and index:
            prompt = inference(tokenizer, conversation, index, prompt=True)
            same = next((i for i, (a, b) in enumerate(zip(prompt, encoded.ids, strict=False)) if a != b), len(prompt))
            prompts.append(same)
    starts = {first for _, first, _ in encoded.turns}
    ends = {end for _, _, end in encoded.turns}
    for at, (ours, theirs) in enumerate(zip(encoded.trained, mask, strict=False)):
        if ours and not theirs:
            raise AssertionError(f"we alone train token {at}: {tokenizer.decode(encoded.ids[: at + 1])[-80:]!r}")
        if theirs and not ours:
            header = any(at < start and all(mask[at:start]) for start in starts)
            behind = any(end <= at and all(mask[end : at + 1]) for end in ends)
            blank = behind and tokenizer.decode([encoded.ids[at]]).isspace()
            assert header or blank, f"they alone train token {at}: {tokenizer.decode(encoded.ids[: at + 1])[-80:]!r}"
            if header and prompts and encoded.same_prompts:
                assert any(at < prompt for prompt in prompts), f"token {at} is not in the prompt of inference"


def agrees_in_text(tokenizer: Any, conversation: Conversation, encoded: Any, ids: list[int], mask: list[int]) -> None:
    """As `agrees`, where a token at the beginning of a turn is cut as inference cuts it, so that ids differ."""
    theirs = said(tokenizer, SimpleNamespace(ids=ids, trained=mask))
    ours = said(tokenizer, encoded)
    assert len(ours) == len(theirs)
    for mine, marked in zip(ours, theirs, strict=True):
        assert mine in marked, (mine, marked)
        header, _, behind = marked.partition(mine)
        prompts = [
            tokenizer.decode(inference(tokenizer, conversation, index, prompt=True))
            for index, message in enumerate(conversation.messages)
            if message["role"] == "assistant" and index
        ]
        assert not behind.strip(), (mine, marked)
        assert not header or any(header in prompt for prompt in prompts), (mine, marked)


def checked(name: str, conversation: Conversation) -> str:
    """Compare one conversation; says what came of it."""
    original, training = templates()[name], templates()[f"{name}_training"]
    if name in PARTS_ONLY:
        conversation = parts(conversation)
    outcome = "refused by the template"
    for template in (original, without_marks(training)):
        tokenizer = tokenizer_for(template)
        try:
            ids, mask = oracle(tokenizer, conversation, training)
        except (TemplateError, TypeError, ValueError):
            continue
        try:
            encoded = Masker.of(tokenizer).encode(conversation)
        except InputError as error:
            if "refuses it" in str(error):
                continue
            outcome = f"refused: {error.what}"
            continue
        if encoded.boundary_split:
            if tokenizer.decode(ids) != tokenizer.decode(encoded.ids):
                continue
            agrees_in_text(tokenizer, conversation, encoded, ids, mask)
        elif ids != encoded.ids[: len(ids)]:
            continue
        else:
            agrees(tokenizer, conversation, encoded, mask)
        outcome = "agrees"
    return outcome


@pytest.mark.parametrize("name", [name for name in pairs() if name not in OTHER_MARKS])
def test_masks_equal_the_training_variants(name: str) -> None:
    """On every kind of conversation a pair renders, what we train is what its training variant marks."""
    outcomes = {title: checked(name, talk(title)) for title in TALKS}
    refused = {title: outcome for title, outcome in outcomes.items() if outcome.startswith("refused: ")}
    assert not {title: why for title, why in refused.items() if "leaves out a call" not in why}
    assert outcomes["one turn"] == outcomes["two turns"] == "agrees", outcomes


words = st.text(st.sampled_from("ab c\n<|>im_end/think{}'\"7é漢 "), max_size=24)


@st.composite
def conversations(draw: Any) -> Conversation:
    """Alternating turns, one to six, with or without a system turn and reasoning."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(words)})
    for _ in range(draw(st.integers(1, 6))):
        messages.append({"role": "user", "content": draw(words)})
        messages.append({"role": "assistant", "content": draw(words)})
        if draw(st.booleans()):
            messages[-1]["reasoning_content"] = draw(words)
    return Conversation("drawn", messages, None)


@pytest.mark.parametrize("name", [name for name in pairs() if name not in OTHER_MARKS])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(conversation=conversations())
def test_masks_equal_on_drawn_conversations(name: str, conversation: Conversation) -> None:
    """The same for conversations nobody thought of."""
    checked(name, conversation)
