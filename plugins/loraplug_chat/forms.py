"""Finds the form of messages and tool calls that a chat template expects, by trying it.

Templates differ: one writes the arguments of a tool call from a table, another from JSON text; one tests whether a
content is null, another would write "None"; some take a content only as a list of parts. Each is tried once, on a
small conversation, and the form that is written out as it should be is used for all rows.
"""

from __future__ import annotations

import json
from functools import cached_property
from itertools import product
from typing import Any

from attrs import define, evolve, field

from loraplug import Conversation, InputError
from loraplug_chat.reasoning import KEYS
from loraplug_chat.template import NOT_RENDERED, Template, TemplateInput
from loraplug_chat.thoughts import ThoughtForm

_SAID, _KEY, _VALUE, _NAME, _ID = "Probe said", "probe_key", "probe value", "probe_tool", "probe1234"
_SCHEMA = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Probe",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "Probe"}}},
    },
}
_MISSING = object()
_TRIES = 20  # rows a key may go without effect before it is taken to have none
_CALL_KEYS = {"id", "type", "function"}
_OF_CALL, _OF_FUNCTION, _OF_PART = "tool_calls[].", "tool_calls[].function.", "content[]."
_FALLBACKS = {"developer": ("system",), "tool": ("ipython", "observation", "function")}
_NO_CALLS = "the chat template does not write tool calls, so the model would learn empty answers"


@define
class CallForm:
    """How a template takes tool calls: arguments as JSON text or a table, the function's table bare or wrapped."""

    text: bool
    bare: bool

    def __call__(self, call: dict[str, Any]) -> dict[str, Any]:
        """A call in its one form, as the template takes it."""
        function = call["function"]
        if self.text:
            function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        if not self.bare:
            return {**call, "function": function}
        return {**{key: item for key, item in call.items() if key not in ("type", "function")}, **function}


