"""One transformer block with LoRA adapters as one autograd function.

With s the scale of an adapter, y = x·Wᵀ + (s·x·Aᵀ)·Bᵀ. Layers that read the same input (q, k and v; gate and up) share
one product with their stacked s·A. Kept for the backward pass are the block's inputs, q, k, v, the attention's output,
gate, up and the low-rank x·Aᵀ; norms and activations are computed again. No gradient is made for a frozen weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loraplug_train.cpu.math import (
    causal_attention,
    causal_attention_backward,
    four_bits,
    matmul_chunks,
    matmul_chunks_backward,
    product,
    rms_norm,
    rms_norm_backward,
    rotate_,
)

DTYPES = (torch.float32, torch.bfloat16)


class Unsupported(Exception):  # noqa: N818 - a reason, not a failure
    """Raised with the reason, for the user, why a model cannot use the fast path."""


class _Linear:
    """A frozen layer, plain or in 4 bits, with or without a plain LoRA adapter."""

    def __init__(self, module: Any, adapter: str) -> None:
        from peft.tuners.lora import LoraLayer

        self.base, self.scale = module, 1.0
        self.adapter: tuple[Tensor, ...] = ()
        if isinstance(module, LoraLayer):
            self.base = module.get_base_layer()
            if module.merged or module.disable_adapters or list(module.active_adapters) != [adapter]:
                raise Unsupported("adapters are merged, disabled or several")
            if adapter in module.lora_A:
                if module.lora_variant or any(module.lora_bias.values()) or getattr(module, "fan_in_fan_out", False):
                    raise Unsupported("DoRA, another variant of LoRA, or an adapter with a bias")
                if not isinstance(module.lora_dropout[adapter], torch.nn.Identity):
                    raise Unsupported("lora.dropout is not 0")
                self.adapter = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
                self.scale = float(module.scaling[adapter])
        self.packed = type(self.base).__name__ == "Linear4bit"
        if not self.packed and type(self.base) is not torch.nn.Linear:
            raise Unsupported(f"a layer is a {type(self.base).__name__}")
        if not self.packed and type(self.base.weight.data) is not torch.Tensor:
            raise Unsupported(f"weights are stored as {type(self.base.weight.data).__name__}")
        if any(parameter.requires_grad for parameter in self.base.parameters()):
            raise Unsupported("layers are trained whole")
        if any(part.dtype != torch.float32 for part in self.adapter):
            raise Unsupported("adapters are not in float32")
        self.dtype = (self.base.compute_dtype or torch.float32) if self.packed else self.base.weight.dtype
        biases = {self.dtype} if self.base.bias is None else {self.dtype, self.base.bias.dtype}
        if len(biases) > 1 or self.dtype not in DTYPES:
            raise Unsupported(
                "it computes in float32 or bfloat16, and a layer has another dtype, or a bias of another dtype than "
                "its weight"
            )

    def pieces(self) -> Iterable[Tensor]:
        """The weight (out, in) in float32 or bfloat16, in chunks of rows that are dequantized on each call if it is
        4-bit.
        """
        return four_bits(self.base.weight, self.dtype) if self.packed else (self.base.weight,)


class _Group:
    """Linear layers that read the same input."""

    def __init__(self, adapter: str, *modules: Any) -> None:
        self.layers = [_Linear(module, adapter) for module in modules]
        self.adapters = [part for layer in self.layers for part in layer.adapter]
        self.bare = False  # whether it computes as if there were no adapters

    def _stacked(self) -> Tensor | None:
        """The adapters' s·A, one below the other."""
        parts = [layer.adapter[0].detach() * layer.scale for layer in self.layers if layer.adapter and not self.bare]
        return torch.cat(parts) if parts else None

    def _split(self, low: Tensor | None) -> Iterator[tuple[_Linear, Tensor | None]]:
        at = 0
        for layer in self.layers:
            width = len(layer.adapter[0]) if layer.adapter else 0
            yield layer, low[:, at : at + width] if low is not None and width else None
            at += width

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The layers' outputs, and s·x·Aᵀ for the backward pass."""
        stacked, outs = self._stacked(), []
        low = None if stacked is None else product(x, stacked)
        for layer, part in self._split(low):
            outs.append(matmul_chunks(x, layer.pieces(), layer.base.out_features, layer.base.bias))
            if part is not None:
                outs[-1].addmm_(part, layer.adapter[1].t())
        return outs, low

    def backward(self, gradients: Sequence[Tensor], x: Tensor, low: Tensor | None, wanted: bool = True) -> Any:
        """Gradients by x (None if not wanted) and by each adapter's A and B, from those of the outputs."""
        into, lows, adapters = None, [], []
        for (layer, part), gradient in zip(self._split(low), gradients, strict=True):
            if wanted:
                through = matmul_chunks_backward(gradient, layer.pieces())
                into = through if into is None else into.add_(through)
            if part is not None:
                lows.append(product(gradient, layer.adapter[1].t()))
                by_a = product(lows[-1].t(), x.t()).mul_(layer.scale)
                adapters += [by_a, product(part.t(), gradient.t()).t()]
        if into is not None and lows:
            into.addmm_(torch.cat(lows, 1), self._stacked())
        return into, adapters


