"""Formatters: conversations through a chat template with exact masks, and plain text."""

from __future__ import annotations

from collections.abc import Sequence

from loraplug import Formatter, hookimpl


@hookimpl
def loraplug_formatters() -> Sequence[type[Formatter]]:
    """The formatters `chat-template` and `text`."""
    from loraplug_chat.formatter import ChatTemplate
    from loraplug_chat.text import Text

    return [ChatTemplate, Text]
