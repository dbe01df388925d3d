"""Events of OpenHands' software agent SDK as turns: each names its kind and holds what the model saw or said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loraplug_data.traces.turns import Trace, Turn, call, has_failed, text_of

Event = Mapping[str, Any]
KINDS = frozenset({
    "SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent", "UserRejectObservation",
})  # fmt: skip
"""Those that the model sees; others are bookkeeping."""


def is_sdk_event(one: Event) -> bool:
    """Whether it is an event of the SDK."""
    kind = one.get("kind")
    return isinstance(kind, str) and (kind in KINDS or (kind.endswith("Event") and "source" in one))


def of_sdk(events: Sequence[Event]) -> Trace:
    """The turns of a conversation's events; calls of one reply of the model are one turn.

    Raises:
        InputError: a message holds what is no text, or a call has arguments that cannot be read.
    """
    turns: list[Turn] = []
    tools: list[Any] = []
    skipped: Counter[str] = Counter()
    reply: Any = None
    for event in events:
        kind = str(event.get("kind"))
        if kind == "ActionEvent":
            again = reply is not None and event.get("llm_response_id") == reply
            reply = event.get("llm_response_id")
            _act(event, turns, joined=again)
            continue
        reply = None if kind in KINDS - {"ObservationEvent"} else reply
        if kind == "SystemPromptEvent":
            parts = [text_of(event.get(key)) for key in ("system_prompt", "dynamic_context")]
            turns.insert(0, Turn("system", "\n".join(part for part in parts if part)))
            tools = [one for one in event.get("tools") or [] if isinstance(one, Mapping) and "function" in one]
        elif kind == "MessageEvent":
            turns.append(_message(event))
        elif kind in KINDS:
            turns.append(_result(kind, event))
        else:
            skipped[kind] += 1
    return Trace(turns, tools, skipped=dict(skipped))


def _act(event: Event, turns: list[Turn], *, joined: bool) -> None:
    made: Any = event.get("tool_call") or {}
    function = made.get("function", made)
    id = str(made.get("id") or event.get("tool_call_id") or "")  # noqa: A001 - the field's own word
    called = call(str(function.get("name") or event.get("tool_name")), function.get("arguments") or {}, id)
    said, thinking = text_of(event.get("thought")), text_of(event.get("reasoning_content"))
    asking = next((turn for turn in reversed(turns) if turn.role == "assistant"), None) if joined else None
    if asking is None:
        turns.append(Turn("assistant", said, [called], thinking=thinking))
        return
    asking.calls.append(called)
    asking.content, asking.thinking = asking.content or said, asking.thinking or thinking


def _message(event: Event) -> Turn:
    message = event.get("llm_message") or {}
    parts = [text_of(message.get("content")), text_of(event.get("extended_content"))]
    role = "user" if event.get("source") == "user" else str(message.get("role") or "assistant")
    return Turn(role, "\n".join(part for part in parts if part), thinking=text_of(message.get("reasoning_content")))


def _result(kind: str, event: Event) -> Turn:
    answers = str(event.get("tool_call_id") or "")
    if kind == "AgentErrorEvent":
        return Turn("tool", text_of(event.get("error")), answers=answers, failed=True)
    if kind == "UserRejectObservation":
        return Turn("tool", f"Action rejected: {event.get('rejection_reason', '')}", answers=answers, failed=True)
    seen = event.get("observation") or {}
    text = text_of(seen.get("content") or seen.get("output") or seen.get("text"))
    metadata = seen.get("metadata")
    codes = [table.get("exit_code") for table in (metadata, seen) if isinstance(table, Mapping)]
    code = next((one for one in codes if isinstance(one, int) and not isinstance(one, bool)), None)
    if seen.get("is_error") is True or seen.get("error"):
        failed: bool | None = True
    else:  # -1 stands for a command that is still at work
        failed = has_failed(text) if code is None else code not in (0, -1)
    return Turn("tool", text, answers=answers, failed=failed)
