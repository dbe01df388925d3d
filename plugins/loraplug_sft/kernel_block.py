"""One transformer block with LoRA adapters as one autograd function.

With s the scale of an adapter, y = x·Wᵀ + (s·x·Aᵀ)·Bᵀ. Layers that read the same input (q, k and v; gate and up) share
one product with their stacked s·A. Kept for the backward pass are the block's inputs, q, k, v, the attention's output,
gate, up and the narrow x·Aᵀ; norms and activations are computed again. No gradient is made for a frozen weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loraplug_sft.kernel_math import attend, attend_backward, product, rms, rms_backward, rms_scale, turn_

Rows = Sequence[tuple[int, int]]


class Unsupported(Exception):  # noqa: N818 - a reason, not a failure
    """Why a model cannot take the fast path, for the user to read."""


class _Linear:
    """A frozen layer, plain or in 4 bits, with or without a plain LoRA adapter."""

    def __init__(self, module: Any, adapter: str) -> None:
        from peft.tuners.lora import LoraLayer

        self.base, self.adapter, self.scale = module, (), 1.0
        if isinstance(module, LoraLayer):
            self.base = module.get_base_layer()
            if module.merged or module.disable_adapters or list(module.active_adapters) != [adapter]:
                raise Unsupported("adapters are merged, disabled or several")
            if adapter in module.lora_A:
                if module.lora_variant or any(module.lora_bias.values()) or getattr(module, "fan_in_fan_out", False):
                    raise Unsupported("DoRA, another variant of LoRA, or an adapter with a bias")
                if not isinstance(module.lora_dropout[adapter], torch.nn.Identity):
                    raise Unsupported("dropout draws a mask for each layer")
                self.adapter = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
                self.scale = float(module.scaling[adapter])
        self.packed = type(self.base).__name__ == "Linear4bit"
        if not self.packed and type(self.base) is not torch.nn.Linear:
            raise Unsupported(f"a layer is a {type(self.base).__name__}")
        if any(parameter.requires_grad for parameter in self.base.parameters()):
            raise Unsupported("layers are trained whole")
        kinds = {part.dtype for part in (*self.adapter, self.base.bias) if part is not None}
        if kinds - {torch.float32} or (not self.packed and self.base.weight.dtype != torch.float32):
            raise Unsupported("it computes in float32, and not all of the model is")

    @property
    def weight(self) -> Tensor:
        """(out, in), float32; made anew where it is stored in 4 bits."""
        if not self.packed:
            return self.base.weight  # type: ignore[no-any-return]
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.base.weight, self.base.weight.quant_state).float()


class _Group:
    """Linear layers that read the same input."""

    def __init__(self, *layers: _Linear) -> None:
        self.layers = layers
        self.adapted = [layer for layer in layers if layer.adapter]

    def stacked(self) -> Tensor | None:
        """The adapters' s·A, one below the other."""
        parts = [layer.adapter[0].detach() * layer.scale for layer in self.adapted]
        return torch.cat(parts) if parts else None

    def _split(self, low: Tensor | None) -> Iterator[tuple[_Linear, Tensor | None]]:
        at = 0
        for layer in self.layers:
            width = layer.adapter[0].shape[0] if layer.adapter else 0
            yield layer, low[:, at : at + width] if low is not None and width else None
            at += width

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The layers' outputs, and s·x·Aᵀ for the backward pass."""
        stacked = self.stacked()
        low = None if stacked is None else product(x, stacked)
        outs = []
        for layer, part in self._split(low):
            outs.append(product(x, layer.weight, layer.base.bias))
            if part is not None:
                outs[-1].addmm_(part, layer.adapter[1].t())
        return outs, low

    def backward(
        self, gradients: Sequence[Tensor], x: Tensor, low: Tensor | None, wanted: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients by x (where wanted) and by each adapter's A and B, from those of the outputs."""
        stacked = self.stacked()
        into = None
        lows, adapters = [], []
        for (layer, part), gradient in zip(self._split(low), gradients, strict=True):
            if wanted:
                through = product(gradient, layer.weight.t())
                into = through if into is None else into.add_(through)
            if part is not None:
                lows.append(product(gradient, layer.adapter[1].t()))
                by_a = product(lows[-1].t(), x.t()).mul_(layer.scale)
                adapters += [by_a, product(part.t(), gradient.t()).t()]
        if wanted and stacked is not None and into is not None:
            into.addmm_(torch.cat(lows, 1), stacked)
        return into, adapters


class Block:
    """A decoder layer of transformers, read once; calling it runs the block on rows laid end to end."""

    def __init__(self, layer: Any, adapter: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        if not isinstance(mlp.act_fn, torch.nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
            raise Unsupported(f"the activation is {type(mlp.act_fn).__name__}, not SiLU")
        if getattr(attention, "sliding_window", None) or getattr(attention.config, "sliding_window", None):
            raise Unsupported("attention in a sliding window")
        if attention.attention_dropout:
            raise Unsupported("attention dropout")
        norms = [module for module in layer.modules() if type(module).__name__.endswith("RMSNorm")]
        if any(norm.weight.requires_grad or norm.weight.dtype != torch.float32 for norm in norms):
            raise Unsupported("norms are trained or not float32")
        wrap = lambda owner, *names: _Group(*(_Linear(getattr(owner, name), adapter) for name in names))  # noqa: E731
        self.layer, self.size, self.scale = layer, attention.head_dim, attention.scaling
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        self.head_norms = [norm for norm in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))]
        self.qkv = wrap(attention, "q_proj", "k_proj", "v_proj")
        self.out = wrap(attention, "o_proj")
        self.wide = wrap(mlp, "gate_proj", "up_proj")
        self.down = wrap(mlp, "down_proj")
        groups = (self.qkv, self.out, self.wide, self.down)
        self.adapters = [part for group in groups for linear in group.adapted for part in linear.adapter]

    def __call__(self, x: Tensor, rope: tuple[Tensor, Tensor], rows: Rows, kept: Tensor | None) -> Tensor:
        """x (tokens, hidden) after the block; with `kept`, only those tokens of it."""
        return _Run.apply(x, self, rope, rows, kept, *self.adapters)  # type: ignore[no-any-return]

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], rows: Rows, kept: Tensor | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """The output, and the tensors that `backward` needs."""
        outs, low_in = self.qkv.forward(rms(x, rms_scale(x, self.before.variance_epsilon), self.before.weight))
        q, k, v = (out.unflatten(1, (-1, self.size)) for out in outs)
        raw = (q, k) if self.head_norms[0] is not None else ()
        if raw:
            q, k = (rms(y, rms_scale(y, norm.variance_epsilon), norm.weight) for y, norm in zip(raw, self.head_norms))
        turn_(q, *rope)
        turn_(k, *rope)
        mixed, sums = attend(q, k, v, rows, self.scale)
        (middle,), low_out = self.out.forward(mixed if kept is None else mixed[kept])
        middle.add_(x if kept is None else x[kept])
        normed = rms(middle, rms_scale(middle, self.after.variance_epsilon), self.after.weight)
        (gate, up), low_wide = self.wide.forward(normed)
        (end,), low_down = self.down.forward(functional.silu(gate).mul_(up))
        lows = (low_in, low_out, low_wide, low_down)
        return end.add_(middle), (q, k, v, mixed, middle, gate, up, *lows, *sums, *raw)

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        saved: Sequence[Any],
        rope: tuple[Tensor, Tensor],
        rows: Rows,
        kept: Tensor | None,
        wanted: bool,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients by x (where wanted) and by the adapters, in the order of `adapters`."""
        q, k, v, mixed, middle, gate, up, low_in, low_out, low_wide, low_down, *rest = saved
        sums, raw = rest[: len(rows)], rest[len(rows) :]
        silu = functional.silu(gate)
        inner, by_down = self.down.backward([gradient], silu * up, low_down)
        by_up = silu.mul_(inner)
        by_gate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        root = rms_scale(middle, self.after.variance_epsilon)
        inner, by_wide = self.wide.backward([by_gate, by_up], rms(middle, root, self.after.weight), low_wide)
        by_middle = rms_backward(inner, middle, root, self.after.weight).add_(gradient)
        by_mixed, by_out = self.out.backward([by_middle], mixed if kept is None else mixed[kept], low_out)
        if kept is not None:
            by_mixed = torch.zeros_like(mixed).index_copy_(0, kept, by_mixed)
        grads = attend_backward(by_mixed, q, k, v, mixed, sums, rows, self.scale)
        for at in (0, 1):
            turn_(grads[at], *rope, back=True)
            if raw:
                norm = self.head_norms[at]
                root = rms_scale(raw[at], norm.variance_epsilon)
                grads[at] = rms_backward(grads[at], raw[at], root, norm.weight)
        root = rms_scale(x, self.before.variance_epsilon)
        normed = rms(x, root, self.before.weight)
        by_x, by_in = self.qkv.backward([part.flatten(1) for part in grads], normed, low_in, wanted)
        if by_x is not None:
            rms_backward(by_x, x, root, self.before.weight)
            by_x = by_x.add_(by_middle) if kept is None else by_x.index_add_(0, kept, by_middle)
        return by_x, [*by_in, *by_out, *by_wide, *by_down]


class _Run(torch.autograd.Function):
    """A block in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, rope: Any, rows: Rows, kept: Any, *adapters: Tensor) -> Tensor:
        """Run the block, and keep what its backward pass needs, or with gradient checkpointing its input only."""
        out, saved = block.forward(x, rope, rows, kept)
        ctx.block, ctx.rope, ctx.rows, ctx.kept = block, rope, rows, kept
        ctx.save_for_backward(x, *(() if getattr(block.layer, "gradient_checkpointing", False) else saved))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """Gradients by x and the adapters."""
        x, *saved = ctx.saved_tensors
        place = (ctx.rope, ctx.rows, ctx.kept)
        with torch.no_grad():
            if not saved:
                _, saved = ctx.block.forward(x, *place)
            by_x, grads = ctx.block.backward(gradient, x, saved, *place, wanted=ctx.needs_input_grad[0])
        return by_x, None, None, None, None, *grads
