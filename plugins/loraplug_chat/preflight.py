"""Whether a chat template can be used at all, told without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MISSING = (
    "the model has no chat template; take an instruct model, or give one: [model] chat_template = "
    '"template.jinja"; plain text needs none: [formatter] use = "text"'
)
_TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def template_problem(source: str | None, options: Mapping[str, Any]) -> str | None:
    """What keeps a chat template from being used, in words; None where nothing does.

    A template that refuses a plain conversation is still of use where it refuses none with a system text, or none that
    ends with a question.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    if source is None:
        return _MISSING
    try:
        template = _environment().from_string(source)
    except TemplateSyntaxError as error:
        return f"the chat template is no Jinja template: {error.message} (line {error.lineno}); mend it"
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
    told: Exception | None = None
    for turns in (_TURNS, [{"role": "system", "content": "c"}, *_TURNS], _TURNS[:1]):
        try:
            template.render(messages=turns, tools=None, add_generation_prompt=False, **names, **options)
            return None
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            told = told or error
    return f"the chat template renders no conversation: {' '.join(str(told).split())[:200]}; mend it, or give another"


def _environment() -> Any:
    """Jinja with what transformers gives chat templates: their functions, loop controls and the generation block."""
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(inside).set_lineno(line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime.now().strftime
    return environment
