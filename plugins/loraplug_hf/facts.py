"""What is known of a base without loading it, wherever it lies."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from loraplug import BaseFacts, InputError, LoraplugError, Problem
from loraplug_hf import places, remote
from loraplug_hf.folder_facts import read_folder, stamp, template_text
from loraplug_hf.gguf_facts import read_gguf

if TYPE_CHECKING:
    from loraplug_hf.loader import TransformersModel


def told(model: TransformersModel, *, ask: bool = False) -> tuple[BaseFacts | None, list[Problem]]:
    """What the files of a base tell, with the recipe's chat template, and what of them is missing or broken.

    Args:
        model: the loader.
        ask: whether the hub may be asked about a base that is not in its cache; what it said is kept.
    """
    try:
        facts, problems = _at(model, ask)
    except LoraplugError as error:
        return None, [Problem.of(error, "model.id")]
    if model.chat_template is None or facts is None:
        return facts, problems
    try:
        return attrs.evolve(facts, chat_template=template_text(model.chat_template)), problems
    except InputError as error:
        return facts, [*problems, Problem.of(error, "model.chat_template")]


def _at(model: TransformersModel, ask: bool) -> tuple[BaseFacts | None, list[Problem]]:
    if model.id.endswith(".gguf"):
        file = places.gguf_file(model.id)
        return _gguf(file, file.stat().st_size, file.stat().st_mtime_ns), []
    folder = Path(model.id)
    if not folder.is_absolute():
        return remote.facts(model.id, model.revision, ask=ask), []
    facts, problems = _folder(places.existing(folder), tuple(stamp(folder)))
    return facts, list(problems)


@lru_cache(maxsize=8)
def _gguf(file: Path, size: int, changed: int) -> BaseFacts:  # noqa: ARG001 - they tell whether it is the same file
    return read_gguf(file)


@lru_cache(maxsize=8)
def _folder(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[BaseFacts, tuple[Problem, ...]]:  # noqa: ARG001
    facts, problems = read_folder(folder)
    return facts, tuple(problems)
