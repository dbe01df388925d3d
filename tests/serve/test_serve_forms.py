"""Calls and reasoning of the families whose templates are known, however their text is cut; all else stays text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from loraplug import Prompter
from loraplug.testing import tiny_tokenizer
from loraplug_serve.forms import Call, Parts, form_of
from loraplug_serve.text import StopTexts

HERMES = """<tool_call>
{"name": "NAME", "arguments": ARGS}
</tool_call>"""
QWEN_XML = "<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>"
MISTRAL = '[TOOL_CALLS] [{"name": "NAME", "arguments": ARGS}]'
MISTRAL_11 = "[TOOL_CALLS]NAME[ARGS]ARGS"
LLAMA = '{"name": "NAME", "parameters": ARGS}'
WAYS = {"hermes": HERMES, "qwen-xml": QWEN_XML, "mistral": MISTRAL, "mistral-11": MISTRAL_11, "llama3": LLAMA}


def template(way: str) -> str:
    """A chat template that writes calls in this way."""
    arguments = "call.function.arguments"
    written = WAYS[way].replace("NAME", "{{ call.function.name }}")
    if way == "qwen-xml":
        loop = (
            "{% for key, value in "
            + arguments
            + ".items() %}<parameter={{ key }}>\n{{ value }}\n</parameter>\n{% endfor %}"
        )
        written = written.replace("<parameter=KEY>\nVALUE\n</parameter>\n", loop)
    elif way == "mistral-11":
        written = "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ " + arguments + " | tojson }}"
    else:
        written = written.replace("ARGS", "{{ " + arguments + " | tojson }}")
    calls = "{% for call in message.tool_calls or [] %}" + written + "{% endfor %}"
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        + calls
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def parser(way: str, thinking: bool = False) -> Parts:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template(way)
    form = form_of(Prompter.of(tokenizer, "test"))
    assert form is not None and form.name == way.removesuffix("-11")
    return Parts(form, ["add"], thinking)


def parsed(parts: Parts, text: str, sizes: random.Random) -> dict[str, Any]:
    """What comes of a text that arrives in pieces of random sizes."""
    found: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        step = sizes.randint(1, 7)
        found += parts.add(text[at : at + step])
        at += step
    found += parts.rest()
    return {
        "reasoning": "".join(what for kind, what in found if kind == "reasoning"),
        "content": "".join(what for kind, what in found if kind == "content"),
        "calls": [what for kind, what in found if kind == "call"],
    }


SAID = {
    "hermes": HERMES.replace("NAME", "add").replace("ARGS", '{"a": 1}'),
    "qwen-xml": QWEN_XML.replace("NAME", "add").replace("KEY", "a").replace("VALUE", "1"),
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
    "mistral-11": '[TOOL_CALLS]add[ARGS]{"a": 1}',
    "llama3": '{"name": "add", "parameters": {"a": 1}}',
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_a_call_is_found(way: str, seed: int) -> None:
    """Alone, behind reasoning that the answer or the prompt opens, and several."""
    sizes = random.Random(seed)
    only = {"reasoning": "", "content": "", "calls": [Call("add", '{"a": 1}')]}
    assert parsed(parser(way), SAID[way], sizes) == only
    thought = only | {"reasoning": "hm\n<b>"}
    assert parsed(parser(way), f"<think>\nhm\n<b>\n</think>\n\n{SAID[way]}", sizes) == thought
    assert parsed(parser(way, thinking=True), f"hm\n<b>\n</think>\n\n{SAID[way]}", sizes) == thought
    several = {"hermes": "\n", "qwen-xml": "\n", "mistral-11": "", "llama3": "; "}.get(way)
    if several is not None:
        assert len(parsed(parser(way), several.join([SAID[way]] * 2), sizes)["calls"]) == 2


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_call_stays_text(way: str) -> None:
    """Text, half a call, JSON that is none, a name that is no function, marks in other places: nothing is lost."""
    half = SAID[way][:-14]
    for text in ("no call at all <tool", half, '{"a": 1}', '{"name": "other", "parameters": {}}', "a </think> b", "\n"):
        found = parsed(parser(way), text, random.Random(3))
        assert found["calls"] == [] and found["content"].strip() == text.strip(), (text, found)


def test_text_before_a_call_is_content() -> None:
    """As far as the family writes any."""
    for way in ("hermes", "mistral", "qwen-xml"):
        found = parsed(parser(way), f"I add.\n{SAID[way]}", random.Random(1))
        assert found["content"].strip() == "I add." and len(found["calls"]) == 1


def test_a_required_call_begins_as_the_template_writes_it() -> None:
    """With the function's name where it is one, open for a name where it is any."""
    forms = {way: parser(way).form for way in WAYS}
    assert forms["hermes"].forced("add") == '<tool_call>\n{"name": "add", "arguments": '
    assert forms["hermes"].forced(None) == '<tool_call>\n{"name": "'
    assert forms["mistral"].forced("add") == '[TOOL_CALLS] [{"name": "add", "arguments": '
    assert forms["llama3"].forced("add") == '{"name": "add", "parameters": '
    for way, form in forms.items():
        assert SAID[way].startswith(form.forced("add").rstrip("\n")), way


def test_a_template_without_calls_has_no_form() -> None:
    """The tiny one's."""
    assert form_of(Prompter.of(tiny_tokenizer(), "test")) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_text_is_found_wherever_the_text_is_cut(seed: int) -> None:
    """The first of several; what only looks like one is said."""
    sizes = random.Random(seed)
    text = "aab aabb ENDING of it all"
    stops = StopTexts(["ENDED", "ENDI", "bb E"])
    said, at = "", 0
    while at < len(text) and not stops.found:
        step = sizes.randint(1, 5)
        said += stops.add(text[at : at + step])
        at += step
    assert said == "aab aa" and stops.found
    late = StopTexts(["ENDED"])
    assert late.add("the END") + late.add(" is near EN") + late.rest() == "the END is near EN"
