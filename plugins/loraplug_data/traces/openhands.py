"""Events of OpenHands as turns.

An event holds an action of the agent or the user, or an observation, whose `cause` is the id of the action it answers.
Where the model's own message was kept with an event, it is taken; several events of one message are one turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from loraplug import InputError
from loraplug_data.traces.formats import events_of
from loraplug_data.traces.openhands_sdk import is_sdk_event, of_sdk
from loraplug_data.traces.turns import Trace, Turn, call, has_failed, text_of

Event = Mapping[str, Any]
_BOOKKEEPING = frozenset({
    "agent_state_changed", "change_agent_state", "recall", "null", "condensation", "condensation_request",
    "loop_recovery", "pause", "resume", "stop", "start", "task_tracking_state",
})  # fmt: skip
_INTERNAL = frozenset({
    "thought", "hidden", "confirmation_state", "security_risk", "is_confirmed", "blocking", "is_input", "is_static",
    "cwd", "kernel_init_code", "include_extra", "translated_ipython_code", "impl_source", "timeout", "return_axtree",
    "browsergym_send_msg_to_user", "task_completed", "outputs", "agent",
})  # fmt: skip
"""Keys of an action's arguments that the harness set, not the model."""


def openhands(row: Event) -> Trace:
    """The turns of a trace's events.

    Raises:
        InputError: it has no events.
    """
    events = events_of(row)
    if not events:
        raise InputError(f"has no events with action or observation (keys: {', '.join(row)})")
    tools = row.get("tools")
    own = tools if isinstance(tools, list) else []
    if any(is_sdk_event(event) for event in events):
        found = of_sdk(events)
        return evolve(found, tools=found.tools or own)
    made = _Made()
    for event in events:
        if "action" in event:
            made.action(event)
        else:
            made.observation(event)
    return Trace(made.turns, made.tools or own, skipped=dict(made.skipped))


class _Made:
    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.tools: list[Any] = []
        self.skipped: Counter[str] = Counter()
        self._replies: dict[str, Turn] = {}
        self._calls: dict[Any, str] = {}  # the id of an action's event, to that of its call
        self._number = 0

    def action(self, event: Event) -> None:
        """What the user or the agent does."""
        kind, given = str(event["action"]), event.get("args")
        given = given if isinstance(given, Mapping) else {}
        said = text_of(given.get("content")) or text_of(given.get("thought"))
        if kind == "system":
            self.turns.insert(0, Turn("system", said))
            self.tools = list(given.get("tools") or [])
        elif kind in _BOOKKEEPING:
            self.skipped[kind] += 1
        elif event.get("source") == "user":
            self.turns.append(Turn("user", said))
        elif kind == "message":
            self.turns.append(Turn("assistant", said))
        else:
            self._call(kind, given, event)

    def _call(self, kind: str, given: Event, event: Event) -> None:
        metadata = event.get("tool_call_metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        reply = metadata.get("model_response")
        choices = reply.get("choices") if isinstance(reply, Mapping) else None
        if choices:
            self._reply(str(reply.get("id") or metadata.get("tool_call_id")), choices[0].get("message") or {})  # type: ignore[union-attr]
            self._calls[event.get("id")] = str(metadata.get("tool_call_id") or "")
            return
        self._number += 1
        made = str(metadata.get("tool_call_id") or f"call{self._number:05d}")
        arguments = {key: value for key, value in given.items() if key not in _INTERNAL and value not in (None, "", [])}
        thought = text_of(given.get("thought"))
        name = str(metadata.get("function_name") or kind)
        self.turns.append(Turn("assistant", thought, [call(name, arguments, made)]))
        self._calls[event.get("id")] = made

    def _reply(self, name: str, message: Event) -> None:
        """The model's own message, once."""
        if name in self._replies:
            return
        calls = []
        for one in message.get("tool_calls") or []:
            function = one.get("function", one)
            calls.append(call(str(function.get("name")), function.get("arguments", {}), str(one.get("id") or "")))
        thinking = text_of(message.get("reasoning_content"))
        self._replies[name] = Turn("assistant", text_of(message.get("content")), calls, thinking=thinking)
        self.turns.append(self._replies[name])

    def observation(self, event: Event) -> None:
        """What came of it."""
        kind = str(event["observation"])
        metadata = event.get("tool_call_metadata")
        answers = str(metadata.get("tool_call_id") or "") if isinstance(metadata, Mapping) else ""
        answers = answers or self._calls.get(event.get("cause"), "")
        if kind in _BOOKKEEPING:
            self.skipped[kind] += 1
            return
        text = text_of(event.get("content"))
        before = self.turns[-1] if self.turns else None
        if not answers and before is not None and before.calls and event.get("cause") is None:
            answers = before.calls[0]["id"]  # without causes an observation stands right behind its action
        if not answers:
            self.skipped[f"observation {kind}"] += 1
            return
        self.turns.append(Turn("tool", text, answers=answers, failed=_failed(kind, event, text)))


def _failed(kind: str, event: Event, text: str) -> bool | None:
    if kind == "error":
        return True
    extras = event.get("extras")
    extras = extras if isinstance(extras, Mapping) else {}
    metadata = extras.get("metadata")
    for table in (metadata, extras):
        code = table.get("exit_code") if isinstance(table, Mapping) else None
        if isinstance(code, int) and not isinstance(code, bool):
            return code not in (0, -1)  # -1 stands for a command that is still at work
    return has_failed(text)
