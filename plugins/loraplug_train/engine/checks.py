"""Rows, model and options held to each other before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loraplug import Encoded, InputError, Run
from loraplug_train.engine import rows
from loraplug_train.objectives.base import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraplug_train.trainer import EngineTrainer


def check_rows(
    options: EngineTrainer,
    objective: Objective,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
) -> tuple[list[int], list[int]]:
    """The tokens and the labels that count of each row.

    Raises:
        InputError: nothing is trained; more rows in a batch than there are; a row is longer than the model takes, or
            holds a token that the model does not have; the objective finds fault with one.
    """
    dataset = encoded.dataset
    costs, labels = rows.check_rows(objective, dataset, "the training rows")
    if not any(labels):
        raise InputError("no token is trained", where="trainer", todo="see `loraplug preview` for the masks")
    idle = [dataset[at]["row"][0] for at, count in enumerate(labels) if not count]
    if idle:
        run.warn(f"{len(idle)} rows have no trained token and teach nothing: {', '.join(idle[:5])}")
    if options.tokens_per_step is None and options.batch_size > len(dataset):
        raise InputError(
            f"{options.batch_size} is more than the {len(dataset)} training rows",
            where="trainer.batch_size",
            todo=f"set it to at most {len(dataset)}",
        )
    _check_ids(run, model, tokenizer, objective, encoded)
    return costs, labels


def check_held(objective: Objective, encoded: Encoded) -> None:
    """Hold validation rows to the objective's own word on rows."""
    rows.check_rows(objective, encoded.dataset, "the validation rows")


def check_router_loss(options: EngineTrainer, model: PreTrainedModel) -> None:
    """Raise InputError where a router loss is asked of a model that has no routers; else ask it for none by itself."""
    text = model.config.get_text_config()
    if options.router_loss and not hasattr(text, "output_router_logits"):
        what = f"{type(model).__name__} gives no router logits to balance"
        raise InputError(what, where="trainer.router_loss", todo="leave it out")
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False


def _check_ids(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, objective: Objective, encoded: Encoded
) -> None:
    """Warn if the tokenizer knows a token that the model has no vector for; raise InputError if a row is of its kind.

    Text of rows is no control token, so the name of an added one in a row is trained letter by letter. Who added it
    meant a token: where the model was not resized for it, that is refused.
    """
    size = getattr(model.get_input_embeddings(), "num_embeddings", None) or model.config.get_text_config().vocab_size
    lacking = sorted(text for text, number in tokenizer.get_vocab().items() if number >= size)
    if lacking:
        run.warn(
            f"the tokenizer knows {len(lacking)} tokens that the model has no vector for, such as {lacking[0]}: "
            "a prompt that holds one cannot be answered"
        )
    added = [token.content for number, token in tokenizer.added_tokens_decoder.items() if number >= size]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    longest, named = 0, ""
    for row in rows.StepRows(encoded.dataset):
        for one in objective.sequences(row):
            _check_sequence(one.input_ids, row["row"][0], size, added, tokenizer)
            if len(one.input_ids) > longest:
                longest, named = len(one.input_ids), row["row"][0]
    if 0 < most < longest:
        raise InputError(
            f"a row of {longest} tokens is longer than the {most} the model takes",
            where=f"formatter.max_length, row {named}",
            todo=f"set formatter.max_length to at most {most}",
        )


def _check_sequence(ids: Any, name: str, size: int, added: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    if (largest := max(ids, default=0)) >= size:
        raise InputError(
            f"token {largest} of the tokenizer is none of the {size} that the model has vectors for",
            where=name,
            todo="take a tokenizer that belongs to the model, or a model that was resized for its tokens",
        )
    text = tokenizer.decode(ids) if added else ""
    if found := next((token for token in added if token in text), None):
        raise InputError(
            f"{found} is a token of the tokenizer that the model has no vector for, so it would be trained as text",
            where=name,
            todo="save the model after resize_token_embeddings(len(tokenizer)), or take it out of the tokenizer",
        )
