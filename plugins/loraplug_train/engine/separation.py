"""Measures, on the model itself before training, whether packed documents attend to each other.

Most models separate documents that are packed into one row by their `position_ids`. Some build their masks or their
recurrent states without them, and one document then changes the loss of the next. Which they are changes with every
version of transformers and every installed kernel, so it is not looked up but measured: two short documents together
against the second alone, and against the same with another first document. How far rounding alone moves such a model is
measured too, by moving its embeddings by as much as they are rounded; mixtures of experts amplify it. So is what a leak
would do: the same two as one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from loraplug import IGNORED, TokenSequence
from loraplug_train.cpu import kernel
from loraplug_train.engine.batches import Way, piece
from loraplug_train.engine.reach import RAISED, told_in_words

_FIRST, _SECOND = 24, 16  # tokens; past convolutions, and past the windows of the smallest models
_FLOOR = {4: 1e-3, 2: 2e-2}  # nats, by bytes of the model's dtype: the most that different kernels differ by
_TIMES_NOISE = 4.0  # rounding happens in every layer, the measured noise in the first alone
_SLIGHT, _BLIND = (
    0.02,
    0.5,
)  # share of the effect of a preceding text on a document: below the first it is no leak, above the second undecided

Scores = Callable[[Mapping[str, Any]], Any]


@frozen
class Separation:
    """How documents can be computed together.

    Attributes:
        way: the first of these that leaves every document as it is alone: `end-to-end` in one row, `padded` rows with a
            mask, else `one-by-one`.
        largest: what the loss of a token changes by (mean, nats) where documents lie end to end; None if that raises.
        noise: what rounding alone changes it by (mean, nats).
        limit: tokens of documents that may be together, as beyond them the model computes in another way; None: any.
        reason: why they are not packed, for the user; empty if they are.
    """

    way: Way
    largest: float | None
    noise: float
    limit: int | None = None
    reason: str = ""

    def sentence(self) -> str:
        """What this means for the run, for the user."""
        limit = (
            ""
            if self.limit is None
            else f", up to {self.limit:,} tokens at once, as the model computes longer inputs differently"
        )
        if self.way == "end-to-end":
            return (
                f"documents are packed without padding and do not influence each other (measured: {self.largest:.0e} "
                f"nats){limit}"
            )
        instead = "rows are padded instead" if self.way == "padded" else "documents are computed one at a time instead"
        return f"documents are not packed: {self.reason}; {instead}{limit}"


def separation(model: Any, fast: bool = False) -> Separation:
    """Measure how documents may be computed together; some ten forward passes of 40 tokens.

    Args:
        model: a causal language model of transformers, or a `PeftModel` of one. It is left as it was.
        fast: whether it trains with the fast kernel, which must be installed then.

    Raises:
        InputError: it fails on a single document.
    """
    import torch

    limit = length_limit(model.config)
    scores = _fast_scores(model) if fast else _plain_scores(model)
    training = model.training
    model.train()  # several models compute otherwise in training
    try:
        with told_in_words(model), torch.no_grad(), torch.random.fork_rng(devices=_cuda(model)):
            torch.manual_seed(0)
            if not fast and _is_random(model, scores):
                model.eval()
            return _measure(model, scores, limit)
    finally:
        model.train(training)


def length_limit(config: Any) -> int | None:
    """The number of tokens from which on a model computes all of a row's tokens otherwise, by its config; None: never.

    Positions scaled by the length of the whole input (longrope, dynamic NTK) switch for every document beside a
    long one; attention in chunks and its temperature go by the place in the row, not in the document.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    found = [getattr(text, "attention_chunk_size", None)]
    if getattr(text, "attn_temperature_tuning", False):
        found.append(getattr(text, "floor_scale", None))
    for rope in _ropes(getattr(text, "rope_parameters", None)):
        if rope.get("rope_type") in ("longrope", "dynamic"):
            original = getattr(text, "original_max_position_embeddings", None)
            found.append(rope.get("original_max_position_embeddings") or original or most)
    limits = [int(one) for one in found if one]
    return min(limits, default=None)


def _ropes(parameters: Any) -> list[dict[str, Any]]:
    """The settings of rotary positions, which some models have for each kind of layer."""
    if not isinstance(parameters, dict):
        return []
    return [parameters] if "rope_type" in parameters else [one for one in parameters.values() if isinstance(one, dict)]


