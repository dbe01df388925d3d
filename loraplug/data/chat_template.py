"""Renders chat templates as transformers does, without importing it, and finds their control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

CONTROL_TOKEN = re.compile(
    r"<\|[^\s|<>]+\|?>|<[^\s|<>]+\|>|</?[A-Za-z_]\w*>|<\uff5c[^\s\uff5c<>]+\uff5c>|\[/?[a-z]*[A-Z_]{2,}\]"
)
"""How templates write control tokens: `<|im_end|>`, `</s>`, `<end_of_turn>`, `[/INST]`; a tokenizer may lack them."""
_TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_ANSWER = "loraplug"
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class TemplateFaultError(Exception):
    """A chat template that cannot be used; the message says why."""


def render_plainly(source: str, options: Mapping[str, Any] | None = None, *, prompt: bool = False) -> str:
    """The text of a simple conversation in a template, without the tokenizer's own begin and end tokens.

    Several conversations are tried, as some templates refuse one without a system message, or one that ends with a
    question.

    Args:
        options: further variables of the template.
        prompt: with the header of a next answer.

    Raises:
        TemplateFaultError: it is not valid Jinja, or renders none of them.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        template = chat_template_environment().from_string(source)
    except TemplateSyntaxError as error:
        what = f"the chat template is not valid Jinja: {error.message} (line {error.lineno})"
        raise TemplateFaultError(what) from None
    names = {**dict.fromkeys(_NAMES, ""), **(options or {})}
    told: Exception | None = None
    for turns in _exchanges():
        try:
            return str(template.render(messages=turns, tools=None, add_generation_prompt=prompt, **names))
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            told = told or error
    why = " ".join(str(told).split())[:200]
    raise TemplateFaultError(f"the chat template renders no conversation: {why}; correct it, or use another one")


@lru_cache(maxsize=128)
def control_tokens(source: str) -> tuple[str, ...]:
    """The control tokens that a template writes around a simple conversation, each once, in order.

    Raises:
        TemplateFaultError: as `render_plainly`.
    """
    return tuple(dict.fromkeys(CONTROL_TOKEN.findall(render_plainly(source, prompt=True))))


def _exchanges() -> Sequence[Sequence[Mapping[str, str]]]:
    return (_TURNS, [{"role": "system", "content": "c"}, *_TURNS], _TURNS[:1])


@cache
def chat_template_environment() -> Any:
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


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that a chat template writes right after an answer; None if there is none.

    Args:
        tokenizer: one of transformers.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError, IndexError):
        return None
    tail = text.rpartition(_ANSWER)[2].lstrip()
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    ends = [content for content in added if tail.startswith(content)]
    return added[max(ends, key=len)] if ends else None


OPEN_TOKENS = "loraplug_special_tokens"
"""The key of tokenizer_config.json that lists special tokens which stay tokens where rows and prompts write them."""


def opened_tokens(tokenizer: Any) -> frozenset[str]:
    """The special tokens that a tokenizer was trained to read as such in the texts of messages."""
    found = getattr(tokenizer, "init_kwargs", {}).get(OPEN_TOKENS) or ()
    return frozenset(token for token in found if isinstance(token, str))
