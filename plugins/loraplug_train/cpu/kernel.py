"""The fast path: the loss of a Llama-like model with LoRA adapters on the CPU, at a fraction of the plain path's cost.

Where it saves: padding is taken out and the rows of a micro-batch run through the linear layers as one long sequence;
a whole transformer block is one autograd function with a backward pass written by hand (`kernel_block`); the last
block's MLP and the vocabulary are computed only where there is a label; products go to oneDNN, which here is quicker
than the BLAS that torch calls. Numbers are those of the plain path up to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from loraplug import new_tokens
from loraplug_train import compat
from loraplug_train.cpu.block import DTYPES, Block, Unsupported
from loraplug_train.cpu.math import matmul_chunks, matmul_chunks_backward, rms_norm, rms_norm_backward
from loraplug_train.cpu.vocabulary import Output, store_as_bfloat16

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPES = ("default", "linear", "llama3", "yarn")  # the others turn by the length of the whole sequence
_LOGIT_BYTES = 24 << 20  # logits held at once; glibc hands out blocks of less than 32 MB again without clearing them
_IGNORED = -100
MICRO_TOKENS = 512  # short rows together took 7% less CPU time than one by one; beyond this, memory grows for little


def install(model: Any) -> tuple[bool, str]:
    """Teach the model in a `PeftModel` the fast path that `log_probs` asks for; its plain forward stays as it is.

    Returns:
        Whether the fast path is there, and a sentence for the user: what it does, or why it is not.
    """
    try:
        fast = _FastLogProbs(model)
    except Unsupported as reason:
        return False, f"plain kernel: {reason}"
    base = model.get_base_model()
    plain = base.forward

    @wraps(plain)
    def forward(*args: Any, fast_log_probs: Asked | None = None, **inputs: Any) -> Any:
        return plain(*args, **inputs) if fast_log_probs is None else fast(fast_log_probs, **inputs)

    base.forward = forward
    store_as_bfloat16(base)
    return True, f"fast kernel: {len(fast.blocks)} {type(base).__name__} blocks"


@frozen
class Asked:
    """What the fast path is asked for: see `log_probs`."""

    label_smoothing: float = 0.0
    adapters: bool = True


def log_probs(
    model: Any, batch: Mapping[str, Tensor], label_smoothing: float = 0.0, *, adapters: bool = True
) -> Tensor:
    """Log-probabilities (nats) of the labels of `batch`, float32 of shape (labels,), in their order; by `install`.

    Args:
        model: The model given to `install`, or a wrapper of it such as DDP.
        batch: `input_ids` and `labels` (-100: none), shape (rows, tokens), with either an `attention_mask` that tells
            padding, or `position_ids` that start again at 0 with each packed row. The first label of a row counts for
            nothing.
        label_smoothing: That much of a token drawn evenly from the vocabulary in place of the label.
        adapters: Without them it is the base that is asked, and no gradient is to be had.
    """
    names = {"input_ids", "labels", "attention_mask", "position_ids"} & batch.keys()
    made: Tensor = model(**{name: batch[name] for name in names}, fast_log_probs=Asked(label_smoothing, adapters))
    return made


def label_loss(model: Any, batch: Mapping[str, Tensor], count: float | None = None) -> Tensor:
    """The cross-entropy (nats) of the labels of `batch`, divided by `count`, else by their number; a scalar.

    Args:
        batch: may have `token_weights`, float32 of shape (rows, tokens): each loss is multiplied by its token's.
    """
    found = log_probs(model, batch)
    if "token_weights" in batch:
        found = found * batch["token_weights"][:, 1:][batch["labels"][:, 1:] != _IGNORED]
    return -found.sum() / (count or max(1, len(found)))


class _FastLogProbs:
    """The parts of a model, found and checked once."""

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "peft_config"):
            raise Unsupported("the model itself is trained, without adapters")
        if kinds := {config.peft_type.value for config in model.peft_config.values()} - {"LORA"}:
            raise Unsupported(f"adapters of the kind {', '.join(sorted(kinds))}")
        base = model.get_base_model()
        if type(base).__name__ not in _ARCHITECTURES:
            raise Unsupported(f"{type(base).__name__} is not one of {', '.join(_ARCHITECTURES)}")
        if any(parameter.device.type != "cpu" for parameter in base.parameters()):
            raise Unsupported("the model is not on the CPU")
        if new_tokens(model):
            raise Unsupported("rows of new tokens are trained, in the embedding and the output layer")
        self.base, self.backbone, head = base, base.model, base.lm_head
        trained = head.weight.requires_grad or self.backbone.norm.weight.requires_grad
        if type(head) not in (torch.nn.Linear, Output) or head.bias is not None or trained:
            raise Unsupported("the output layer is trained (or the norm before it), quantised or has a bias")
        if head.weight.dtype not in DTYPES:
            raise Unsupported(f"it computes in float32 or bfloat16, the model in {head.weight.dtype}")
        if self.backbone.rotary_emb.rope_type not in _ROPES:
            raise Unsupported(f"rope of type {self.backbone.rotary_emb.rope_type}")
        self.blocks = [Block(layer, model.active_adapter) for layer in self.backbone.layers]

    def __call__(self, asked: Asked, **inputs: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # it chooses itself what is computed in what
            return self._log_probs(asked, **inputs)

    def _log_probs(self, asked: Asked, input_ids: Tensor, labels: Tensor, **inputs: Any) -> Tensor:
        mask, places = inputs.get("attention_mask"), inputs.get("position_ids")
        real = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        starts = [0, *real.sum(1).cumsum(0).tolist()[:-1]]
        if mask is None and places is not None:
            starts = (places[real] == 0).nonzero().flatten().tolist()
        x = self.backbone.embed_tokens(input_ids)[real].float()  # (tokens, hidden)
        bounds = [*starts, len(x)]
        targets = torch.cat([labels[real][1:], labels.new_full((1,), _IGNORED)])
        targets[torch.tensor(bounds[1:]) - 1] = _IGNORED  # the last token of a row predicts nothing
        kept = (targets != _IGNORED).nonzero().flatten()
        if empty := not len(kept):  # nothing, that still belongs to the graph
            kept, targets[0] = kept.new_zeros(1), 0
        rows = [slice(start, end) for start, end in pairwise(bounds) if end > start]
        positions = torch.cat([torch.arange(row.stop - row.start) for row in rows])
        rope = [part[0, :, None, None].chunk(2, -1)[0] for part in self.backbone.rotary_emb(x, positions[None])]
        for block in self.blocks:
            x = block(x, rope, rows, kept if block is self.blocks[-1] else ..., adapters=asked.adapters)
        found: Tensor = _Head.apply(x, self.backbone.norm, self.base.lm_head, targets[kept], asked.label_smoothing)
        return found[:0] if empty else found


class _Head(torch.autograd.Function):  # type: ignore[misc]
    """Last norm, vocabulary and log-probabilities; their gradient is made with the logits at hand, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any, head: Any, targets: Tensor, smoothing: float) -> Tensor:
        """The log-probabilities by `x` (labels, hidden) of `targets` (labels)."""
        width, pieces = len(head.weight), head.pieces if isinstance(head, Output) else lambda: (head.weight,)
        normed = rms_norm(x, norm)
        found = x.new_empty(len(x))
        gradient = torch.empty_like(x)
        size = max(16, _LOGIT_BYTES // (4 * width))
        for at in range(0, len(x), size):
            part = slice(at, at + size)
            logits = matmul_chunks(normed[part], pieces(), width)
            compat.log_softmax_(logits)
            where = targets[part, None]
            found[part] = logits.gather(1, where)[:, 0]
            if smoothing:
                found[part] = (1 - smoothing) * found[part] + smoothing * logits.mean(1)
            if ctx.needs_input_grad[0]:
                logits.exp_().neg_()
                logits.scatter_add_(1, where, logits.new_full(where.shape, 1.0 - smoothing))
                gradient[part] = matmul_chunks_backward(
                    logits.add_(smoothing / width) if smoothing else logits, pieces()
                )
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(rms_norm_backward(gradient, x, norm))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients kept by `forward`, each times the one from above."""
        (kept,) = ctx.saved_tensors
        return kept * gradient[:, None], None, None, None, None
