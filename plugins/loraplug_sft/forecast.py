"""What a training will need, from one forward pass and two short steps of the very model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from loraplug import Estimate
from loraplug_sft.lora import Lora
from loraplug_sft.measure import free_memory, peak_memory, resident_memory, total_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_TOKENS = 256
_ALLOCATOR = 2.0  # a training's peak over what autograd keeps: measured on CPUs, where the heap is never compacted
_LOSS_CHUNK = 256  # positions that trl's fused head holds logits of at once


def forecast(
    model: PreTrainedModel, lora: Lora, lengths: Sequence[int], epochs: float, checkpointing: bool | Literal["auto"]
) -> Estimate:
    """Bytes and seconds of training on rows of these lengths (tokens), one row at a time.

    Activations are not guessed from a formula for one architecture: the tensors that autograd keeps of one forward
    pass are counted (each storage once, parameters apart) at two lengths, and carried on to the longest row: a part
    grows with the length, another (attention, where it is computed in full) with its square. Where there is room, one
    step on a row of that length shows what the allocator and temporaries add. Time is a forward and backward pass on a
    row of middling length, by its tokens. The model gets adapters by this.
    """
    import torch

    for parameter in model.parameters():  # mapped files count as memory once they are read
        parameter.detach().max()
    weights = _bytes(model.parameters())
    program = max(0.0, resident_memory() - weights)
    adapted: Any = lora.attach(model)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    longest, usual = max(lengths), sorted(lengths)[len(lengths) // 2]
    if needs_checkpointing(adapted, longest) if checkpointing == "auto" else checkpointing:
        adapted.gradient_checkpointing_enable()
        adapted.enable_input_require_grads()
    adapted.train()
    logits = 3 * min(longest, _LOSS_CHUNK) * model.config.get_text_config().vocab_size * 4
    parts = {
        "weights": weights,
        "adapters, gradients, optimizer": 4 * _bytes(trained),
        "activations of the longest row": _activations(adapted, longest),
        "logits": logits,
    }
    if not torch.cuda.is_available():
        parts["libraries"] = int(program)
    total = sum(parts.values())
    seconds_a_token = _seconds(adapted, min(usual, 2 * _PROBE_TOKENS))
    if 2 * total < total_memory():  # there is room to see what allocator and temporaries add
        _step(adapted, longest)
        parts["allocator, temporaries"] = max(0, int(peak_memory()) + 2 * _bytes(trained) - total)
    return Estimate(sum(parts.values()), seconds_a_token * sum(lengths) * epochs, parts)


def needs_checkpointing(adapted: Any, longest: int) -> bool:
    """Whether the activations of a row of so many tokens may not fit into the memory that is free.

    Measured only where a generous bound (sixteen times the widest layer's output, each layer, fp32) is not far below.
    """
    config = adapted.config.get_text_config()
    widest = max(config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    free = free_memory()
    if 16 * 4 * longest * config.num_hidden_layers * widest < free:
        return False
    return _ALLOCATOR * _activations(adapted, longest) > free


def _activations(adapted: Any, longest: int) -> int:
    """Bytes that autograd keeps of one row of so many tokens."""
    was_training = adapted.training
    adapted.train()
    short, long = min(longest, _PROBE_TOKENS // 2), min(longest, _PROBE_TOKENS)
    small, large = _kept_bytes(adapted, short) / short, _kept_bytes(adapted, long) / long
    adapted.train(was_training)
    growth = max(0.0, large - small) / max(1, long - short)  # bytes a token, for each further token of the row
    return int(longest * (large + growth * (longest - long)))


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _hidden(model: Any, tokens: int) -> Any:
    """The last hidden state of a row of random ids, without the logits, which training makes chunk by chunk."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, tokens), device=model.device)
    return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits


def _kept_bytes(model: Any, tokens: int) -> int:
    """Bytes that autograd keeps of one forward pass for the backward pass."""
    import torch

    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = _hidden(model, tokens)  # held until counted, or storages would be given out twice
        total = sum(kept.values())
    del out
    return total


def _step(model: Any, tokens: int) -> None:
    _hidden(model, tokens).float().logsumexp(-1).sum().backward()
    model.zero_grad(set_to_none=True)


def _seconds(model: Any, tokens: int) -> float:
    """Seconds a token of one forward and backward pass, after one to warm up."""
    _step(model, tokens)
    begun = time.perf_counter()
    _step(model, tokens)
    return (time.perf_counter() - begun) / tokens
