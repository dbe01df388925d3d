"""What is trained, what is refused, and which ids a row has."""

from __future__ import annotations

import re
from typing import Any

import pytest
from chat_help import (
    CALL,
    CHATML,
    KINDS,
    TALKS,
    TOOLS,
    answer,
    inference,
    parts,
    said,
    system,
    talk,
    templates,
    tokenizer_for,
    user,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraplug import Conversation, InputError
from loraplug_chat.mask import Masker

has_special_text = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "assistant\n", "a", " b", "\n", "é漢", "<bos>", "."]
    ),
    max_size=8,
).map("".join)


def row(*messages: dict[str, Any], tools: list[Any] | None = None) -> Conversation:
    """A conversation."""
    return Conversation("row 0", list(messages), tools)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["chatml", "llama3", "gemma", "phi3", "qwen3", "deepseekv3", "gptoss", "nemotron_3_nano"]
)
def test_ids_and_prompts_are_those_of_inference(kind: str, name: str) -> None:
    """Whole rows have the ids of `apply_chat_template`; every trained turn stands behind the prompt's ids."""
    tokenizer = tokenizer_for(CHATML if name == "chatml" else templates()[name], kind)
    masker = Masker.of(tokenizer)
    compared = 0
    for title in TALKS:
        try:
            encoded = masker.encode(talk(title))
        except InputError as error:
            assert any(said in str(error) for said in ("refuses it", "cannot verify", "leaves out a call"))
            continue
        if not encoded.boundary_split:
            assert encoded.ids == inference(tokenizer, talk(title)), title
        if encoded.same_prompts:
            for message, first, _ in encoded.turns:
                assert encoded.ids[:first] == inference(tokenizer, talk(title), message, prompt=True), title
            compared += 1
    assert compared or name in ("deepseekv3", "nemotron_3_nano")


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_across_the_beginning_is_cut_as_inference_cuts_it(kind: str) -> None:
    """An answer that begins with a line break does not melt into the header's line break."""
    tokenizer = tokenizer_for(CHATML, kind)
    conversation = row(user("x"), answer("\n\n\nHello"))
    encoded = Masker.of(tokenizer).encode(conversation)
    first = encoded.turns[0][1]
    assert encoded.ids[:first] == inference(tokenizer, conversation, 1, prompt=True)
    assert tokenizer.decode(encoded.ids) == tokenizer.decode(inference(tokenizer, conversation))
    assert encoded.same_prompts


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_template_trains_or_says_why(name: str) -> None:
    """For all templates of trl, each conversation gives trained turns that end in a token to stop, or a reason."""
    tokenizer = tokenizer_for(templates()[name])
    masker = Masker.of(tokenizer)
    done = 0
    for title in TALKS:
        for conversation in (talk(title), parts(talk(title))):
            try:
                encoded = masker.encode(conversation)
            except InputError as error:
                assert error.where == title
                assert error.what
                continue
            done += 1
            # GLM-4 hands over by the header of the next turn; an answer behind an answer is not handed over
            assert encoded.stops or (name.startswith("glm4moe") and title == "same role")
            for text in said(tokenizer, encoded):
                assert text.strip()
            answers = [m for m in conversation.messages if m["role"] == "assistant"]
            assert len(encoded.turns) == len(answers)
    assert done >= 4


def test_the_whole_turn_is_trained_and_nothing_else(chatml: Any) -> None:
    """Content and end-of-turn token, not the line break behind it, not the header."""
    masker = Masker.of(chatml)
    encoded = masker.encode(row(system(), user("a"), answer("b c"), user("d"), answer("e")))
    assert said(chatml, encoded) == ["b c<|im_end|>", "e<|im_end|>"]
    assert said(chatml, masker.encode(row(user("a"), answer("")))) == ["<|im_end|>"]


def test_which_turns_are_trained(chatml: Any) -> None:
    """`last-assistant`, `all`, and `train: false` or `weight: 0` on a message."""
    masker = Masker.of(chatml)
    two = row(user("a"), answer("b"), user("c"), answer("d"))
    assert said(chatml, masker.encode(two, "last-assistant")) == ["d<|im_end|>"]
    assert all(masker.encode(two, "all").trained)
    for mark in ({"train": False}, {"weight": 0}, {"weight": 0.0}):
        marked = row(user("a"), answer("b", **mark), user("c"), answer("d"))
        assert said(chatml, masker.encode(marked)) == ["d<|im_end|>"]
        assert masker.encode(marked).ids == masker.encode(two).ids
        everything = masker.encode(marked, "all")
        assert "b" not in "".join(said(chatml, everything)).replace("<bos>", "")
    last = row(user("a"), answer("b"), user("c"), answer("d", train=False))
    assert said(chatml, masker.encode(last, "last-assistant")) == ["b<|im_end|>"]


def test_tool_calls_and_reasoning_are_trained_tool_results_are_not() -> None:
    """What the model says between its header and its end, in whatever field it stands."""
    tokenizer = tokenizer_for(templates()["qwen3"])
    result = {"role": "tool", "content": "3 found"}
    messages = (user("search"), answer("", reasoning_content="I look", tool_calls=[CALL]), result, answer("Three."))
    first, second = said(tokenizer, Masker.of(tokenizer).encode(row(*messages, tools=TOOLS)))
    assert first.startswith("<think>\nI look\n</think>") and "two  words" in first
    assert first.endswith("</tool_call><|im_end|>")
    assert second.endswith("Three.<|im_end|>") and "3 found" not in first + second


