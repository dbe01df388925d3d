"""Finds linear layers that a text does not reach: without a call or a gradient, an adapter there is never trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import Factory, frozen

from loraplug import InputError

_TOKENS = 8
_AHEAD = 0.01  # relative to the logits; rounding changes few tokens, and by less
_AHEAD_GRADIENT = 1e-3  # relative to the largest gradient of a token; that of a later token is 0 in a causal model
RAISED = (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError, AssertionError, AttributeError,
          IndexError, KeyError)  # fmt: skip
"""What models raise on rows or dtypes that they cannot compute."""
PAST = "layers that the model does not call, so that an adapter would get no gradient"
TUPLES = "layers that return more than one tensor"
OTHER = "layers that compute something else of their input than a linear layer (by groups, say)"


@frozen
class Reach:
    """Linear layers on which an adapter would have no effect or fail: name to reason."""

    without: dict[str, str] = Factory(dict)


def reach(model: Any, layers: list[str]) -> Reach:
    """Test the layers of a base model without adapters, by a forward and backward pass over 8 tokens.

    A layer inside experts is not judged: few tokens reach few of them. Where no gradient can be computed, those layers
    alone are found that are not called.

    Args:
        layers: names of its linear layers.

    Raises:
        InputError: the model fails on a row of tokens, or tokens attend to later ones (it is not causal).
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
            for handle in handles:  # restore the state of the first pass
                handle.remove()
            ahead = _ahead_by_gradient(model, ids) if backward else None
            if ahead is None:
                ahead = _ahead_by_change(model, ids, logits.detach())
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen_now:
            parameter.requires_grad_(True)
        model.train(training)
    if ahead:
        what = (
            f"with this {type(model).__name__} tokens attend to later ones (it is not causal), so training would only "
            "teach it to copy"
        )
        todo = "use a causal language model; an encoder such as BERT becomes one with is_decoder = true in config.json"
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


def _ahead_by_gradient(model: Any, ids: Any) -> bool | None:
    """Whether the logits of earlier tokens have a gradient at the last one; None if there is no finite gradient.

    Unlike the logits, it is not affected by rounding, which in 16 bits may send tokens to other experts.
    """
    import torch

    embedded: list[Any] = []
    handle = model.get_input_embeddings().register_forward_hook(_traced)
    keeping = model.get_input_embeddings().register_forward_hook(lambda _, __, output: embedded.append(output))
    try:
        logits = _logits(model, ids)
        embedded[0].retain_grad()
        logits[0, :-1].logsumexp(-1).sum().backward()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    finally:
        handle.remove()
        keeping.remove()
    if embedded[0].grad is None or embedded[0].grad.shape[:2] != ids.shape:
        return None
    sizes = embedded[0].grad[0].float().norm(dim=-1)
    if not sizes.isfinite().all() or not sizes.max() > 0:
        return None
    return bool(sizes[-1] > _AHEAD_GRADIENT * sizes.max())


def _ahead_by_change(model: Any, ids: Any, logits: Any) -> bool:
    """Whether changing the last token changes the logits of most earlier tokens."""
    import torch

    other = ids.clone()
    size = model.config.get_text_config().vocab_size
    other[0, -1] = 3 + (ids[0, -1] - 2) % (size - 3)  # the next token that is not special
    with torch.no_grad():
        moved = (_logits(model, other) - logits)[0, :-1].norm(dim=-1)
    return bool((moved / logits[0, :-1].norm(dim=-1)).median() > _AHEAD)


@contextmanager
def told_in_words(model: Any) -> Iterator[None]:
    """Context manager: errors that a model raises on a row become InputError, except running out of memory."""
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
        raise InputError(f"a {kind} in {number} fails on input tokens ({text})", where="model", todo=todo) from error


def _traced(_: Any, __: Any, output: Any) -> Any:
    return output.detach().requires_grad_().clone()  # not a leaf tensor, so that the model may change it in place


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
