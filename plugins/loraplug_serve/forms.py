"""How a family of models writes tool calls and reasoning, found out by having its chat template write a call.

transformers' own parser of answers (`tokenizer.get_response_parser`) raises where a call is not whole JSON, which small
models write often, and most tokenizers bring no `response_template` for it. Here what is no call stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen

from loraplug import InputError, Prompter
from loraplug_serve.text import held_back

THINK, THOUGHT = "<think>", "</think>"
_NAME, _KEY, _VALUE = "loraplug_probe", "probe_key", "probe_value"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "none",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "none"}}},
    },
}
_PYTHON = "<|python_tag|>"


@frozen
class Call:
    """A call of a function; `arguments` is JSON."""

    name: str
    arguments: str


@frozen
class Form:
    """How calls are written.

    Attributes:
        name: of the way, as serving engines call it.
        opens: marks with which calls begin; none where an answer that is JSON is a call.
        close: the mark behind a call; empty where an answer's end is one.
        begun: what stands before the name in a call.
        between: what stands between name and arguments.
        read: the calls in what stands between the marks; ValueError where it is none.
    """

    name: str
    opens: tuple[str, ...]
    close: str
    begun: str
    between: str
    read: Callable[[str], list[Call]]

    def forced(self, function: str | None) -> str:
        """How an answer begins that is a call, of this function or of any."""
        return self.begun if function is None else f"{self.begun}{function}{self.between}"


def form_of(prompter: Prompter) -> Form | None:
    """How the template of a model writes a call; None where it writes none, or in a way that is not known here."""
    call = {"id": "callprobe", "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}
    asked = {"role": "user", "content": "a"}
    try:
        before = prompter.text([asked], tools=[_TOOL])
        text = prompter.text([asked, {"role": "assistant", "content": "", "tool_calls": [call]}], False, [_TOOL])
    except InputError:
        return None
    same = next((at for at, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before))
    text = text[same:]
    for name, pattern, opens, close, read in _KNOWN:
        if found := re.search(pattern, text):
            return Form(name, opens, close, found["begun"], found["between"], read)
    return None


def shows_tools(prompter: Prompter) -> bool:
    """Whether the template of a model writes what tools there are: to a user alone, or below a system message."""
    asked = [{"role": "user", "content": "a"}]
    for messages in (asked, [{"role": "system", "content": "b"}, *asked]):
        with suppress(InputError):
            if prompter.text(messages, tools=[_TOOL]) != prompter.text(messages):
                return True
    return False


def shown_tokens(tokenizer: Any) -> frozenset[int]:
    """Ids of control tokens that are marks of calls or reasoning."""
    marks = {THINK, THOUGHT, _PYTHON, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}
    return frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if token.content in marks)


@define
class Parts:
    """An answer's text as it comes, taken apart into reasoning, content and calls.

    Attributes:
        form: how calls are written; None where none are looked for.
        names: functions that may be called.
        thinking: the prompt ended within reasoning.
    """

    form: Form | None
    names: Sequence[str] = ()
    thinking: bool = False
    _state: str = field(init=False, default="content")
    _buffer: str = field(init=False, default="")
    _said: bool = field(init=False, default=False)
    _thought: bool = field(init=False, default=False)
    _raw: str = field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self._state = "reasoning" if self.thinking else "content"

    def add(self, text: str) -> list[tuple[str, Any]]:
        """What is sure now: ("reasoning", text), ("content", text) or ("call", Call)."""
        self._buffer += text
        return self._run(end=False)

    def rest(self) -> list[tuple[str, Any]]:
        """What is left when nothing follows."""
        return self._run(end=True)

    def _run(self, end: bool) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        while True:
            state = self._state
            step = {"reasoning": self._reasoning, "content": self._content, "call": self._call}[state]
            found += step(end)
            if self._state == state:
                return [(kind, what) for kind, what in found if what]

    def _reasoning(self, end: bool) -> list[tuple[str, Any]]:
        text, closed, after = self._buffer.partition(THOUGHT)
        text = text if self._thought else text.lstrip("\n")
        if closed:
            self._state, self._buffer, self._thought = "content", after, True
            return [("reasoning", text.rstrip("\n"))]
        sure = text if end else text[: len(text) - held_back(text, THOUGHT)].rstrip("\n")
        self._buffer = text[len(sure) :]
        self._thought = self._thought or bool(sure)
        return [("reasoning", sure)]

    def _content(self, end: bool) -> list[tuple[str, Any]]:
        text = self._buffer
        if not self._said:
            if text.lstrip().startswith(THINK):
                self._state, self._buffer = "reasoning", text.lstrip().removeprefix(THINK)
                return []
            text = text.lstrip("\n") if self._thought else text
            if self._bare(text):
                self._state, self._raw, self._buffer = "call", "", text
                return []
            if not end and (not text.strip() or THINK.startswith(text.lstrip())):
                return []
        marks = self.form.opens if self.form else ()
        places = [(at, mark) for mark in marks if (at := text.find(mark)) >= 0]
        if places:
            at, mark = min(places)
            self._state, self._raw, self._buffer = "call", mark, text[at + len(mark) :]
            before = text[:at].rstrip() if not self._said else text[:at]
            self._said = self._said or bool(before)
            return [("content", before)]
        keep = 0 if end else max((held_back(text, mark) for mark in marks), default=0)
        self._buffer = text[len(text) - keep :]
        said = text[: len(text) - keep]
        self._said = self._said or bool(said.strip())
        return [("content", said)]

    def _bare(self, text: str) -> bool:
        """Whether what comes is a call without a mark, of a family that writes calls as a whole answer of JSON."""
        return self.form is not None and _PYTHON in self.form.opens and text.lstrip().startswith("{")

    def _call(self, end: bool) -> list[tuple[str, Any]]:
        form = self.form
        assert form is not None  # noqa: S101 - for the type checker
        body, closed, after = self._buffer.partition(form.close) if form.close else (self._buffer, "", "")
        if not closed and not end:
            return []
        mark, self._raw, self._buffer = self._raw, "", after
        self._state = "content"
        try:
            calls = form.read(body)
            if not mark and not {call.name for call in calls} <= set(self.names):
                raise ValueError("a JSON text, but no function of that name")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._said = True
            return [("content", f"{mark}{body}{closed}")]
        self._buffer = after.lstrip("\n") if after.strip() == "" else after
        return [("call", call) for call in calls]


def _json_call(value: Any) -> Call:
    given = value["arguments"] if "arguments" in value else value["parameters"]
    if not isinstance(value["name"], str) or not value["name"]:
        raise ValueError("a call without a name")
    return Call(value["name"], given if isinstance(given, str) else json.dumps(given, ensure_ascii=False))


def _hermes(body: str) -> list[Call]:
    return [_json_call(json.loads(body))]


def _xml(body: str) -> list[Call]:
    found = re.fullmatch(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", body, re.DOTALL)
    if found is None:
        raise ValueError("no function")
    given = re.findall(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", found[2], re.DOTALL)
    return [Call(found[1].strip(), json.dumps({key.strip(): _value(text) for key, text in given}, ensure_ascii=False))]


def _value(text: str) -> Any:
    """A parameter that is written as text: what is not JSON is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _mistral(body: str) -> list[Call]:
    if body.lstrip().startswith(("[", "{")):
        value = json.loads(body)
        return [_json_call(one) for one in (value if isinstance(value, list) else [value])]
    calls = []
    for part in body.split("[TOOL_CALLS]"):
        found = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\[?(?:ARGS\])?\s*(\{.*\})\s*", part, re.DOTALL)
        if found is None:
            raise ValueError("no call")
        calls.append(Call(found[1], json.dumps(json.loads(found[2]), ensure_ascii=False)))
    return calls