@define(slots=False)
class Forms:
    """The forms one template takes."""

    template: Template
    _without_effect: dict[tuple[str, str], int] = field(factory=dict)  # rows tried; -1 once there was an effect
    _read: dict[str, bool] = field(factory=dict)

    def fit(self, talk: Conversation) -> Conversation:
        """The conversation as the template takes it, without keys that the template never reads.

        Its `unread` are those keys and, where the template leaves the schemas out, `tools`; its `roles` tell also which
        roles the template does not have.

        Raises:
            InputError: the template writes no tool calls.
        """
        roles = dict(talk.roles)
        try:
            messages = [self._fitted(message, roles) for message in talk.messages]
        except InputError as error:
            raise InputError(error.what, where=talk.id, todo=error.todo) from None
        unread = {key for key in talk.unread if not self._reads(key)}
        unread |= self._ineffective(talk, messages, talk.unread - unread)
        tools = talk.tools if talk.tools and self._reads("tools") else None
        if talk.tools and not tools:
            unread.add("the row's tools")
        if tools is talk.tools and len(roles) == len(talk.roles) and not talk.unread:
            return evolve(talk, messages=messages)
        return evolve(talk, messages=messages, tools=tools, roles=roles, unread=frozenset(unread))

    def _fitted(self, message: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
        message = self._thoughts.fit(message)
        role = self._role(message["role"])
        if role != message["role"]:
            roles[message["role"]] = role
        if len(message) == 2 and type(message["content"]) is str and self._takes_text:
            return message if role is message["role"] else {**message, "role": role}
        made = {key: value for key, value in message.items() if key in NOT_RENDERED or self._reads(key)}
        made["role"] = role
        content = message.get("content")
        if calls := message.get("tool_calls"):
            form, nothing = self._calls
            if form is None:
                todo = "use a model whose template supports tools, or set one: [model] chat_template = file.jinja"
                raise InputError(_NO_CALLS, todo=todo)
            made["tool_calls"] = [form(self._read_keys(call)) for call in calls]
            if content is None and nothing is _MISSING:
                made.pop("content", None)
                return made
            content = nothing if content is None else content
        if isinstance(content, str) and not self._takes_text:
            content = [{"type": "text", "text": content}]
        elif isinstance(content, list) and self._takes_text and all(map(_is_text, content)):
            content = "".join(part["text"] for part in content)
        made["content"] = content
        return made

    def _ineffective(self, talk: Conversation, messages: list[dict[str, Any]], keys: frozenset[str]) -> set[str]:
        """Those of the keys without which the template writes the same, though it knows their names."""
        found: set[str] = set()
        for key in keys:
            roles = {message["role"] for message in messages if _has(message, key)}
            lost = {role for role in roles if not self._has_effect(talk, messages, key, role)}
            found |= {key} if lost == roles else {f"{key} of {role}" for role in lost}
        return found

    def _has_effect(self, talk: Conversation, messages: list[dict[str, Any]], key: str, role: str) -> bool:
        """Whether the template writes something else if messages of this role lack the key."""
        tried = self._without_effect.get((key, role), 0)
        if tried < 0 or tried >= _TRIES:
            return tried < 0
        left = [_without(message, key) if message["role"] == role else message for message in messages]
        whole, without = (self._text(TemplateInput.of(evolve(talk, messages=each))) for each in (messages, left))
        if whole is None:
            return True  # the row will be refused
        self._without_effect[key, role] = -1 if whole != without else tried + 1
        return whole != without

    def _role(self, role: str) -> str:
        """The role itself where the template names it, or names no other for it; else what the template calls it."""
        if role not in _FALLBACKS or role in self._words:
            return role
        if role == "developer":
            return "system"
        return next((name for name in _FALLBACKS[role] if name in self._compared), role)

    def _read_keys(self, call: dict[str, Any]) -> dict[str, Any]:
        made = {key: item for key, item in call.items() if key in _CALL_KEYS or self._reads(_OF_CALL + key)}
        made["function"] = {
            key: item
            for key, item in call["function"].items()
            if key in ("name", "arguments") or self._reads(_OF_FUNCTION + key)
        }
        return made

    def _reads(self, key: str) -> bool:
        """Whether the template may read a key of a message or of a tool call: it names it, or writes whole tables."""
        if key not in self._read:
            where, name = _place(key)
            names = {name, "reasoning_content", "thinking"} if key in KEYS else {name}
            self._read[key] = where != _OF_PART and (not names.isdisjoint(self._words) or self._dumps[where])
        return self._read[key]

    @cached_property
    def _thoughts(self) -> ThoughtForm:
        return ThoughtForm(self.template)

    @cached_property
    def _words(self) -> frozenset[str]:
        """Every name and text constant in the template."""
        return self.template.words()

    @cached_property
    def _compared(self) -> frozenset[str]:
        """What the template compares roles (and other things) with."""
        return self.template.compared()

    @cached_property
    def _dumps(self) -> dict[str, bool]:
        """Whether the template writes whole messages, whole tool calls or whole functions, keys it never names too."""
        extra = {"loraplug_probe_key": "loraplug probe value"}
        found = {"": self._written(_talk({"role": "assistant", "content": _SAID, **extra}), extra)}
        form, nothing = self._calls
        for where in (_OF_CALL, _OF_FUNCTION):
            found[where] = False
            if form is not None:
                call = _call()
                (call if where == _OF_CALL else call["function"]).update(extra)
                for tools in ([_SCHEMA], None):
                    found[where] |= self._written(_talk(_calling(form(call), nothing), tools=tools), extra)
        return found

    def _written(self, talk: TemplateInput, extra: dict[str, str]) -> bool:
        text = self._text(talk) or ""
        return any(word in text for item in extra.items() for word in item)

    @cached_property
    def _takes_text(self) -> bool:
        """Whether a content that is text is written; some templates write only lists of parts."""
        as_parts = [{"type": "text", "text": _SAID}]
        text, parts = (self._text(_talk({"role": "assistant", "content": said})) for said in (_SAID, as_parts))
        return _SAID in (text or "") or _SAID not in (parts or "")

    @cached_property
    def _calls(self) -> tuple[CallForm | None, Any]:
        """How tool calls are taken, and what stands for the content of a message that only calls."""
        for tools, bare, text in product(([_SCHEMA], None), (False, True), (False, True)):
            form = CallForm(text, bare)
            made = {}
            for name, nothing in (("empty", ""), ("null", None), ("missing", _MISSING)):
                written = self._text(_talk(_calling(form(_call()), nothing), tools=tools))
                if written is not None and _is_proper(written, text):
                    made[name] = written
            if "empty" in made:  # null where the template tests for it, so that it writes something else, not "None"
                told = "null" in made and made["null"] not in (made["empty"],) and not _says_none(made)
                return form, None if told else ""
            if made:
                return form, None if "null" in made else _MISSING
        return None, ""

    def _text(self, talk: TemplateInput) -> str | None:
        try:
            return self.template.whole(talk)
        except InputError:
            return None


def _call() -> dict[str, Any]:
    return {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}


def _calling(call: dict[str, Any], nothing: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": nothing, "tool_calls": [call]}
    if nothing is _MISSING:
        del message["content"]
    return message


def _talk(message: dict[str, Any], tools: list[Any] | None = None) -> TemplateInput:
    messages = [{"role": "user", "content": "Probe asked"}, message]
    return TemplateInput("probe", messages, tools, [True] * 2)


def _is_proper(text: str, as_text: bool) -> bool:
    """Whether a call is written as the model must say it.

    That is with its name (or id) and argument, neither as Python prints a table nor as text quoted once more.
    """
    _, _, said = text.rpartition("Probe asked")
    if not (_NAME in said or _ID in said) or _VALUE not in said or f"'{_KEY}'" in said:
        return False
    return json.dumps({_KEY: _VALUE}) in said if as_text else '\\"' not in said


def _says_none(made: dict[str, str]) -> bool:
    """Whether null is written out where an empty text is not."""
    return any(made["null"].count(word) > made["empty"].count(word) for word in ("None", "null"))


def _place(key: str) -> tuple[str, str]:
    """Where in a message a key of `Conversation.unread` stands, and its own name."""
    where = next((place for place in (_OF_FUNCTION, _OF_CALL, _OF_PART) if key.startswith(place)), "")
    return where, key.removeprefix(where)


def _has(message: dict[str, Any], key: str) -> bool:
    """Whether the message, or one of its tool calls, has a key of `Conversation.unread`."""
    where, name = _place(key)
    if not where:
        return name in message
    return any(
        name in (call.get("function", call) if where == _OF_FUNCTION else call)
        for call in message.get("tool_calls") or ()
    )


def _without(message: dict[str, Any], key: str) -> dict[str, Any]:
    """The message without a key, which may be one of its tool calls or of their functions."""
    where, name = _place(key)
    if not where:
        return _left(message, name)
    calls = message.get("tool_calls") or []
    if where == _OF_FUNCTION:
        calls = [{**call, "function": _left(call["function"], name)} if "function" in call else call for call in calls]
    else:
        calls = [_left(call, name) for call in calls]
    return {**message, "tool_calls": calls} if calls else message


def _left(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