def test_a_template_that_writes_no_end_hands_over() -> None:
    """GLM-4 writes no end-of-turn token: the token that opens the next turn is what makes the model stop."""
    tokenizer = tokenizer_for(templates()["glm4moe"])
    encoded = Masker.of(tokenizer).encode(row(user("a"), answer("b")))
    assert said(tokenizer, encoded)[0].endswith("b<|user|>")
    assert encoded.ids[:-1] == inference(tokenizer, row(user("a"), answer("b")))


def test_no_end_at_all_is_told() -> None:
    """Where a template has no control tokens, content alone is trained and `stops` is false."""
    template = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    tokenizer = tokenizer_for(template)
    encoded = Masker.of(tokenizer).encode(row(user("a"), answer("b c"), user("d"), answer("e")))
    assert said(tokenizer, encoded) == ["b c", "e"]
    assert not encoded.stops


def test_generation_marks_that_exclude_an_answer_are_refused() -> None:
    """Two methods that disagree prove nothing."""
    template = CHATML.replace(
        "message['content'] + '<|im_end|>\n' }}",
        "message['content'] + '<|im_end|>\n' }}{% generation %}{% endgeneration %}",
    )
    with pytest.raises(InputError, match="marks exclude it"):
        Masker.of(tokenizer_for(template)).encode(row(user("a"), answer("b")))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("message['content'] +", "message['content'][::-1] +"), "cannot"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "refuses|cannot|no end"),
        (CHATML.replace("{% for message in messages %}", "{% for message in messages | reverse %}"), "cannot verify"),
    ],
)
def test_what_cannot_be_proved_is_refused_or_right(template: str, reason: str) -> None:
    """Templates that do strange things to content: a reason, or a mask that holds the content."""
    tokenizer = tokenizer_for(template)
    try:
        encoded = Masker.of(tokenizer).encode(row(user("abc"), answer("def"), user("ghi"), answer("jkl")))
    except InputError as error:
        assert re.search(reason, str(error))
    else:
        assert [re.sub(r"<\|im_end\|>", "", text) for text in said(tokenizer, encoded)] in (
            ["def", "jkl"],
            ["fed", "lkj"],
        )


def test_content_printed_as_a_list_is_refused() -> None:
    """A template that prints a list of parts as Python would teach the model brackets."""
    template = CHATML.replace("+ message['content'] +", "~ message['content'] ~")
    with pytest.raises(InputError, match="list of parts"):
        Masker.of(tokenizer_for(template)).encode(parts(row(user("a"), answer("b"))))


def test_roles_that_make_control_tokens_are_refused() -> None:
    """`<|` + role + `|>` with a role of the attacker's choice."""
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|im_end|>' }}{% endfor %}<|x|>"
    tokenizer = tokenizer_for(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|root|>"]})
    masker = Masker.of(tokenizer)
    with pytest.raises(InputError, match="would form a control token"):
        masker.encode(row({"role": "root", "content": "a"}, answer("b")))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(asked=has_special_text, answered=has_special_text)
def test_text_in_rows_is_never_control(kind: str, asked: str, answered: str) -> None:
    """Control tokens stand exactly where the template put them, and the text is unchanged."""
    tokenizer = tokenizer_for(CHATML, kind)
    encoded = Masker.of(tokenizer).encode(row(user(asked), answer(answered)))
    tame = Masker.of(tokenizer).encode(row(user("a"), answer("b")))
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert [i for i in encoded.ids if i in control] == [i for i in tame.ids if i in control]
    if kind.startswith("byte"):
        assert (
            tokenizer.decode(encoded.ids)
            == f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answered}<|im_end|>\n"
        )
    assert sum(encoded.trained[i] for i, token in enumerate(encoded.ids) if token == tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("kind", ["byte-qwen", "byte-gpt2"])
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(asked=has_special_text, answered=has_special_text)
def test_hostile_rows_have_the_ids_of_sanitised_inference(kind: str, asked: str, answered: str) -> None:
    """transformers' own `sanitize_control_tokens` comes to the same ids."""
    tokenizer = tokenizer_for(CHATML, kind)
    conversation = row(user(asked), answer(answered))
    encoded = Masker.of(tokenizer).encode(conversation)
    if encoded.boundary_split:
        return
    sanitised = tokenizer.apply_chat_template(conversation.messages, sanitize_control_tokens=True, return_dict=False)
    assert encoded.ids == sanitised


def test_other_added_tokens_stay_words() -> None:
    """`<tool_call>` in an answer is a word of the vocabulary, not control: it keeps its id."""
    tokenizer = tokenizer_for(CHATML)
    tokenizer.add_tokens(["<tool_call>"])
    conversation = row(user("a"), answer("<tool_call>x"))
    assert Masker.of(tokenizer).encode(conversation).ids == inference(tokenizer, conversation)


def test_what_calls_left_in_the_tokenizer_does_not_matter() -> None:
    """Truncation, padding and split special tokens stay behind in the backend after a call."""
    conversation = row(user("é" * 40), answer("naïve <|im_end|> " * 9))
    expected = Masker.of(tokenizer_for()).encode(conversation)
    used = tokenizer_for()
    used("a", truncation=True, max_length=4, padding="max_length", split_special_tokens=True)
    assert Masker.of(used).encode(conversation) == expected


def test_no_template_no_fast_tokenizer() -> None:
    """What is missing is said."""
    tokenizer = tokenizer_for()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Masker.of(tokenizer)
