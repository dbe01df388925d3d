"""Checks that a chat template writes every tool call of a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loraplug import InputError
from loraplug_chat.template import Template, TemplateInput


def calls_written(talk: TemplateInput, template: Template) -> None:
    """Check that a rendered conversation contains the function name of every call.

    Tried by giving each call a name found nowhere else. Some templates write only the id, which has to hold the name.

    Raises:
        InputError: the template leaves a call out.
    """
    calls = [call for message in talk.messages for call in message.get("tool_calls") or () if isinstance(call, dict)]
    names = {f"loraplug_call_{at}_": _function(call).get("name") for at, call in enumerate(calls)}
    text = template.whole(_probed(talk, names)) if calls else ""
    left = [at for at, (probe, name) in enumerate(names.items()) if isinstance(name, str) and probe not in text]
    if not left:
        return
    ids = {f"lrcall{at:03d}": call.get("id") for at, call in enumerate(calls)}  # of the length that Mistral asks for
    text = template.whole(_probed(talk, ids, "id"))
    for at in left:
        name = _function(calls[at])["name"]
        if f"lrcall{at:03d}" not in text:
            raise InputError(f"the chat template leaves out a call of {name[:40]}", where=talk.id)
        if name not in str(calls[at].get("id")):
            what = (
                f"the chat template writes only the id of a call of {name[:40]}, and the id does not contain that name"
            )
            raise InputError(what, where=talk.id, todo="use ids in the model's format, such as functions.search:0")


def _function(call: dict[str, Any]) -> dict[str, Any]:
    found = call.get("function", call)
    return found if isinstance(found, dict) else {}


def _probed(talk: TemplateInput, probes: Iterable[str], key: str = "name") -> TemplateInput:
    """The conversation with these names, or ids, for its calls."""
    given = iter(probes)

    def probed(call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        if key == "name" and isinstance(call.get("function"), dict):
            return {**call, "function": {**call["function"], key: next(given)}}
        return {**call, key: next(given)}

    messages = [
        {**message, "tool_calls": [probed(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in talk.messages
    ]
    return TemplateInput(talk.id, messages, talk.tools, talk.wanted)
