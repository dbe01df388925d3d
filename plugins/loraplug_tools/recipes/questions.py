"""What `recipe init` is made of: what the command line says, what a file of rows tells, and what is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve, frozen

from loraplug import InputError
from loraplug_tools.recipes.starters import Choices, default_model, quantized

if TYPE_CHECKING:
    from loraplug import Registry

_KINDS = {
    "chat": "conversations, or instructions and answers",
    "text": "plain texts, every token trained",
    "swe": "bug reports with repositories and patches",
}


@frozen
class Given:
    """What the command line said; see the options of `recipe init`."""

    purpose: str | None
    data: Path | None
    renames: tuple[str, ...]
    model: str | None
    output: str


def choices(given: Given, registry: Registry, ask: bool) -> Choices:
    """Put together what a starter is made of; questions are asked on stderr, and only where a person sits at stdin.

    Raises:
        InputError: neither purpose nor data are known, they contradict each other, or the data cannot be used.
    """
    ask = ask and sys.stdin.isatty()
    rename = _pairs(given.renames)
    if given.purpose is None and given.data is None:
        if not ask:
            todo = "--data FILE fits the recipe to your rows; --for chat, text or swe makes one to fill in"
            raise InputError("needs to know the kind of rows", where="recipe init", todo=todo)
        if answered := _asked("File with your rows (none: fill it in later)", ""):
            given = evolve(given, data=Path(answered).expanduser())
    found = None
    if given.data is not None:
        from loraplug_tools.recipes.proposal import propose

        found = propose(given.data, rename, registry)
        if given.purpose == "text" and found.shape == "prompt-completion":  # which both formatters take
            found = evolve(found, purpose="text")
        if given.purpose not in (None, found.purpose):
            what = f"holds rows for {found.purpose} (shape {found.shape}), not for {given.purpose}"
            raise InputError(what, where=given.data, todo="leave out --for")
    elif rename:
        raise InputError("needs --data", where="--rename", todo="name the file whose columns are to be renamed")
    purpose = found.purpose if found else given.purpose or _asked_purpose()
    made = Choices(purpose, given.output, model=given.model, quantize=quantized(purpose), proposal=found)
    if not ask:
        return made
    model = given.model or _asked("Model: owner/name on the hub, a folder or a .gguf file", default_model(purpose))
    quantize = click.confirm("Load the base in 4 bits, to save memory?", default=quantized(purpose), err=True)
    return evolve(made, model=model, quantize=quantize, name=_asked("Name of the run", f"my-{purpose}"))


def _pairs(renames: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for said in renames:
        old, equals, new = said.partition("=")
        if not (old and equals and new):
            raise InputError(f"is not OLD=NEW: {said}", where="--rename", todo="write --rename question=instruction")
        pairs[old] = new
    return pairs


def _asked(question: str, default: str) -> str:
    answer: Any = click.prompt(question, default=default, show_default=bool(default), err=True)
    return str(answer).strip()


def _asked_purpose() -> str:
    told = "; ".join(f"{name}: {what}" for name, what in _KINDS.items())
    answer: Any = click.prompt(
        f"What kind of rows? ({told})", default="chat", type=click.Choice([*_KINDS]), err=True, show_choices=False
    )
    return str(answer)
