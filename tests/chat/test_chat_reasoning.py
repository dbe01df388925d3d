"""Reasoning in answers: the form a template takes, what is trained of it, what is dropped; variables of templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_help import CALL, CHATML, TOOLS, answer, inference, merging_tokenizer, said, templates, tokenizer_for, user
from datasets import Dataset

from loraplug import Conversation, InputError, Run
from loraplug_chat.formatter import ChatTemplate
from loraplug_chat.forms import Forms
from loraplug_chat.mask import Encoded, Masker
from loraplug_chat.options import variables

# templates that write reasoning: what stands around it
WRITES = {
    "qwen3": ("<think>\n", "\n</think>\n\n"),
    "qwen3_5_think": ("<think>\n", "\n</think>\n\n"),
    "qwen3_5_nothink": ("<think>\n", "\n</think>\n\n"),
    "qwen3_8": ("<think>\n", "\n</think>\n\n"),
    "glm4moe": ("<think>", "</think>\n"),
    "gemma4_v5": ("<|channel>thought\n", "\n<channel|>"),
    "gptoss": ("<|channel|>analysis<|message|>", "<|end|>"),
    "muse_glimmer": (" to=self<|message|>", "<|eom|>"),
    "nemotron_3_nano": ("<think>\n", "\n</think>\n"),
    "nemotron_3_ultra": ("<think>\n", "</think>"),
    "lfm2_2_5": ("<think>", "</think>"),
}
GIVEN: dict[str, dict[str, Any]] = {
    "under a key": answer("Xa.", reasoning_content="Ta"),
    "under another key": answer("Xa.", reasoning="Ta"),
    "under a third key": answer("Xa.", thinking="Ta"),
    "without its opening": answer("Ta\n</think>\n\nXa."),
    "beside an empty key": answer("Ta\n</think>\n\nXa.", reasoning_content=""),
    "twice the same": answer("<think>\nTa\n</think>\n\nXa.", reasoning_content="Ta"),
}


def encode(template: str, *messages: dict[str, Any], reasoning: bool = True, tools: Any = None) -> tuple[Any, Encoded]:
    """Tokenizer and row, as the formatter makes them."""
    tokenizer = merging_tokenizer(template)
    masker = Masker.of(tokenizer)
    talk = Forms(masker.template).fit(Conversation("row", list(messages), tools))
    return tokenizer, masker.encode(talk, "assistant", reasoning)


@pytest.mark.parametrize("name", WRITES)
def test_reasoning_comes_to_the_same_wherever_it_stands(name: str) -> None:
    """Under each key, in the content with and without `<think>`: one block, as the template writes it."""
    before, behind = WRITES[name]
    expected = f"{before}Ta{behind}"
    for title, message in GIVEN.items():
        tokenizer, encoded = encode(templates()[name], user("Q"), message)
        text = tokenizer.decode(encoded.ids)
        answered = text[text.rindex("Q") :]
        assert answered.count("Ta") == answered.count("Xa.") == 1 and expected in answered, title
        assert answered.count("</think>") == (0 if "channel" in before or "self" in before else 1), title
        assert "".join(said(tokenizer, encoded)).count("Ta") == 1 and not encoded.dropped
    tokenizer, encoded = encode(templates()[name], user("Q"), answer("<think>\nTa\n</think>\n\nXa."))
    text = tokenizer.decode(encoded.ids)
    assert text[text.rindex("Q") :].count("</think>") == (0 if "channel" in before or "self" in before else 1)


@pytest.mark.parametrize("name", WRITES)
def test_reasoning_is_trained_or_not(name: str) -> None:
    """Without it: the whole block is left out, marks too, and the ids are the same; the answer and its end are not."""
    for message in (answer("Xa.\n\n", reasoning_content="Ta.\n\nTb"), answer("<think>\nTa\n</think>\n\nXa.")):
        tokenizer, whole = encode(templates()[name], user("Q"), message)
        _, without = encode(templates()[name], user("Q"), message, reasoning=False)
        assert whole.ids == without.ids
        left = "".join(said(tokenizer, without))
        assert "Ta" not in left and "think" not in left and "thought" not in left and "analysis" not in left
        assert "Xa." in left and "".join(said(tokenizer, whole)).endswith(left[left.index("Xa.") :])
        headers = ("<|start|>assistant<|channel|>final<|message|>", "<|start|>assistant to=user<|message|>")
        assert left[: left.index("Xa.")] in ("", *headers)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "nemotron_3_nano", "glm4moe"])
def test_an_empty_block_is_reasoning(name: str) -> None:
    """What a template writes for an answer without reasoning is not trained either."""
    tokenizer, encoded = encode(templates()[name], user("Q"), answer("Xa."), reasoning=False)
    assert said(tokenizer, encoded)[0].startswith("Xa.")


def test_reasoning_that_a_template_carries_as_text() -> None:
    """A template that knows nothing of reasoning writes the content as it stands; the block is found in it."""
    inline = answer("<think>\nTa\n</think>\n\nXa.")
    tokenizer, encoded = encode(CHATML, user("Q"), inline, user("R"), answer("Xb."), reasoning=False)
    assert said(tokenizer, encoded) == ["Xa.<|im_end|>", "Xb.<|im_end|>"]
    talk = Conversation("row", [user("Q"), inline, user("R"), answer("Xb.")])
    assert tokenizer.decode(encoded.ids) == tokenizer.decode(inference(tokenizer, talk))
    tokenizer, encoded = encode(CHATML, user("Q"), answer("<think>Ta</think>"), reasoning=False)
    assert said(tokenizer, encoded) == ["<|im_end|>"]


def test_calls_after_reasoning_are_trained() -> None:
    """The block ends before the call."""
    result = {"role": "tool", "name": "search", "content": "Ra"}
    calling = answer("", tool_calls=[CALL], reasoning_content="Ta")
    tokenizer, encoded = encode(
        templates()["qwen3"], user("Q"), calling, result, answer("Xa."), reasoning=False, tools=TOOLS
    )
    first, second = said(tokenizer, encoded)
    assert first.startswith("<tool_call>") and first.endswith("<|im_end|>") and second == "Xa.<|im_end|>"


def test_what_a_template_drops_is_told() -> None:
    """Of earlier answers, or of the last one."""
    earlier = (user("Q"), answer("Xa", reasoning_content="Ta"), user("R"), answer("Xb", reasoning_content="Tb"))
    assert encode(templates()["qwen3"], *earlier)[1].dropped == "earlier"
    assert encode(templates()["qwen3"], *earlier[2:])[1].dropped == ""
    assert encode(templates()["qwen3_8"], *earlier)[1].dropped == ""
    assert encode(templates()["deepseekv3"], user("Q"), answer("<think>Ta</think>\n\nXa"))[1].dropped == "last"


def test_reasoning_given_twice_is_refused() -> None:
    """Other reasoning under a key than in the content can be read two ways; words about `</think>` are words."""
    with pytest.raises(InputError, match="two different reasonings"):
        encode(templates()["qwen3"], user("Q"), answer("<think>Ta</think>Xa", reasoning_content="Tb"))
    told = answer("`</think>` ends a thought", reasoning_content="Tb")
    tokenizer, encoded = encode(templates()["qwen3"], user("Q"), told)
    assert said(tokenizer, encoded) == ["<think>\nTb\n</think>\n\n`</think>` ends a thought<|im_end|>"]


def rows(*talks: list[dict[str, Any]]) -> Dataset:
    """Rows of messages."""
    return Dataset.from_list([{"messages": talk} for talk in talks])


def test_the_run_tells_of_dropped_reasoning_once(run: Run) -> None:
    """With the number of rows."""
    talk = [user("Q"), answer("<think>Ta</think>Xa"), user("R"), answer("<think>Tb</think>Xb")]
    tokenizer = tokenizer_for(templates()["qwen3"])
    ChatTemplate().encode(rows(talk, talk, talk[:2]), tokenizer, run)
    told = [text for text in run.reporter.lines if "reasoning of earlier" in text]
    assert told == ["in 2 rows the chat template omits the reasoning of earlier answers"]


def test_options_make_the_prompt_everywhere(run: Run, tmp_path: Path) -> None:
    """The ids, and any prompt made later with the tokenizer that is saved; a caller's own value still wins."""
    from transformers import AutoTokenizer

    tokenizer = tokenizer_for(templates()["qwen3"])
    asked = [user("Q")]
    thinking = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    wanted = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    formatter = ChatTemplate(template_options={"enable_thinking": False})
    encoded = formatter.encode(rows([user("Q"), answer("Xa")]), tokenizer, run).dataset
    trained = [token for token in encoded[0]["labels"] if token != -100]
    assert tokenizer.decode(trained) == "Xa<|im_end|>" and tokenizer.decode(encoded[0]["input_ids"]).startswith(wanted)
    again = formatter.encode(rows([user("Q"), answer("Xa")]), tokenizer, run).dataset
    assert again[0] == encoded[0] and tokenizer.chat_template.count("is not defined") == 1
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved.apply_chat_template(asked, add_generation_prompt=True, tokenize=False) == wanted != thinking
    other = saved.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert other == thinking


