"""Which words in a row say how much of it is to be trained, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loraplug.config.errors import InputError

WEIGHT_KEYS = frozenset({"weight", "loss_weight"})  # may be fractions
SWITCH_KEYS = frozenset({"train", "training", "loss"})  # on or off
MASK_KEYS = WEIGHT_KEYS | SWITCH_KEYS
UNHEEDED = frozenset(
    {
        "mask", "masked", "masks", "is_masked", "loss_mask", "loss_masks", "train_mask", "label_mask",
        "completion_mask", "assistant_mask", "assistant_masks", "train_on", "train_on_turn", "trainable",
        "is_trainable", "trained", "untrained", "train_detail", "train_details", "training_detail", "weights",
        "token_weights", "loss_weights", "ignore_loss", "no_loss", "skip_loss", "no_train", "do_not_train",
    }
)  # fmt: skip
_MOST = 1e6
_WORDS = {"true": 1.0, "false": 0.0}


def weight_of(table: Mapping[str, Any]) -> float:
    """The factor by which the loss of a message's tokens is multiplied; 1 where it says nothing.

    Raises:
        InputError: a value is no weight, two keys contradict, or a key asks for a mask that cannot be had.
    """
    found = []
    for key, value in table.items():
        if (name := key.lower()) in MASK_KEYS and value is not None:
            found.append((key, name, _weight(key, value)))
        elif name in UNHEEDED and value not in (None, [], ""):
            raise InputError(f'"{key}" asks for a mask that is not supported; use weight = 0 on a message')
    if not found:
        return 1.0
    weights = {weight for _, _, weight in found}
    if len(weights) > 1:  # `train: true` beside a fraction says the same
        weights -= {1.0 for _, name, weight in found if name in SWITCH_KEYS and weight == 1 and 0.0 not in weights}
    if len(weights) != 1:
        said = " and ".join(f"{key} = {str(table[key])[:20]}" for key, _, _ in found)
        raise InputError(f"a message says {said}, which contradict")
    return weights.pop()


def no_mask(table: Mapping[str, Any], whose: str) -> None:
    """Raise InputError if a part of a message has a mask key of its own."""
    for key, value in table.items():
        if key.lower() in MASK_KEYS | UNHEEDED and value is not None:
            raise InputError(f'{whose} has "{key}", which is supported for whole messages only')


def row_mask(row: Mapping[str, Any], key: str) -> None:
    """Raise InputError unless a mask key on a row, not on a message, says to train it all."""
    if row[key] is None:
        return
    if key.lower() not in UNHEEDED and _weight(key, row[key]) == 1:
        return
    raise InputError(
        f'"{key}" on the whole row asks for a mask or weight, which is supported for messages only',
        todo=f'put weight on the messages, remove such rows, or [dataset] rename = {{ {key} = "their_{key}" }}',
    )


def _weight(key: str, value: Any) -> float:
    given = _WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value
    try:
        weight = float(given) if isinstance(given, bool | int | float | str) else math.nan
    except (ValueError, OverflowError):
        weight = math.nan
    if not 0 <= weight <= _MOST:
        raise InputError(
            f"{key} = {str(value)[:20]!r} is not a weight: it must be a number of at least 0, true or false"
        )
    if key.lower() in SWITCH_KEYS and weight not in (0, 1):
        raise InputError(f"{key} = {str(value)[:20]!r} is neither true nor false; write fractions as weight")
    return weight
