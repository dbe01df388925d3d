"""Chat templates by name: ChatML, and those that trl ships."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from loraplug import InputError, TemplateFaultError, control_tokens

WHERE = "model.chat_template"
_TWIN = "_training"  # trl's variants with generation marks, which loraplug's masks do not need
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
OURS = {"chatml": _CHATML}
_SHOWN = 6


def is_name(value: str) -> bool:
    """Whether an option's value is a template name, not a file."""
    return not (value.endswith(".jinja") or "/" in value or "\\" in value)


@cache
def names() -> tuple[str, ...]:
    """The names of all templates, sorted."""
    return tuple(sorted({*OURS, *(path.stem for path in _files() if not path.stem.endswith(_TWIN))}))


def text_of(value: str) -> str:
    """A template's text, by its name or the path of its file.

    Raises:
        InputError: there is no template of this name, or the file cannot be read.
    """
    if not is_name(value):
        return file_text(Path(value))
    if value in OURS:
        return OURS[value]
    for path in _files():
        if path.stem == value:
            return file_text(path)
    near = get_close_matches(value, names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    todo = f"use one of {', '.join(names())}; or the path of a file that ends in .jinja"
    raise InputError(f'there is no template named "{value}"{hint}', where=WHERE, todo=todo)


def file_text(path: Path) -> str:
    """A .jinja file's text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read ({why})", where=path, todo="check the path") from None


def lacking(name: str, known: Collection[str]) -> list[str]:
    """The control tokens of a named template that are not single tokens of a tokenizer.

    Args:
        known: added tokens of the tokenizer.
    """
    return [token for token in control_tokens(text_of(name)) if token not in known]


def lacking_text(name: str, tokens: Collection[str], added: Collection[str] = ()) -> str:
    """The message about control tokens that a tokenizer lacks though some are `added`, with what to do."""
    more = ", beside those that it has" if added else ""
    listed = ", ".join(f'"{token}"' for token in tokens)
    return (
        f'"{name}" writes control tokens that the tokenizer does not have as single tokens; add them: add_tokens = '
        f"[{listed}]{more}"
    )


@lru_cache(maxsize=8)
def advice(known: frozenset[str] | None, family: str) -> str:
    """What to set for a base without a chat template: the templates that fit its tokenizer, its family's first.

    Args:
        known: added tokens of the tokenizer; None if unknown.
        family: the base's `model_type`.
    """
    fit = [] if known is None else fitting(known, family)
    if fit:
        return f"[model] chat_template = {_quoted(fit)} (these fit its tokenizer)"
    tokens = ", ".join(f'"{token}"' for token in control_tokens(_CHATML))
    none = "" if known is None else "; none of the named ones fits its tokenizer"
    return (
        f'[model] chat_template = "chatml" with add_tokens = [{tokens}], or another by name ({", ".join(names())}), or '
        f"a file that ends in .jinja{none}"
    )


def fitting(known: Collection[str], family: str) -> list[str]:
    """Names of templates whose control tokens a tokenizer has: those of the family first, at most six."""
    stem = family.rstrip("0123456789_.") or family
    order = sorted(names(), key=lambda name: (not name.startswith(family), not name.startswith(stem), name not in OURS))
    found: list[str] = []
    for name in order:
        text = text_of(name)
        if len(found) == _SHOWN or not any(token in text for token in known):  # rendering takes a tenth of a second
            continue
        with suppress(TemplateFaultError):  # a template that renders no simple conversation
            if (tokens := control_tokens(text)) and all(token in known for token in tokens):
                found.append(name)
    return found


def _quoted(some: Collection[str]) -> str:
    quoted = [f'"{name}"' for name in some]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


@cache
def _files() -> tuple[Path, ...]:
    spec = find_spec("trl")  # found without importing trl, which loads torch
    if spec is None or spec.origin is None:
        return ()
    return tuple(sorted((Path(spec.origin).parent / "chat_templates").glob("*.jinja")))
