"""Checks whether a chat template is usable, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loraplug import TemplateFaultError, render_plainly

_MISSING = "the model has no chat template; use an instruct model, or set one: {}; plain text needs none: "
_FILE = '[model] chat_template = "template.jinja"'


def template_problem(source: str | None, options: Mapping[str, Any], advice: str = "") -> str | None:
    """What keeps a chat template from being used, in words; None where nothing does.

    Args:
        options: variables of the template.
        advice: what the model loader says of templates that fit a base without one.
    """
    if source is None:
        return _MISSING.format(advice or _FILE) + '[formatter] use = "text"'
    try:
        render_plainly(source, options)
    except TemplateFaultError as fault:
        return str(fault)
    return None