def _measure(model: Any, scores: Scores, limit: int | None) -> Separation:
    import torch

    first, other, second = _documents(model)
    alone = scores(_batch([second], "one-by-one", second))
    noise = 0.0
    for seed in range(2):
        with _moved_embeddings(model, seed):
            noise = max(noise, _apart(scores(_batch([second], "one-by-one", second)), alone))
    context = _apart(scores(_batch([torch.cat([first, second])], "one-by-one", second)), alone)
    floor = _FLOOR.get(torch.finfo(model.dtype).bits // 8, _FLOOR[4])
    wide = max(min(floor, _SLIGHT * context), _TIMES_NOISE * noise)

    def seen(way: Way) -> tuple[float | None, float | None, str]:
        """How much (nats) the first document, or a different first one, changes the second; or the error's text."""
        try:
            beside = scores(_batch([first, second], way, second))
            changed = scores(_batch([other, second], way, second))
        except RAISED as error:
            return None, None, " ".join(str(error).split())[:160] or type(error).__name__
        return _apart(beside, alone), _apart(changed, beside), ""

    padded, by_other, _ = seen("padded")
    rows_are_right = padded is not None and by_other is not None and padded <= wide and by_other <= wide
    narrow = max(0.1 * wide, _TIMES_NOISE * (by_other or 0.0) if rows_are_right else 0.0)
    instead: Way = "padded" if rows_are_right and wide < _BLIND * context else "one-by-one"
    largest, moved, raised = seen("end-to-end")
    if largest is None or moved is None:
        return Separation(instead, None, noise, limit, f"the model fails on packed rows ({raised})")
    if moved > narrow:
        why = f"with this model a document influences the next (measured: {moved:.2g} nats a token)"
    elif largest > wide:
        why = (
            f"a document's loss is different behind another document than alone (measured: {largest:.2g} nats a token)"
        )
    elif wide >= _BLIND * context:
        why = (
            f"rounding alone moves its losses by {noise:.2g} nats, so whether documents influence each other cannot be "
            "measured"
        )
    else:
        return Separation("end-to-end", max(largest, moved), noise, limit)
    return Separation(instead, max(largest, moved), noise, limit, why)


def _documents(model: Any) -> tuple[Any, Any, Any]:
    """Three documents of random ids, shape (tokens,); the first two are of one length."""
    import torch

    text = model.config.get_text_config()
    special = {getattr(text, name, None) for name in ("pad_token_id", "bos_token_id")}
    special |= set(text.eos_token_id) if isinstance(text.eos_token_id, list) else {text.eos_token_id}
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(text.vocab_size, (4 * (2 * _FIRST + _SECOND),), generator=drawn)
    plain = torch.tensor([one for one in ids.tolist() if one not in special])
    first, other, second = plain[: 2 * _FIRST + _SECOND].split([_FIRST, _FIRST, _SECOND])
    return first.to(model.device), other.to(model.device), second.to(model.device)


def _batch(documents: list[Any], way: Way, judged: Any) -> dict[str, Any]:
    """Documents as training would have them in a batch, with labels on the last tokens alone, as many as `judged`."""
    labels = [[IGNORED] * len(one) for one in documents]
    labels[-1][-len(judged) + 1 :] = judged.tolist()[1:]
    found = [TokenSequence(one.tolist(), own) for one, own in zip(documents, labels, strict=True)]
    made = piece(found, way, judged.device)
    return {**made.inputs, "labels": made.labels}


def _plain_scores(model: Any) -> Scores:
    """The loss in nats of each token with a label, by the model's own logits; float32 of shape (labels,)."""
    import torch

    def scores(batch: Mapping[str, Any]) -> Any:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        labels = batch["labels"][:, 1:]
        logits = model(**inputs, use_cache=False).logits[:, :-1][labels != -100]
        return torch.nn.functional.cross_entropy(logits.float(), labels[labels != -100], reduction="none")

    return scores


def _fast_scores(model: Any) -> Scores:
    """The loss in nats of each token with a label, by the fast kernel; float32 of shape (labels,)."""

    def scores(batch: Mapping[str, Any]) -> Any:
        return -kernel.log_probs(model, batch)

    return scores


def _is_random(model: Any, scores: Scores) -> bool:
    """Whether two identical calls differ much, as with dropout that the model's config turns on."""
    import torch

    document = _documents(model)[2]
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(scores(_batch([document], "one-by-one", document)))
    return _apart(*found) > _FLOOR[4]


def _apart(one: Any, other: Any) -> float:
    return float((one - other).abs().mean())


@contextmanager
def _moved_embeddings(model: Any, seed: int) -> Iterator[None]:
    """Context manager: perturb the embeddings by as much as the model's dtype rounds."""
    import torch

    drawn = torch.Generator().manual_seed(seed)

    def move(_: Any, __: Any, output: Any) -> Any:
        by = torch.randn(output.shape, generator=drawn).to(output.device) * torch.finfo(model.dtype).eps / 2
        return (output.float() * (1 + by)).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def _cuda(model: Any) -> list[Any]:
    return [model.device] if model.device.type == "cuda" else []
