"""The proof of a merge: real rows go through the model layer by layer in fp32, each layer once as base + adapter and
once as merged.

Every module's weights are read from the files when its turn comes and let go after it, so two models are never in
memory, not even one. The difference is judged against what rounding each merged weight once to the output's type
may cause: for y = W x and a relative rounding of u that is u sqrt(x^2 W^2), as roundings are independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, frozen

from loraplug import LoraplugError, Run
from loraplug_export.edits import Edit
from loraplug_export.onto import Onto
from loraplug_export.plan import Plan
from loraplug_export.tensors import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import torch

ALLOWED = {"F64": 1e-5, "F32": 1e-5, "BF16": 2**-8, "F16": 2**-11}
"""Largest relative difference by output type: its rounding for the short ones, fp32 arithmetic's own noise else."""


@frozen
class Proof:
    """What the proof measured.

    Attributes:
        tokens: how many went through the model.
        largest: the largest absolute difference between a merged layer's output and base + adapter's.
        relative: the largest difference of a layer, relative to what its weights' sizes make of its input.
        layer: the module with the largest `relative`.
        allowed: the bound on `relative` for that layer's type.
    """

    tokens: int
    largest: float
    relative: float
    layer: str
    allowed: float


@define
class Worst:
    """The largest differences so far."""

    proof: Proof = Proof(0, 0.0, 0.0, "", 0.0)
    layers: int = 0
    failed: list[Proof] = field(factory=list)

    def take(self, name: str, module: torch.nn.Module, dtype: str, args: Sequence[Any], wanted: Any, got: Any) -> None:
        """Compare two outputs of a module that now holds the merged weights.

        Args:
            dtype: safetensors' name of the type the merged weights are stored in.
            args: the module's inputs, the tensor it works on first.
        """
        import torch

        if not isinstance(wanted, torch.Tensor):
            return
        difference = (got - wanted).abs()
        size = got.abs()
        if isinstance(module, torch.nn.Linear):
            size = (args[0].square() @ module.weight.square().T).sqrt()
        elif type(module).__name__ == "Conv1D":
            size = (args[0].square() @ module.weight.square()).sqrt()
        relative = float(difference.norm() / size.norm().clamp_min(1e-30))
        allowed = ALLOWED[dtype]
        this = Proof(0, float(difference.max()), relative, name, allowed)
        if not relative <= allowed:
            self.failed.append(this)
        first, second = (this, self.proof) if relative >= self.proof.relative else (self.proof, this)
        self.proof = Proof(0, max(first.largest, second.largest), first.relative, first.layer, first.allowed)

    def judged(self, tokens: int, merged: Path, run: Run) -> Proof:
        """What all comparisons came to.

        Raises:
            LoraplugError: a layer differs by more than its type allows.
        """
        proof = evolve(self.proof, tokens=tokens)
        if self.failed:
            bad = max(self.failed, key=lambda one: one.relative / one.allowed)
            raise LoraplugError(
                f"{bad.layer} answers differently from base + adapter: relative difference {bad.relative:.2g}, "
                f"allowed {bad.allowed:.2g} ({len(self.failed)} layers are off)",
                where=merged,
                todo="report this as a bug; peft's merge_and_unload is the way round it",
            )
        run.say(
            f"merged: proved on {tokens} tokens, {self.layers} layers; largest difference {proof.largest:.2g}, "
            f"relative {proof.relative:.2g} (allowed {proof.allowed:.2g}) in {proof.layer}"
        )
        return proof


def verify(
    plan: Plan, merged: Path, rows: Sequence[Sequence[int]], run: Run, onto: Mapping[str, Onto] | None = None
) -> Proof:
    """Prove the merged folder against base + adapter on rows of token ids.

    Raises:
        LoraplugError: a layer differs by more than its type allows, or the model cannot be run layer by layer.
    """
    import torch

    worst = Worst()
    tokens = sum(len(row) for row in rows)
    carriers = [(name, module) for name, module in plan.model.named_modules() if _own(module)]
    with run.progress("proving the merge", len(carriers) * len(rows)) as bar, torch.inference_mode():
        files = open_checkpoint(merged)
        for name, module in carriers:
            _watch(name, module, plan, files, onto or {}, worst, lambda: bar.advance())
        try:
            for row in rows:
                plan.model(input_ids=torch.tensor([list(row)]), use_cache=False)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            raise LoraplugError(
                f"this model cannot be run layer by layer ({str(error).splitlines()[0]})",
                where="exporter.merged",
                todo="set verify = false, and compare some answers by hand",
            ) from error
        finally:
            for _, module in carriers:
                del module.forward
    return worst.judged(tokens, merged, run)


