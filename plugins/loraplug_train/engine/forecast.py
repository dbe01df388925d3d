"""Estimates memory and time of training, from one forward pass and two short steps of the model itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any

from loraplug import Estimate, adapted_share, mixed_precision, quantised_share
from loraplug_train.adapters.attached import attached
from loraplug_train.cpu import kernel
from loraplug_train.engine.memory import forget_peak, free_memory, peak_memory, resident_memory, total_memory
from loraplug_train.engine.separation import separation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_train.trainer import EngineTrainer

_PROBE_TOKENS = 256
# peak memory of a training step over what autograd saves: measured on CPUs, where the heap is never compacted
_ALLOCATOR = 2.0
_LOSS_CHUNK = 256  # positions whose logits trl's fused head holds at once


def forecast(options: EngineTrainer, model: PreTrainedModel, lengths: Sequence[int], epochs: float) -> Estimate:
    """Bytes and seconds to train on rows of these lengths (tokens), one row at a time, every token trained.

    Activations are measured, not computed by a formula: the tensors that autograd saves in one forward pass are counted
    (each storage once, parameters apart) at two lengths, and extrapolated to the longest row: a part grows with the
    length, another (attention, where it is computed in full) with its square. Where there is room, one step on a row of
    that length shows what the allocator and temporaries add. Time is extrapolated from a forward and backward pass on a
    row of medium length. Attaches adapters to the model.
    """
    import torch

    loading = int(peak_memory())
    forget_peak()
    import_module("loraplug_train.engine.engine")  # trl and its imports are in memory when training begins
    for parameter in model.parameters():  # mapped files count as memory once they are read
        parameter.detach().max()
    program = max(0.0, resident_memory() - _bytes(model.parameters()))
    dtype = model.dtype
    notes = {}
    if getattr(model, "quantization_method", None) is not None:
        notes["quantised"] = quantised_share(model).sentence()
    adapted, left_out = attached(options, model)
    notes["adapters"] = adapted_share(adapted, left_out).sentence()
    fast = options.kernel == "auto" and kernel.install(adapted)[0]
    notes["documents"] = separation(adapted, fast).sentence()
    mixed_precision(adapted, dtype)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    weights = _bytes(parameter for parameter in adapted.parameters() if not parameter.requires_grad)
    weights += _bytes(adapted.buffers())
    longest, usual = _at_once(options, lengths, fast), sorted(lengths)[len(lengths) // 2]
    checkpointing = options.gradient_checkpointing
    if needs_checkpointing(adapted, longest, fast) if checkpointing == "auto" else checkpointing:
        adapted.activation_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    logits = 3 * min(longest, _LOSS_CHUNK) * model.config.get_text_config().vocab_size * 4
    parts = {
        "weights": weights,
        "adapters, gradients, optimizer": 4 * _bytes(trained),
        "activations of the longest row": _activations(adapted, longest, fast),
        "logits": logits,
    }
    if not torch.cuda.is_available():
        parts["libraries"] = int(program)
    total = sum(parts.values())
    seconds_a_token = _seconds(adapted, min(usual, 2 * _PROBE_TOKENS), fast)
    if 2 * total < total_memory():  # enough memory is free to measure what allocator and temporaries add
        _step(adapted, longest, fast)
        parts["allocator, temporaries"] = max(0, int(peak_memory()) + 2 * _bytes(trained) - total)
    return Estimate(sum(parts.values()), seconds_a_token * sum(lengths) * epochs, parts, loading, notes)


def _at_once(options: EngineTrainer, lengths: Sequence[int], fast: bool) -> int:
    """The most tokens computed at once: of the longest row, or of several short ones in a micro-batch."""
    ordered = sorted(lengths, reverse=True)
    if options.micro_batch != "auto":
        return sum(ordered[: options.micro_batch])
    step = options.tokens_per_step or sum(ordered[: options.batch_size])
    return max(ordered[0], min(step, kernel.MICRO_TOKENS if fast else 0))


def needs_checkpointing(adapted: Any, longest: int, fast: bool) -> bool:
    """Whether the activations of a row of so many tokens may not fit into free memory. Measured only where a generous
    bound (sixteen times the widest layer's output, each layer, fp32) is not far below.
    """
    config = adapted.config.get_text_config()
    widest = max(config.hidden_size, _largest(getattr(config, "intermediate_size", None)) or 4 * config.hidden_size)
    free = free_memory()
    if 16 * 4 * longest * config.num_hidden_layers * widest < free:
        return False
    return _ALLOCATOR * _activations(adapted, longest, fast) > free


def _largest(value: Any) -> int:
    """The largest value of a config's size, which may be one number or one for each layer; 0 if there is none."""
    return int(max(value, default=0) if isinstance(value, (list, tuple)) else value or 0)


def _activations(adapted: Any, longest: int, fast: bool) -> int:
    """Bytes that autograd saves for one row of so many tokens."""
    was_training = adapted.training
    adapted.train()
    short, long = min(longest, _PROBE_TOKENS // 2), min(longest, _PROBE_TOKENS)
    small, large = _kept_bytes(adapted, short, fast) / short, _kept_bytes(adapted, long, fast) / long
    adapted.train(was_training)
    growth = max(0.0, large - small) / max(1, long - short)  # bytes a token, for each further token of the row
    return int(longest * (large + growth * (longest - long)))


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _loss(model: Any, tokens: int, fast: bool) -> Any:
    """A loss on a row of random ids; on the plain path of the last hidden state, as trl computes logits in chunks."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, tokens), device=model.device)
    if fast:
        return kernel.label_loss(model, {"input_ids": ids, "labels": ids})
    return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.float().logsumexp(-1).sum()


def _kept_bytes(model: Any, tokens: int, fast: bool) -> int:
    """Bytes that autograd saves in one forward pass for the backward pass."""
    import torch

    parameters = {held.untyped_storage().data_ptr() for held in chain(model.parameters(), model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = _loss(model, tokens, fast)  # keep a reference until counted, or a storage's address may be reused
        total = sum(kept.values())
    del out
    return total


def _step(model: Any, tokens: int, fast: bool) -> None:
    _loss(model, tokens, fast).backward()
    model.zero_grad(set_to_none=True)


def _seconds(model: Any, tokens: int, fast: bool) -> float:
    """Seconds per token of one forward and backward pass, after a warm-up pass."""
    _step(model, tokens, fast)
    begun = time.perf_counter()
    _step(model, tokens, fast)
    return (time.perf_counter() - begun) / tokens
