"""Checks before the first step that rows, model and options fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loraplug import Encoded, InputError, Run
from loraplug_train.engine import rows
from loraplug_train.objectives.base import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraplug_train.trainer import EngineTrainer


def check_rows(
    objective: Objective,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
) -> tuple[list[int], list[int]]:
    """The tokens and the trained labels of each row.

    Raises:
        InputError: nothing is trained; a row is longer than the model takes, or holds a token that the model does not
            have; the objective refuses one.
    """
    dataset = encoded.dataset
    costs, labels = rows.check_rows(objective, dataset, "the training rows")
    if not any(labels):
        raise InputError("no token is trained", where="trainer", todo="see `loraplug preview` for the masks")
    idle = [dataset[at]["row"][0] for at, count in enumerate(labels) if not count]
    if idle:
        run.warn(f"{len(idle)} rows have no trained token, so nothing is learned from them: {', '.join(idle[:5])}")
    _check_ids(run, model, tokenizer, objective, encoded)
    return costs, labels


def check_batch(options: EngineTrainer, rows: int) -> None:
    """Raise InputError if a step would take more rows than there are, which is known before the model is loaded."""
    if options.tokens_per_step is None and options.batch_size > rows:
        found = f"there {'is' if rows == 1 else 'are'} only {rows} to train on"
        what = f"{options.batch_size} rows in one step, but {found}"
        raise InputError(what, where="trainer.batch_size", todo=f"use more rows, or set it to at most {rows}")


def check_held(objective: Objective, encoded: Encoded) -> None:
    """Raise InputError if the objective cannot evaluate a validation row."""
    rows.check_rows(objective, encoded.dataset, "the validation rows")


def check_router_loss(options: EngineTrainer, model: PreTrainedModel) -> None:
    """Raise InputError if router_loss is set and the model has no routers; else turn off the model's own router
    loss.
    """
    text = model.config.get_text_config()
    if options.router_loss and not hasattr(text, "output_router_logits"):
        what = f"{type(model).__name__} has no routers, so there is no router loss"
        raise InputError(what, where="trainer.router_loss", todo="leave it out")
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False


def _check_ids(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, objective: Objective, encoded: Encoded
) -> None:
    """Warn of tokens of the tokenizer without a row in the model's embedding; raise InputError if a row uses one.

    Text of rows is no control token, so the name of an added one in a row is trained letter by letter. Who added it
    meant a token: where the model was not resized for it, that is refused.
    """
    size = getattr(model.get_input_embeddings(), "num_embeddings", None) or model.config.get_text_config().vocab_size
    lacking = sorted(text for text, number in tokenizer.get_vocab().items() if number >= size)
    if lacking:
        run.warn(
            f"the tokenizer has {len(lacking)} tokens without a row in the model's embedding, such as {lacking[0]}: "
            "the model cannot answer a prompt that contains one"
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
            f"a row of {longest} tokens is longer than the {most} tokens the model supports",
            where=f"formatter.max_length, row {named}",
            todo=f"set formatter.max_length to at most {most}",
        )


def _check_sequence(ids: Any, name: str, size: int, added: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    if (largest := max(ids, default=0)) >= size:
        raise InputError(
            f"token {largest} of the tokenizer is outside the {size} rows of the model's embedding",
            where=name,
            todo="use the model's own tokenizer, or a model that was resized for these tokens",
        )
    text = tokenizer.decode(ids) if added else ""
    if found := next((token for token in added if token in text), None):
        raise InputError(
            f"{found} is a token of the tokenizer, but the model's embedding has no row for it, so it would be trained "
            "as plain text",
            where=name,
            todo="save the model after resize_token_embeddings(len(tokenizer)), or remove it from the tokenizer",
        )
