"""A trace of each format as turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from loraplug import InputError
from loraplug_data.traces.formats import messages_of
from loraplug_data.traces.openhands import openhands
from loraplug_data.traces.turns import Trace, Turn, call, has_failed, pair, text_of
from loraplug_data.traces.written import answer, block_turn, mini_turn, xml_turn

Row = Mapping[str, Any]
_KEPT = ("resolved", "exit_status", "model", "traj_id")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def read_trace(row: Row, format: str) -> Trace:  # noqa: A002 - the option's own word
    """A trace as turns, whose calls have ids and whose results name the call they answer.

    Raises:
        InputError: it holds what cannot be read in this format.
    """
    made = _READERS[format](row)
    if not any(turn.role == "assistant" for turn in made.turns):
        raise InputError("has no turn of an assistant", todo="check that it is a trace, and its format")
    pair(made.turns)
    info = row.get("info")
    said = {**(info if isinstance(info, Mapping) else {}), **row}
    made.facts |= {key: said[key] for key in _KEPT if isinstance(said.get(key), str | bool)}
    return made


def _messages(row: Row) -> list[Row]:
    if not (found := messages_of(row)):
        raise InputError(f"has no messages with roles (keys: {', '.join(row)})")
    return found


def _tools(row: Row) -> list[Any]:
    tools = row.get("tools")
    return [_schema(one) for one in tools] if isinstance(tools, list) else []


def _schema(tool: Any) -> Any:
    if isinstance(tool, Mapping) and "input_schema" in tool:
        made = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool["input_schema"]}
        return {"type": "function", "function": {key: value for key, value in made.items() if value is not None}}
    return tool


def _native(one: Row) -> Turn:
    """A message that has its calls, or is a result, in OpenAI's form."""
    role = "assistant" if one["role"] == "ai" else one["role"]
    text = text_of(one.get("content"))
    if role in ("tool", "function"):
        ids = one.get("tool_call_ids")
        answers = ids[0] if isinstance(ids, list) and ids else one.get("tool_call_id") or ""
        return Turn("tool", text, answers=answers, failed=_code(one, text))
    calls = []
    for item in one.get("tool_calls") or ([one["function_call"]] if one.get("function_call") else []):
        function = item.get("function", item)
        calls.append(call(str(function.get("name")), function.get("arguments", {}), str(item.get("id") or "")))
    thinking = next((text_of(one[key]) for key in _THOUGHTS if one.get(key)), "")
    weight = one.get("weight")
    return Turn(role, text, calls, thinking=thinking, weight=float(weight) if isinstance(weight, int | float) else None)


def _code(one: Row, text: str) -> bool | None:
    extra = one.get("extra")
    code = extra.get("returncode") if isinstance(extra, Mapping) else None
    return code != 0 if isinstance(code, int) else has_failed(text)


def _openai(row: Row) -> Trace:
    return Trace([_native(one) for one in _messages(row)], _tools(row))


def _has_calls(messages: list[Row]) -> bool:
    """Whether the agent calls tools; a block in what it says is then none."""
    return any(one.get("tool_calls") for one in messages)


def _swe_agent(row: Row) -> Trace:
    turns: list[Turn] = []
    messages = _messages(row)
    native = _has_calls(messages)
    for one in messages:
        shown = bool(one.get("is_demo")) or one.get("message_type") == "demonstration"
        text = text_of(one.get("content"))
        if one.get("tool_calls") or one["role"] == "tool":
            turn = _native(one)
        elif one["role"] == "assistant":
            turn = _native(one) if native else block_turn(text)
        elif one["role"] == "user" and not shown:
            turn = answer(text, turns[-1] if turns else None)
        else:
            turn = Turn(one["role"], text)
        turn.shown = shown
        turns.append(turn)
    return Trace(turns, _tools(row))


def _mini(row: Row) -> Trace:
    turns: list[Turn] = []
    skipped: Counter[str] = Counter()
    messages = _messages(row)
    native = _has_calls(messages)
    for one in messages:
        text = text_of(one.get("content"))
        if one["role"] == "exit":
            skipped["exit"] += 1
        elif one.get("tool_calls") or one["role"] == "tool":
            turns.append(_native(one))
        elif one["role"] == "assistant":
            turns.append(_native(one) if native else mini_turn(text))
        elif one["role"] == "user":
            turn = answer(text, turns[-1] if turns else None)
            turn.failed = _code(one, text) if turn.role == "tool" else None
            turns.append(turn)
        else:
            turns.append(Turn(one["role"], text))
    while turns and turns[-1].role == "tool" and not turns[-1].content:
        turns.pop()  # of a submission, which ends the run before it is answered
    return Trace(turns, _tools(row), skipped=dict(skipped))


def _xml(row: Row) -> Trace:
    turns: list[Turn] = []
    for one in _messages(row):
        text = text_of(one.get("content"))
        if one["role"] == "assistant":
            turns.append(xml_turn(text))
        elif one["role"] == "user":
            turns.append(answer(text, turns[-1] if turns else None))
        else:
            turns.append(Turn(one["role"], text))
    return Trace(turns, _tools(row))


def _blocks(row: Row) -> Trace:
    turns = [Turn("system", text_of(row["system"]))] if row.get("system") else []
    skipped: Counter[str] = Counter()
    for one in _messages(row):
        parts = one.get("content")
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts or []
        turn = Turn(one["role"])
        results = []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "tool_use":
                turn.calls.append(call(str(part.get("name")), part.get("input") or {}, str(part.get("id") or "")))
            elif kind == "tool_result":
                text = text_of(part.get("content"))
                failed = True if part.get("is_error") else has_failed(text)
                results.append(Turn("tool", text, answers=str(part.get("tool_use_id") or ""), failed=failed))
            elif kind == "thinking":
                turn.thinking += str(part.get("thinking") or "")
            elif kind == "redacted_thinking":
                skipped[kind] += 1
            else:
                turn.content += text_of([part])
        turns += results
        if turn.content or turn.calls or not results:
            turns.append(turn)
    return Trace(turns, _tools(row), skipped=dict(skipped))


_READERS: Mapping[str, Callable[[Row], Trace]] = {
    "openai": _openai,
    "content-blocks": _blocks,
    "swe-agent": _swe_agent,
    "mini-swe-agent": _mini,
    "openhands": openhands,
    "swe-smith-xml": _xml,
}
