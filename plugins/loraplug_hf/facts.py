"""Facts of a base model without loading it, for any kind of `model.id`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from loraplug import BaseFacts, InputError, LoraplugError, Problem, TemplateFaultError
from loraplug_hf import places, remote, templates
from loraplug_hf.folder_facts import read_folder, stamp
from loraplug_hf.gguf_facts import read_gguf

if TYPE_CHECKING:
    from loraplug_hf.loader import TransformersModel

_TEXTS = ("text_config", "llm_config", "language_config", "thinker_config")
_ENDS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "lm_head.weight",
         "embed_out.weight", "token_embd.weight", "output.weight")  # fmt: skip


def told(model: TransformersModel, *, ask: bool = False) -> tuple[BaseFacts | None, list[Problem]]:
    """The facts of a base's files, with the recipe's chat template, and problems: missing or damaged files.

    Args:
        model: the loader.
        ask: whether the hub may be asked about a base that is not in its cache; its answer is cached.
    """
    try:
        facts, problems = _at(model, ask)
    except LoraplugError as error:
        return None, [Problem.of(error, "model.id")]
    if facts is None:
        return None, problems
    if model.add_tokens:
        facts = _grown(facts, model.add_tokens)
    problems = list(problems)
    if model.chat_template is not None:
        try:
            facts = attrs.evolve(facts, chat_template=templates.text_of(str(model.chat_template)))
            problems += _unfit(model, facts)
        except InputError as error:
            problems.append(Problem.of(error, templates.WHERE))
        except TemplateFaultError as fault:
            problems.append(Problem(templates.WHERE, str(fault)))
    elif facts.chat_template is None:
        family = str(facts.config.get("model_type", ""))
        facts = attrs.evolve(facts, template_advice=templates.advice(facts.added_tokens, family))
    return facts, problems


def _unfit(model: TransformersModel, facts: BaseFacts) -> Iterator[Problem]:
    """Control tokens of a named template that are not single tokens of the tokenizer."""
    name = str(model.chat_template)
    known = facts.added_tokens
    if known is not None and templates.is_name(name) and (lacking := templates.lacking(name, known)):
        yield Problem(templates.WHERE, templates.lacking_text(name, lacking, model.add_tokens))


def _grown(facts: BaseFacts, tokens: Sequence[str]) -> BaseFacts:
    """The facts with the added tokens in vocabulary, embedding and output layer."""
    new = [token for token in tokens if token not in (facts.added_tokens or ())]
    text = next((facts.config[key] for key in _TEXTS if isinstance(facts.config.get(key), dict)), facts.config)
    rows = text.get("vocab_size")
    had = facts.vocabulary if facts.vocabulary is not None else rows
    if not isinstance(rows, int) or had is None:
        return attrs.evolve(facts, added_tokens=(facts.added_tokens or frozenset()) | {*tokens})
    most = max(rows, had + len(new))
    config = {**facts.config, "vocab_size": most}
    config |= {key: {**facts.config[key], "vocab_size": most} for key in _TEXTS if facts.config.get(key) is text}
    weights = {
        name: (kind, (most, *shape[1:]) if len(shape) == 2 and shape[0] == rows and name.endswith(_ENDS) else shape)
        for name, (kind, shape) in facts.weights.items()
    }
    return attrs.evolve(
        facts,
        config=config,
        weights=weights,
        vocabulary=had + len(new),
        added_tokens=None if facts.added_tokens is None else facts.added_tokens | {*tokens},
    )


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
