"""Tool calls and tool schemas in their one form, from the forms that data sets have them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loraplug.config.errors import InputError
from loraplug.data.content import kind
from loraplug.data.conversation import Message
from loraplug.data.literals import parsed
from loraplug.data.weights import no_mask

_CALL, _FUNCTION = {"id", "type", "function"}, {"name", "arguments"}
_ARGUMENTS = ("arguments", "parameters")


def tool_calls(value: Any, unread: set[str]) -> list[Message]:
    """Calls as `[{"id"?, "type": "function", "function": {"name", "arguments"}}]`, the arguments a table.

    Args:
        value: a call or a list of calls, also as text; each with name and arguments itself or under `function`.
        unread: gets the names of further keys that calls have; these stay in the calls.

    Raises:
        InputError: a call has no name, or arguments that are no table.
    """
    if isinstance(value, str):
        value = (parsed(value, "a tool call") if value.strip() else None) or []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise InputError(f"tool calls are {kind(value)}, not a list of calls")
    return [_call(call, unread) for call in value]


def _call(call: Any, unread: set[str]) -> Message:
    if isinstance(call, str):
        call = parsed(call, "a tool call")
    if not isinstance(call, Mapping):
        raise InputError(f"a tool call is {kind(call)}, not an object with name and arguments")
    call = {key: value for key, value in call.items() if value is not None}
    function = call.get("function")
    if isinstance(function, str) and "name" not in call:  # {"function": "search", "arguments": {...}}
        call = {"name": function, **{key: value for key, value in call.items() if key != "function"}}
        function = None
    if function is None:
        outer = {key: call[key] for key in ("id", "type") if key in call}
        function = {key: value for key, value in call.items() if key not in outer}
    elif isinstance(function, Mapping):
        outer = {key: value for key, value in call.items() if key != "function"}
        function = {key: value for key, value in function.items() if value is not None}
        for key in {"name", *_ARGUMENTS} & outer.keys():
            if function.setdefault(key, outer[key]) != outer[key]:
                raise InputError(f'a tool call has "{key}" twice, with different values')
            del outer[key]
    else:
        raise InputError(f"the function of a tool call is {kind(function)}, not an object with name and arguments")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InputError("a tool call has no name")
    given = [key for key in _ARGUMENTS if key in function]
    if len(given) > 1:
        raise InputError("a tool call has both arguments and parameters")
    arguments = _arguments(function[given[0]] if given else {}, function["name"])
    more = {key: value for key, value in function.items() if key != "name" and key not in given}
    for table in (more, outer):
        no_mask(table, "a tool call")
    unread |= {f"tool_calls[].{key}" for key in outer.keys() - _CALL | {"id"} & outer.keys()}
    unread |= {f"tool_calls[].function.{key}" for key in more}
    rest = {key: value for key, value in outer.items() if key not in _CALL}
    made: Message = {"id": outer["id"]} if "id" in outer else {}
    return {**made, "type": "function", "function": {"name": function["name"], "arguments": arguments, **more}, **rest}


def _arguments(value: Any, name: str) -> dict[str, Any]:
    what = f"the arguments of a call of {name[:40]}"
    if isinstance(value, str):
        value = parsed(value, what) if value.strip() else None
        if isinstance(value, str) and value.strip():  # quoted twice
            value = parsed(value, what)
        value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise InputError(f"{what} are {kind(value)}, not an object")
    return dict(value)


def tool_schemas(value: Any) -> list[Any] | None:
    """Schemas as `[{"type": "function", "function": {...}}]`, from a list or a text of it; None if there are none.

    Raises:
        InputError: they are no list of tables.
    """
    if isinstance(value, str):
        value = parsed(value, "tools") if value.strip() else None
    if not value:
        return None
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, list):
        raise InputError(f"tools are {kind(tools)}, not a list of objects")
    return [_schema(tool) for tool in tools]


def _schema(tool: Any) -> Any:
    if isinstance(tool, str):
        tool = parsed(tool, "a tool")
    if not isinstance(tool, Mapping):
        raise InputError(f"tools are not a list of objects: one is {kind(tool)}")
    if isinstance(tool.get("function"), Mapping):
        return {"type": "function", **tool}
    if isinstance(tool.get("name"), str) and tool.get("type") in (None, "function"):
        return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    return dict(tool)


def name_results(messages: list[Message]) -> None:
    """Give results of tools without a name that of the call they answer: by id, or in order where there are no ids."""
    calls: list[Message] = []
    answered = 0
    for message in messages:
        if message["role"] != "tool":
            calls, answered = message.get("tool_calls", []), 0
            continue
        several = message.get("tool_call_ids")
        wanted = several[0] if isinstance(several, list) and len(several) == 1 else message.get("tool_call_id")
        if wanted is not None:
            found = [call for call in calls if call.get("id") == wanted]
        else:
            found = calls[answered : answered + 1]
        answered += 1
        if found and message.get("name") is None:
            message["name"] = found[0]["function"]["name"]
