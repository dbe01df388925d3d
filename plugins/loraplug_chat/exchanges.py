"""Which turns can be removed from a conversation so that no answer is trained without its question.

A conversation is read as exchanges: a question (user turns, and system turns in the middle), then steps. A step is an
answer with the outputs that follow it: a call of a tool leaves together with its results. Turns go from the front, by
whole exchanges and steps; what came before the first answer, and the question of an exchange that is begun, stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, frozen

from loraplug_chat.outputs import OUTPUT_ROLES, Message, is_cuttable, untrained


@frozen
class Start:
    """Where the newer part of a conversation may begin.

    Attributes:
        at: number of its first message.
        question: numbers of the messages that ask what it goes on to answer, where those stand before `at`.
        later: whether it begins in another exchange than the first, so that two questions meet.
    """

    at: int
    question: range
    later: bool


@define
class Exchanges:
    """The parts of a conversation.

    Attributes:
        messages: all messages.
        answers: numbers of those that are trained.
        newest: number of the last trained answer (of the last message where there is none).
        opening: numbers of messages that always stay: the system turns at the front and the first user turn.
        starts: where the newer part may begin, the first being where nothing is lost.
        closing: number of the answer that closes the first exchange, if there is one.
    """

    messages: Sequence[Message]
    answers: frozenset[int]
    newest: int
    opening: list[int]
    starts: list[Start]
    closing: int | None

    @classmethod
    def of(cls, messages: Sequence[Message], answers: Sequence[int]) -> Exchanges:
        """Read the messages, of which those numbered `answers` are trained."""
        count = len(messages)
        front = next((i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), count)
        spoken = next((at for at, message in enumerate(messages) if message["role"] == "assistant"), count)
        asks = [_asks(message, at > spoken) for at, message in enumerate(messages)]
        begins = [at for at in range(front, count) if asks[at] and not (at > front and asks[at - 1])]
        newest = max(answers, default=count - 1)
        first = begins[0] if begins else count
        opening = [*range(front), *_run(asks, first)]
        starts, question, later = [Start(front, range(0), False)], range(0), False
        parted = _parted(messages)
        for at in range(front + 1, newest):
            if asks[at]:
                if asks[at - 1]:
                    continue
                question, later = _run(asks, at), at > first
            elif messages[at]["role"] != "assistant" or asks[at - 1]:
                continue
            if at not in parted:
                starts.append(Start(at, question if not asks[at] else range(0), later))
        end = begins[1] if len(begins) > 1 else count
        closing = next((at for at in range(end - 1, first, -1) if _closes(messages[at])), None)
        return cls(messages, frozenset(answers), newest, opening, starts, closing)

    def kept(self, start: Start, end: int, closed: bool) -> list[int]:
        """Numbers of the messages that stay where the newer part begins at `start` and ends before `end`.

        `closed` keeps the closing answer of the first exchange, for templates in which no question follows another.
        """
        older = {*self.opening, *start.question}
        if closed and start.later and self.closing is not None:
            older.add(self.closing)
        return [*sorted(at for at in older if at < start.at), *range(start.at, end)]

    def of_kept(self, kept: Sequence[int]) -> list[Message]:
        """These messages, an answer being untrained where the turn just before it is gone."""
        made, before = [], -1
        for at in kept:
            alone = before != at - 1
            made.append(untrained(self.messages[at]) if alone and at in self.answers else self.messages[at])
            before = at
        return made


def _asks(message: Message, answered: bool) -> bool:
    """Whether a message is no answer and no output; a user turn may be one, behind an answer that called for it."""
    if message["role"] == "assistant" or message["role"] in OUTPUT_ROLES:
        return False
    return not (answered and is_cuttable(message))


def _run(asks: Sequence[bool], at: int) -> range:
    end = at
    while end < len(asks) and asks[end]:
        end += 1
    return range(at, end)


def _closes(message: Message) -> bool:
    return message["role"] == "assistant" and not message.get("tool_calls")


def _parted(messages: Sequence[Message]) -> set[int]:
    """Places where the older part would take a call whose results stay."""
    callers: dict[str, int] = {}
    parted: set[int] = set()
    caller = -1
    for at, message in enumerate(messages):
        if calls := message.get("tool_calls"):
            caller = at
            callers |= {call["id"]: at for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)}
        elif message["role"] in OUTPUT_ROLES and caller >= 0:
            parted |= {*range(callers.get(str(message.get("tool_call_id")), caller) + 1, at + 1)}
    return parted
