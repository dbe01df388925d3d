"""Variables of a chat template: which it reads, and a template that has values for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loraplug import InputError
from loraplug_chat.compat import compiled

GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})


def give_options(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Write values for variables of the chat template into it, unless a caller gives others.

    The tokenizer is changed, so that whoever makes a prompt with it, now or as saved with an adapter, makes the prompt
    that was trained.

    Raises:
        InputError: the template reads no such variable; names those that it reads.
    """
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        return  # which the formatter refuses
    read = variables(source) - GIVEN - set(tokenizer.special_tokens_map)
    if unknown := sorted(set(options) - read):
        known = f"it has {', '.join(sorted(read))}" if read else "it has none"
        what = f"the chat template has no variable {' or '.join(map(repr, unknown))}"
        raise InputError(what, where="formatter.template_options", todo=known)
    lines = "".join(
        f"{{%- if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}\n"
        for name, value in sorted(options.items())
    )
    if source.startswith(lines):
        return
    named = tokenizer.chat_template
    tokenizer.chat_template = {**named, "default": lines + source} if isinstance(named, dict) else lines + source


def variables(source: str) -> set[str]:
    """The variables that a template takes from outside.

    Those it never sets itself, or asks whether they are defined, or has a default for.
    """
    from jinja2 import meta, nodes

    environment = compiled(source).environment
    tree = environment.parse(source)
    found = meta.find_undeclared_variables(tree) - set(environment.globals)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    asked = [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    asked += [made.node for made in tree.find_all(nodes.Filter) if made.name in ("default", "d")]
    return {name for name in found if name not in own} | found & {
        node.name for node in asked if isinstance(node, nodes.Name)
    }


def _literal(value: Any) -> str:
    """The value as a template writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
