"""What is known of a base without loading it, wherever it lies."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from loraplug import BaseFacts, InputError, Problem
from loraplug_hf import places
from loraplug_hf.folder_facts import read_folder, stamp, template_text
from loraplug_hf.gguf_facts import read_gguf

if TYPE_CHECKING:
    from loraplug_hf.loader import TransformersModel


def told(model: TransformersModel) -> tuple[BaseFacts | None, list[Problem]]:
    """What the files of a base tell, with the recipe's chat template, and what of them is missing or broken."""
    try:
        facts, problems = _at(model)
    except InputError as error:
        return None, [_problem(error)]
    if model.chat_template is None or facts is None:
        return facts, problems
    try:
        return attrs.evolve(facts, chat_template=template_text(model.chat_template)), problems
    except InputError as error:
        return facts, [*problems, _problem(error, "model.chat_template")]


def _at(model: TransformersModel) -> tuple[BaseFacts | None, list[Problem]]:
    if model.id.endswith(".gguf"):
        file = places.gguf_file(model.id)
        return _gguf(file, file.stat().st_size, file.stat().st_mtime_ns), []
    folder = Path(model.id)
    if not folder.is_absolute():
        return None, []
    facts, problems = _folder(places.checked_folder(folder), tuple(stamp(folder)))
    return facts, list(problems)


@lru_cache(maxsize=8)
def _gguf(file: Path, size: int, changed: int) -> BaseFacts:  # noqa: ARG001 - they tell whether it is the same file
    return read_gguf(file)


@lru_cache(maxsize=8)
def _folder(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[BaseFacts, tuple[Problem, ...]]:  # noqa: ARG001
    facts, problems = read_folder(folder)
    return facts, tuple(problems)


def _problem(error: InputError, key: str = "model.id") -> Problem:
    where = str(error.where).removeprefix(f"{key} ")
    return Problem(key, f"{where}: {error.what}" + (f"; {error.todo}" if error.todo else ""))
