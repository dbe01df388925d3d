"""What becomes of rows with more tokens than allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import evolve

from loraplug import Conversation, InputError
from loraplug_chat.choices import Policy

if TYPE_CHECKING:
    from loraplug_chat.mask import Encoded

    Encode = Callable[[Conversation], Encoded]


def shortened(row: Encoded, talk: Conversation | None, encode: Encode, limit: int, policy: Policy) -> Encoded | None:
    """The row in at most `limit` tokens, or None to drop it.

    `truncate-left` takes the oldest turns out and encodes the rest anew, so the row is again one the template makes;
    without a conversation it keeps the last tokens. `truncate-right` keeps the first tokens.

    Raises:
        InputError: the policy is `error`.
    """
    if policy == "error":
        raise InputError(
            f"has {len(row.ids)} tokens, more than max_length = {limit}",
            where=talk.id if talk else None,
            todo='raise max_length, or set overlong to "truncate-left", "truncate-right" or "drop"',
        )
    if policy == "drop":
        return None
    if policy == "truncate-right":
        return evolve(row, ids=row.ids[:limit], trained=row.trained[:limit])
    if talk is None:
        return evolve(row, ids=row.ids[-limit:], trained=row.trained[-limit:])
    return _newest_turns(talk, encode, limit)


def _newest_turns(talk: Conversation, encode: Encode, limit: int) -> Encoded | None:
    """The system turns at the front and as many of the newest turns as fit, beginning with a user's if that renders."""
    messages = talk.messages
    front = next((i for i, message in enumerate(messages) if message["role"] not in ("system", "developer")), 0)
    first_kept = [i for i, message in enumerate(messages) if i > front and message["role"] == "user"]
    first_kept = first_kept or [i for i, message in enumerate(messages) if i > front and message["role"] == "assistant"]

    def without(first: int) -> Encoded | None:
        try:
            return encode(evolve(talk, messages=[*messages[:front], *messages[first:]]))
        except InputError:
            return None

    low, high, best = 0, len(first_kept), None
    while low < high:
        middle = (low + high) // 2
        row = without(first_kept[middle])
        if row is not None and len(row.ids) <= limit:
            best, high = row, middle
        else:
            low = middle + 1
    return best
