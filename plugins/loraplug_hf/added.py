"""Adds a recipe's `model.add_tokens` to tokenizer, embedding and output layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Problem, Run, mark_new_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHERE = "model.add_tokens"
SPREAD = 0.01
"""Noise of a new row, relative to the standard deviation of the existing rows."""
_CHUNK = 8192  # rows of an embedding that are converted to float64 at once


def problems(tokens: Sequence[str]) -> Iterator[Problem]:
    """Problems of the option `add_tokens` by itself."""
    for token in dict.fromkeys(tokens):
        if not token.strip():
            yield Problem(WHERE, f"{token!r} is blank")
        if tokens.count(token) > 1:
            yield Problem(WHERE, f'"{token}" is listed {tokens.count(token)} times')


def add_to(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Make special tokens of the texts, in place; tokens that exist already keep their ids."""
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)


def add_rows(
    model: PreTrainedModel, plain: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str],
    run: Run,
) -> None:  # fmt: skip
    """Add rows for the tokens to the model, in place, and mark them to be trained.

    A new row is the mean of the rows that the tokenizer uses plus noise with their covariance, seeded by the run.
    Tokens that existed before keep their rows, which are trained too.

    Args:
        plain: the base's original tokenizer.
        tokenizer: the tokenizer with the added tokens.

    Raises:
        InputError: the embedding is quantized, or has no rows per token.
    """
    import torch

    ends = _ends(model)
    had, before = plain.get_vocab(), ends[0].weight.shape[0]
    numbers: dict[str, int] = dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
    most = max(before, 1 + max(numbers.values()))
    known = sorted(number for number in had.values() if number < before)
    made = sorted({number for token, number in numbers.items() if token not in had} | set(range(before, most)))
    with torch.random.fork_rng(devices=[]):  # keep the random state of the training unchanged
        if most > before:
            model.resize_token_embeddings(most, mean_resizing=False)
        ends = _ends(model)
        for at, end in enumerate(ends):
            _begin(end, known, made, run.seed + at)
    mark_new_tokens(model, sorted({*made, *numbers.values()}))
    _tell(run, [token for token in tokens if token in had], len(numbers), before, most)


def _tell(run: Run, there: Sequence[str], count: int, before: int, after: int) -> None:
    grown = (
        f"the vocabulary grows from {before:,} to {after:,} rows"
        if after > before
        else "using spare rows of the embedding"
    )
    new = count - len(there)
    run.say(
        f"model: {new} new tokens ({grown}), initialised at the mean of the others" if new else "model: no new tokens"
    )
    if there:
        run.say(
            f"model: {', '.join(there)} exist in the vocabulary already: they keep their rows, which are trained too"
        )


def _ends(model: PreTrainedModel) -> list[Any]:
    """The embedding, and the output layer if it is not tied.

    Raises:
        InputError: a row cannot be added to one of them.
    """
    import torch

    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    ends = [embedding]
    if output is not None and output.weight is not embedding.weight:
        ends.append(output)
    for end, kind in zip(ends, (torch.nn.Embedding, torch.nn.Linear), strict=False):
        if not isinstance(end, kind) or not end.weight.is_floating_point():
            what = f"the {'embedding' if end is embedding else 'output layer'} is a quantised {type(end).__name__}"
            raise InputError(f"{what}, so no rows can be added", where=WHERE, todo="remove [quantizer]")
    if getattr(output, "bias", None) is not None:
        what = "the output layer has a bias, which peft ignores when single tokens are trained"
        raise InputError(what, where=WHERE, todo="use a base whose output layer has no bias")
    return ends


def _begin(end: Any, known: Sequence[int], made: Sequence[int], seed: int) -> None:
    """Initialise the rows `made`: the mean of the rows `known` plus a random mixture of their deviations."""
    import torch

    if not made:
        return
    weight = end.weight
    some = torch.tensor(known, device=weight.device)
    mean = sum(_rows(weight, part).sum(0) for part in some.split(_CHUNK)) / len(known)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.zeros(len(made), weight.shape[1], dtype=torch.float64)
    for part in some.split(_CHUNK):  # independent normal factors times deviations have the rows' covariance
        factors = torch.randn(len(made), len(part), generator=draw, dtype=torch.float64)
        noise += factors @ (_rows(weight, part) - mean)
    values = (mean + SPREAD / len(known) ** 0.5 * noise).to(weight)
    fresh = weight.data.clone()  # do not write into memory-mapped files
    fresh[torch.tensor(made, device=weight.device)] = values
    weight.data = fresh


def _rows(weight: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
    return weight.data[some].double().cpu()