@pytest.mark.parametrize("value", [False, True, 3, 1.5, "low", 'it\'s {{ 1 }} "%}"\n', ""])
def test_values_reach_the_template_as_they_are(run: Run, value: Any) -> None:
    """Of every kind, whatever signs a text holds; what the template writes first is not changed."""
    template = "\n  {% if mode == 'x' %}{% endif %}[{{ mode }}|{{ mode is string }}]\n" + CHATML
    expected = tokenizer_for(template).apply_chat_template([user("Q")], tokenize=False, mode=value)
    tokenizer = tokenizer_for(template)
    ChatTemplate(template_options={"mode": value}).encode(rows([user("Q"), answer("X")]), tokenizer, run)
    assert tokenizer.apply_chat_template([user("Q")], tokenize=False) == expected


def test_unknown_options_are_refused_with_those_there_are(run: Run) -> None:
    """A template that has no such variable would be silent; messages and tools are not options."""
    for name in ("enable_thinkin", "messages", "eos_token", "content"):
        with pytest.raises(InputError, match=f"has no variable '{name}'") as raised:
            ChatTemplate(template_options={name: 1}).encode(rows([user("Q")]), tokenizer_for(templates()["qwen3"]), run)
        assert raised.value.todo == "it has enable_thinking"
    with pytest.raises(InputError, match="no variable") as raised:
        ChatTemplate(template_options={"x": 1}).encode(rows([user("Q")]), tokenizer_for(), run)
    assert raised.value.todo == "it has none"


def test_the_variables_of_templates() -> None:
    """Those from outside, not those a template sets for itself."""
    assert variables(templates()["qwen3_8"]) >= {"enable_thinking", "preserve_thinking", "reasoning_effort"}
    assert "resolved_reasoning_effort" not in variables(templates()["qwen3_8"])
    assert variables(templates()["llama3_1"]) >= {"date_string", "builtin_tools", "tools_in_user_message"}
    assert "first_user_message" not in variables(templates()["llama3_1"])
    assert variables(templates()["nemotron_3_nano"]) >= {"enable_thinking", "truncate_history_thinking"}
    assert "loop_messages" not in variables(templates()["cohere"])