class Block:
    """A decoder layer of transformers; calling it computes the block on rows that are concatenated without padding."""

    def __init__(self, layer: Any, adapter: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        if not isinstance(mlp.act_fn, torch.nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
            raise Unsupported(f"the activation is {type(mlp.act_fn).__name__}, not SiLU")
        window = getattr(attention, "sliding_window", None) or getattr(attention.config, "sliding_window", None)
        if window or attention.attention_dropout:
            raise Unsupported("attention dropout, or attention in a sliding window")
        self.layer, self.scale = layer, attention.scaling
        self.shape = (attention.config.num_key_value_heads, -1, attention.head_dim)
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        self.head_norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
        if any(norm.weight.requires_grad for norm in (self.before, self.after, *self.head_norms)):
            raise Unsupported("norms are trained")
        self.qkv = _Group(adapter, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _Group(adapter, attention.o_proj)
        self.wide = _Group(adapter, mlp.gate_proj, mlp.up_proj)
        self.down = _Group(adapter, mlp.down_proj)

    def __call__(self, x: Tensor, *place: Any, adapters: bool = True) -> Tensor:
        """x (tokens, hidden) after the block; `place`: (cos, sin), rows, and an index of the tokens kept."""
        groups = (self.qkv, self.out, self.wide, self.down)
        for group in groups:
            group.bare = not adapters
        return _Run.apply(x, self, place, *(part for group in groups for part in group.adapters))

    def forward(self, x: Tensor, rope: Any, rows: Sequence[slice], kept: Any) -> tuple[Tensor, list[Any]]:
        """The output, and the tensors that `backward` needs."""
        outs, low_in = self.qkv.forward(rms_norm(x, self.before))
        q, k, v = raw = [out.unflatten(1, self.shape) for out in outs]
        if self.head_norms:
            q, k = (rms_norm(part, norm) for part, norm in zip((q, k), self.head_norms, strict=True))
        rotate_(q, *rope)
        rotate_(k, *rope)
        mixed, sums = causal_attention(q, k, v, rows, self.scale)
        (middle,), low_out = self.out.forward(mixed.flatten(1)[kept])
        middle.add_(x[kept])
        (gate, up), low_wide = self.wide.forward(rms_norm(middle, self.after))
        (end,), low_down = self.down.forward(functional.silu(gate).mul_(up))
        lows = (low_in, low_out, low_wide, low_down)
        return end.add_(middle), [*lows, q, k, v, mixed, middle, gate, up, *sums, *(raw[:2] if self.head_norms else ())]

    def backward(self, gradient: Tensor, x: Tensor, saved: Sequence[Any], place: Any, wanted: bool) -> list[Any]:
        """Gradients by x (None if not wanted) and by the adapters, in the order of `__call__`."""
        rope, rows, kept = place
        low_in, low_out, low_wide, low_down, q, k, v, mixed, middle, gate, up, *rest = saved
        silu = functional.silu(gate)
        inner, by_down = self.down.backward([gradient], silu * up, low_down)
        by_up = silu.mul_(inner)
        by_gate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        inner, by_wide = self.wide.backward([by_gate, by_up], rms_norm(middle, self.after), low_wide)
        by_middle = rms_norm_backward(inner, middle, self.after).add_(gradient)
        by_mixed, by_out = self.out.backward([by_middle], mixed.flatten(1)[kept], low_out)
        if kept is not ...:
            by_mixed = by_mixed.new_zeros(len(x), by_mixed.shape[1]).index_copy_(0, kept, by_mixed)
        grads = causal_attention_backward(by_mixed.view(q.shape), (q, k, v), mixed, rest[: len(rows)], rows, self.scale)
        for at in (0, 1):
            rotate_(grads[at], rope[0], rope[1], -1.0)
            if self.head_norms:
                grads[at] = rms_norm_backward(grads[at], rest[len(rows) + at], self.head_norms[at])
        by_x, by_in = self.qkv.backward([part.flatten(1) for part in grads], rms_norm(x, self.before), low_in, wanted)
        if wanted:
            by_x = rms_norm_backward(by_x, x, self.before)
            by_x = by_x.add_(by_middle) if kept is ... else by_x.index_add_(0, kept, by_middle)
        return [by_x, *by_in, *by_out, *by_wide, *by_down]


class _Run(torch.autograd.Function):  # type: ignore[misc]
    """A block as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, place: Any, *_: Tensor) -> Tensor:
        """Run the block, and keep what its backward pass needs, or with gradient checkpointing its input only."""
        out, saved = block.forward(x, *place)
        ctx.block, ctx.place = block, place
        ctx.save_for_backward(x, *(() if getattr(block.layer, "gradient_checkpointing", False) else saved))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Gradients by x and the adapters."""
        x, *saved = ctx.saved_tensors
        saved = saved or ctx.block.forward(x, *ctx.place)[1]
        by_x, *adapters = ctx.block.backward(gradient, x, saved, ctx.place, ctx.needs_input_grad[0])
        return by_x, None, None, *adapters