def _watch(
    name: str,
    module: torch.nn.Module,
    plan: Plan,
    merged: Checkpoint,
    onto: Mapping[str, Onto],
    worst: Worst,
    done: Any,
) -> None:
    forward = module.forward
    worst.layers += 1

    def both(*args: Any, **kwargs: Any) -> Any:
        with holding(module, {key: _base_weight(plan, f"{name}.{key}", onto) for key in _own(module)}):
            wanted = _adapted(plan, name, module, args, forward(*args, **kwargs))
        values = {key: _merged_weight(plan, merged, f"{name}.{key}") for key in _own(module)}
        with holding(module, values):
            got = forward(*args, **kwargs)
            stored = next(key for parameter in values if (key := _stored(plan, f"{name}.{parameter}")))
            worst.take(name, module, plan.base.tensors[stored].dtype, args, wanted, got)
        done()
        return wanted

    module.forward = both


@contextmanager
def holding(module: torch.nn.Module, values: Mapping[str, torch.Tensor | None]) -> Iterator[None]:
    """While open, the module's own parameters have these values (None for an absent bias)."""
    import torch

    before = _own(module)
    for key, value in values.items():
        setattr(module, key, None if value is None else torch.nn.Parameter(value, requires_grad=False))
    try:
        yield
    finally:
        for key in values:
            setattr(module, key, before.get(key))


def _own(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _stored(plan: Plan, name: str) -> str | None:
    """The stored name of a parameter; of its source where it is tied. None for an absent bias."""
    if name in plan.names:
        return plan.names[name]
    source = plan.model.all_tied_weights_keys.get(name)
    return plan.names.get(source) if source else None


def _edit(plan: Plan, name: str) -> Edit:
    """The parameter's edit; a tied one without its own shares its source's replacement."""
    if name in plan.edits:
        return plan.edits[name]
    source = plan.model.all_tied_weights_keys.get(name)
    return plan.edits.get(source, Edit()) if source and name not in plan.names else Edit()


def _base_weight(plan: Plan, name: str, onto: Mapping[str, Onto]) -> torch.Tensor | None:
    stored = _stored(plan, name)
    if stored is None:
        return None
    if (replacement := _edit(plan, name).replacement) is not None:
        return replacement.read().float()
    weight = plan.base.tensors[stored].read()
    return onto[stored](weight) if stored in onto else weight.float()


def _merged_weight(plan: Plan, merged: Checkpoint, name: str) -> torch.Tensor | None:
    stored = name if name == plan.untied else _stored(plan, name)
    return None if stored is None else merged.tensors[stored].read().float()


def _adapted(plan: Plan, name: str, module: torch.nn.Module, args: tuple[Any, ...], out: Any) -> Any:
    """Base output plus adapter, the way peft's unmerged forward pass computes it."""
    import torch

    edit = _edit(plan, f"{name}.weight")
    pair = edit.low_rank
    if pair is None:
        return out
    loaded, bias = edit.load(), _edit(plan, f"{name}.bias")
    x, a, b = args[0], loaded.a, loaded.b
    assert a is not None and b is not None  # noqa: S101 - a pair has both
    if isinstance(module, torch.nn.Embedding):
        extra = torch.nn.functional.embedding(x, a.T) @ b.T * pair.scale * getattr(module, "embed_scale", 1.0)
        own_bias = None
    else:
        extra = x @ a.T @ b.T * pair.scale
        own_bias = getattr(module, "bias", None)
    if loaded.magnitude is not None:
        weight = module.weight.T if pair.transposed else module.weight
        norm = torch.linalg.norm(weight + pair.scale * (b @ a), dim=1)
        out = (out if own_bias is None else out - own_bias) + extra
        out = out * (loaded.magnitude / norm)
        return out if own_bias is None else out + own_bias
    vector = bias.load().vector
    return out + extra if vector is None else out + extra + vector
