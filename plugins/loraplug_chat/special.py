"""Special tokens that rows may write: named by the recipe, and told to whoever makes prompts with the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loraplug import OPEN_TOKENS, InputError, opened_tokens

_WHERE = "formatter.special_tokens"


def open_tokens(tokenizer: Any, tokens: Sequence[str]) -> None:
    """Have the tokenizer say, now and as it is saved, that these texts are tokens also where a row writes them.

    Raises:
        InputError: one of them is no token of its own, or one with which the chat template frames turns: a row could
            then end a turn and begin another.
    """
    from loraplug_chat.mask import framing

    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if lacking := [token for token in tokens if token not in added]:
        named = ", ".join(f'"{token}"' for token in lacking)
        todo = f"add them: [model] add_tokens = [{named}]"
        raise InputError(f"{named}: not a single token of the tokenizer", where=_WHERE, todo=todo)
    if forbidden := [token for token in tokens if token in framing(tokenizer)]:
        named = ", ".join(f'"{token}"' for token in forbidden)
        what = f"{named}: the chat template uses it around turns, so a row could end a turn with it"
        raise InputError(what, where=_WHERE, todo="remove it")
    tokenizer.init_kwargs[OPEN_TOKENS] = sorted({*tokens, *opened_tokens(tokenizer)})