def _llama(body: str) -> list[Call]:
    decoder, calls, at = json.JSONDecoder(), [], 0
    body = body.strip()
    while at < len(body):
        value, at = decoder.raw_decode(body, at)
        calls.append(_json_call(value))
        while at < len(body) and body[at] in "; \n":
            at += 1
    return calls


_KNOWN: tuple[tuple[str, str, tuple[str, ...], str, Callable[[str], list[Call]]], ...] = (
    (
        "hermes", rf'(?P<begun><tool_call>\s*\{{"name":\s*"){_NAME}(?P<between>",\s*"arguments":\s*)',
        ("<tool_call>",), "</tool_call>", _hermes,
    ),
    (
        "qwen-xml", rf"(?P<begun><tool_call>\s*<function=){_NAME}(?P<between>>\n?)",
        ("<tool_call>",), "</tool_call>", _xml,
    ),
    (
        "mistral", rf'(?P<begun>\[TOOL_CALLS\]\s*\[\{{"name":\s*"){_NAME}(?P<between>",\s*"arguments":\s*)',
        ("[TOOL_CALLS]",), "", _mistral,
    ),
    (
        "mistral", rf"(?P<begun>\[TOOL_CALLS\]\s*){_NAME}(?P<between>(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?)",
        ("[TOOL_CALLS]",), "", _mistral,
    ),
    (
        "llama3", rf'(?P<begun>(?:<\|python_tag\|>)?\{{"name":\s*"){_NAME}(?P<between>",\s*"parameters":\s*)',
        (_PYTHON,), "", _llama,
    ),
)  # fmt: skip
