"""Preference rows: a chosen and a rejected answer to one prompt, or an answer with a label.

They become conversations whose prompt is not trained, so that answers are masked as in other rows.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from loraplug.config.errors import InputError
from loraplug.data.conversation import Conversation, Message, Row
from loraplug.data.labels import wanted
from loraplug.data.messages import Seen
from loraplug.data.shapes import check_row, row_id, side_of, system_of, told_of, tools_of, untrained
from loraplug.data.tool_calls import name_results

_PAIR, _LABELLED = "preference", "labelled"


@frozen
class Preference:
    """Two answers to one prompt.

    Attributes:
        id: names the row in messages to the user.
        chosen: the prompt and the wanted answer.
        rejected: the prompt and the unwanted answer; its `roles` and `unread` are told with those of `chosen`.
        prompt: how many messages at the front of both are the prompt; they have weight 0, and at least one is there.
    """

    id: str
    chosen: Conversation
    rejected: Conversation
    prompt: int


@frozen
class Labelled:
    """An answer and whether it is wanted.

    Attributes:
        id: names the row in messages to the user.
        talk: the prompt and the answer.
        label: whether the answer is wanted.
        prompt: how many messages at the front are the prompt; they have weight 0, and at least one is there.
    """

    id: str
    talk: Conversation
    label: bool
    prompt: int


def preference(row: Row, index: int) -> Preference:
    """A row of `chosen`, `rejected` and perhaps `prompt`.

    Without `prompt`, or where both sides hold it too, the prompt is what both sides begin with.

    Raises:
        InputError: a side is missing or no answer, both are the same, or their prompts differ; names the row.
    """
    name = row_id(row, index)
    seen = Seen()
    with told_of(name, _PAIR):
        check_row(row)
        prompt, (chosen, rejected) = _parted(row, seen)
        tools = tools_of(row)
        sides = [_talk(name, prompt, side, tools) for side in (chosen, rejected)]
    first = Conversation(name, sides[0].messages, tools, seen.roles, frozenset(seen.unread))
    return Preference(name, first, sides[1], len(prompt))


def labelled(row: Row, index: int) -> Labelled:
    """A row of `prompt`, `completion` and `label`.

    Raises:
        InputError: something is missing, the completion is no answer, or the label is neither true nor false; names
            the row.
    """
    name = row_id(row, index)
    seen = Seen()
    with told_of(name, _LABELLED):
        check_row(row)
        prompt = [*system_of(row), *side_of(row, "prompt", "user", seen)]
        answer = side_of(row, "completion", "assistant", seen)
        _begins_with_answer("completion", answer)
        label = wanted(row.get("label"))
        if label is None:
            raise InputError(f"label is {str(row.get('label'))[:20]!r}, not true or false")
        tools = tools_of(row)
        talk = _talk(name, prompt, answer, tools)
    return Labelled(name, Conversation(name, talk.messages, tools, seen.roles, frozenset(seen.unread)), label,
                    len(prompt))  # fmt: skip


def _parted(row: Row, seen: Seen) -> tuple[list[Message], list[list[Message]]]:
    """The prompt, and what each side says behind it."""
    given = row.get("prompt") is not None
    prompt = [*system_of(row), *(side_of(row, "prompt", "user", seen) if given else ())]
    sides = [side_of(row, key, "assistant", seen) for key in ("chosen", "rejected")]
    if sides[0] == sides[1]:
        raise InputError("chosen and rejected are the same")
    if not given and any(isinstance(row[key], str) for key in ("chosen", "rejected")):
        raise InputError(
            "prompt is missing, and chosen or rejected is plain text, in which the end of the prompt cannot be found"
        )
    held = [_own_prompt(side) for side in sides]
    if not given:
        return _shared(prompt, sides)
    if not any(held):
        for key, side in zip(("chosen", "rejected"), sides, strict=True):
            _begins_with_answer(key, side)
        return prompt, sides
    whole = [_behind(side, prompt) for side in sides]
    if None in whole:
        differs = "chosen" if whole[0] is None else "rejected"
        todo = (
            "correct the row, or use what both sides begin with as the prompt: [dataset] rename = { prompt = "
            '"their_prompt" }'
        )
        raise InputError(f"{differs} begins with another prompt than the column prompt", todo=todo)
    return prompt, [side or [] for side in whole]


def _own_prompt(side: list[Message]) -> bool:
    return bool(side) and side[0]["role"] != "assistant"


def _behind(side: list[Message], prompt: list[Message]) -> list[Message] | None:
    """What a side says behind a prompt that it holds, a system turn of the row's own left out or not."""
    for begun in (prompt, [each for each in prompt if each["role"] != "system"]):
        if side[: len(begun)] == begun and len(side) > len(begun) and side[len(begun)]["role"] == "assistant":
            return side[len(begun) :]
    return None


def _shared(before: list[Message], sides: list[list[Message]]) -> tuple[list[Message], list[list[Message]]]:
    """Both sides cut where they part."""
    chosen, rejected = sides
    least = min(map(len, sides))
    at = next((n for n in range(least) if chosen[n] != rejected[n]), least)
    if at == least:
        shorter = "chosen" if len(chosen) == least else "rejected"
        raise InputError(f"{shorter} has no answer after what both sides begin with")
    for key, side in zip(("chosen", "rejected"), sides, strict=True):
        if side[at]["role"] != "assistant":
            what = f"the prompts of chosen and rejected differ: message {at} of {key} is from the {side[at]['role']}"
            raise InputError(what)
    own = chosen[:1] == before[:1] and bool(before)
    return [*(() if own else before), *chosen[:at]], [chosen[at:], rejected[at:]]


def _begins_with_answer(key: str, side: list[Message]) -> None:
    if not side:
        raise InputError(f"{key} is empty")
    if side[0]["role"] != "assistant":
        raise InputError(f"{key} begins with a message of role {side[0]['role']}, not with an answer")


def _talk(name: str, prompt: list[Message], answer: list[Message], tools: list[Any] | None) -> Conversation:
    if not prompt:
        raise InputError("has no prompt")
    messages = [*untrained(prompt), *(dict(each) for each in answer)]
    if any(message["role"] == "tool" for message in messages):
        name_results(messages)
    for message in messages[len(prompt) :]:
        if message.get("weight", 1) not in (0, 1):
            raise InputError("an answer has a weight other than 0 and 1, which preference rows do not support")
    return Conversation(name, messages, tools)
