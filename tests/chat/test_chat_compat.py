"""What `loraplug_chat.compat` relies on in transformers: a failure says what another version has changed."""

from __future__ import annotations

from datetime import datetime

import pytest

from loraplug_chat import clock, compat
from loraplug_chat.reasoning import KEYS

PRIVATE = ("_compile_jinja_template", "_plain_template_data", "_alias_reasoning_fields")


@pytest.mark.parametrize("name", PRIVATE)
def test_the_private_names_are_there(name: str) -> None:
    """Each can be called; without one, rendering has to be done another way."""
    from transformers.utils import chat_template_utils

    assert callable(getattr(chat_template_utils, name, None)), f"transformers has no {name} any more: see compat.py"


def test_a_compiled_template_is_shared_and_told_the_date() -> None:
    """The same object comes for the same text, so the clock that is put into it holds for `apply_chat_template` too."""
    source = "{{ messages[0]['content'] }} {{ strftime_now('%Y') }} {% generation %}x{% endgeneration %}"
    made = compat.compiled(source)
    assert compat.compiled(source) is made
    with clock.stopped_at(datetime(1999, 5, 4)):
        assert made.render(messages=[{"role": "user", "content": "a"}]) == "a 1999 x"


def test_data_is_made_plain_and_kept() -> None:
    """Nested tables and lists come as they are; what there is none of stays None."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}], "n": 1.5, "none": None}]
    assert compat.plain_data(messages) == messages
    assert compat.plain_data(None) is None


@pytest.mark.parametrize("given", KEYS)
def test_reasoning_gets_the_names_that_templates_read(given: str) -> None:
    """`reasoning_content`, and `thinking` for gpt-oss; whichever name it comes under."""
    (made,) = compat.aliased_reasoning([{"role": "assistant", "content": "a", given: "because"}])
    assert made["reasoning_content"] == made["thinking"] == "because"
