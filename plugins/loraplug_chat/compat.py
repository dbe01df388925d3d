"""The private APIs of transformers that are needed to render chat templates exactly as it does; no other module of this
package uses any.

`apply_chat_template` gives a text without the origin of its characters, so what it does before and while it renders is
called here one by one. `tests/chat/test_chat_compat.py` holds what is relied on, and says what another version broke.
"""

from __future__ import annotations

from typing import Any

from loraplug_chat.clock import strftime_now


def compiled(source: str) -> Any:
    """transformers' own compiled template, told the date by our clock; it keeps it for `apply_chat_template`."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    made = _compile_jinja_template(source)
    made.environment.globals["strftime_now"] = strftime_now
    return made


def plain_data(value: Any) -> Any:
    """Messages or tools as `apply_chat_template` hands them to a template: tables and lists of plain values."""
    from transformers.utils.chat_template_utils import _plain_template_data

    return _plain_template_data(value)


def aliased_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose reasoning, under whichever name it came, stands under those that templates read."""
    from transformers.utils.chat_template_utils import _alias_reasoning_fields

    made: list[dict[str, Any]] = _alias_reasoning_fields(messages)
    return made
