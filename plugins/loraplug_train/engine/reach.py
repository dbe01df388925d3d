"""Which linear layers a text reaches: on one without a call or a gradient an adapter would stay as it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import Factory, frozen

from loraplug import InputError

_TOKENS = 8
_AHEAD = 0.01  # of the logits' size; rounding moves few tokens, and those less
RAISED = (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError, AssertionError, AttributeError,
          IndexError, KeyError)  # fmt: skip
"""What models raise on rows, or on a number format, that they cannot compute."""
PAST = "layers whose weight is read past them, or not at all, so that no gradient would reach an adapter"
TUPLES = "layers that give more than a tensor"
OTHER = "layers that compute something else of their input than a linear layer (by groups, say)"


@frozen
class Reach:
    """Linear layers that an adapter would do nothing on, or break: name to why."""

    without: dict[str, str] = Factory(dict)


def reach(model: Any, layers: list[str]) -> Reach:
    """Try the layers of a base model without adapters, by a forward and backward pass over 8 tokens.

    A layer inside experts is not judged: few tokens reach few of them. Where no gradient can be computed, those layers
    alone are found that are not called.

    Args:
        layers: names of its linear layers.

    Raises:
        InputError: the model fails on a row of tokens, or its tokens see those after them.
    """
    import torch

    outputs: dict[str, Any] = {}
    other: set[str] = set()
    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(_keep(outputs, other, name)) for name in layers]
    handles.append(model.get_input_embeddings().register_forward_hook(_traced))
    frozen_now = [one for one in model.parameters() if one.requires_grad]
    for parameter in frozen_now:
        parameter.requires_grad_(False)
    training, backward = model.training, True
    model.train()
    try:
        with told_in_words(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ids = torch.randint(3, model.config.get_text_config().vocab_size, (1, _TOKENS), device=model.device)
            logits = _logits(model, ids)
            try:
                logits.logsumexp(-1).sum().backward()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                backward = False
            for handle in handles:  # they are to keep what the first pass gave
                handle.remove()
            ahead = _sees_ahead(model, ids, logits.detach())
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen_now:
            parameter.requires_grad_(True)
        model.train(training)
    if ahead:
        what = f"with this {type(model).__name__} tokens see those after them, so that training would teach to copy"
        todo = "take a causal language model; one of BERT's kind is one with is_decoder = true in config.json"
        raise InputError(what, where="model.id", todo=todo)
    without = {}
    for name in layers:
        output = outputs.get(name)
        if isinstance(output, (tuple, list)):
            without[name] = TUPLES
        elif name in other:
            without[name] = OTHER
        elif "expert" not in name and (output is None or (backward and output.grad is None)):
            without[name] = PAST
    return Reach(without)


def _logits(model: Any, ids: Any) -> Any:
    """Logits in float32, of shape (1, tokens, vocabulary); dropout is the same at each call."""
    import torch

    torch.manual_seed(0)
    return model(input_ids=ids, use_cache=False).logits.float()


def _sees_ahead(model: Any, ids: Any, logits: Any) -> bool:
    """Whether another last token moves the logits of most tokens before it."""
    import torch

    other = ids.clone()
    other[0, -1] = 3 + (ids[0, -1] - 2) % (
        model.config.get_text_config().vocab_size - 3
    )  # the next one but special ones
    with torch.no_grad():
        moved = (_logits(model, other) - logits)[0, :-1].norm(dim=-1)
    return bool((moved / logits[0, :-1].norm(dim=-1)).median() > _AHEAD)


@contextmanager
def told_in_words(model: Any) -> Iterator[None]:
    """While this is open, what a model raises on a row becomes an InputError; but for a lack of memory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RAISED as error:
        kind = type(model.get_base_model() if hasattr(model, "peft_config") else model).__name__
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        number = str(model.dtype).removeprefix("torch.")
        todo = 'try model.dtype = "float32", another version of transformers, or another base'
        raise InputError(f"a {kind} in {number} fails on a row of tokens ({text})", where="model", todo=todo) from error


def _traced(_: Any, __: Any, output: Any) -> Any:
    return output.detach().requires_grad_().clone()  # no leaf, which a model could not change in place


def _keep(outputs: dict[str, Any], other: set[str], name: str) -> Any:
    def keep(module: Any, given: tuple[Any, ...], output: Any) -> None:
        outputs[name] = output
        if hasattr(module, "out_features") and given:
            taken, made = (*given[0].shape[:-1], module.in_features), (*given[0].shape[:-1], module.out_features)
            if given[0].shape != taken or getattr(output, "shape", None) != made:
                other.add(name)
        if getattr(output, "requires_grad", False):
            output.retain_grad()

    return keep
