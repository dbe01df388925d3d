"""Verifies a merge: real rows are run through the model in float32, each module that reads weights once with base +
adapter and once with merged weights.

Weights are read from the files when they are used and freed afterwards, so not even one model is in memory. The
difference is compared with the effect of rounding each merged weight once to the output's dtype: for y = W x and a
relative rounding of u that is u sqrt(x^2 W^2), as rounding errors are independent. Weights that no row has reached are
compared too: changed ones on made-up inputs, all others byte for byte.

A model that cannot be run like this is verified by its logits, see `logits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import LoraplugError, Run
from loraplug_export.edits import Edit
from loraplug_export.judge import VerificationReport, Worst
from loraplug_export.onto import WeightTransform
from loraplug_export.pieces import Compared, NotInPiecesError, Pieces
from loraplug_export.plan import Plan
from loraplug_export.tensors import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import torch


def verify(
    plan: Plan, merged: Path, rows: Sequence[Sequence[int]], run: Run, onto: Mapping[str, WeightTransform] | None = None
) -> VerificationReport:
    """Verify the merged folder against base + adapter on rows of token ids.

    Raises:
        LoraplugError: the outputs of a module, or of the whole model, differ by more than rounding explains, or a
            weight without an adapter is not the base's.
    """
    files = open_checkpoint(merged)
    try:
        return _by_pieces(plan, files, rows, run, onto or {})
    except NotInPiecesError as reason:
        from loraplug_export.logits import verify_logits

        run.say(
            f"merged: only the whole model's logits are compared, as the model cannot be run module by module "
            f"({reason})"
        )
        left = _unchanged(plan, set(), onto or {})
        check_unchanged(plan.base, files, left)
        return verify_logits(plan, merged, rows, run, onto or {}, len(left))


def _by_pieces(
    plan: Plan, files: Checkpoint, rows: Sequence[Sequence[int]], run: Run, onto: Mapping[str, WeightTransform]
) -> VerificationReport:
    worst = Worst()
    weights = Weights(plan, files, onto)

    def take(compared: Compared) -> None:
        past = [name for name in compared.read if _is_past(plan, compared.name, name)]
        worst.take(compared, {plan.dtype(name) for name in compared.read}, past)

    pieces = Pieces(plan.model, weights.base, weights.merged, lambda *call: _adapted(plan, *call), take)
    load_buffers(plan)
    with run.progress("verifying the merge", len(rows)) as bar:
        pieces.run(rows, bar.advance)
    for name in sorted(_changed(plan, onto) - worst.proved):
        module = name.rpartition(".")[0]
        if name not in worst.proved:  # a weight and its bias are reached together
            pieces.ask(module, made_up(plan.model.get_submodule(module)))
    left = _unchanged(plan, worst.proved, onto)
    check_unchanged(plan.base, files, left)
    return worst.judged(sum(map(len, rows)), len(left), files.folder, run)


@frozen
class Weights:
    """Reads parameters by the names of the model, lazily, in float32."""

    plan: Plan
    files: Checkpoint
    onto: Mapping[str, WeightTransform]

    def base(self, name: str) -> torch.Tensor:
        """The weight without LoRA: the base's values, or the adapter's replacement.

        Raises:
            NotInPiecesError: the base does not store it.
        """
        import torch

        if (replacement := _edit(self.plan, name).replacement) is not None:
            return replacement.read().float()
        stored = self.plan.stored(name)
        rows = _edit(self.plan, name).rows
        if rows is not None and stored is not None:
            values = self._read(self.plan.base, stored, name)
            more = values.new_zeros(rows.grown(len(values)) - len(values), values.shape[1])
            return rows.put_on(torch.cat([values, more]), 0)
        if stored is not None and stored in self.onto:
            return self.onto[stored](self.plan.base.tensors[stored].read())
        return self._read(self.plan.base, stored, name)

    def merged(self, name: str) -> torch.Tensor:
        """The values in the merged files."""
        stored = name if name == self.plan.untied else self.plan.stored(name)
        return self._read(self.files, stored, name)

    def _read(self, files: Checkpoint, stored: str | None, name: str) -> torch.Tensor:
        if stored is not None:
            return _stored_in(files, stored).read().float()
        if (conversion := self.plan.forms.converted.get(name)) is None:
            raise NotInPiecesError(f"the base does not store {name}")
        return conversion.make(lambda source: _stored_in(files, source).read())[name].float()


def _stored_in(files: Checkpoint, name: str) -> Any:
    if name not in files.tensors:
        raise LoraplugError(f"holds no {name}", where=files.folder, todo="merge again")
    return files.tensors[name]


def load_buffers(plan: Plan) -> None:
    """Load the model's buffers that the base stores."""
    for name, buffer in plan.model.named_buffers():
        stored = plan.stored(name)
        if stored is not None and buffer.is_floating_point():
            buffer.copy_(plan.base.tensors[stored].read().to(buffer.dtype))


def _edit(plan: Plan, name: str) -> Edit:
    """The parameter's edit; a tied parameter without one shares its source's replacement."""
    if name in plan.edits:
        return plan.edits[name]
    source = plan.model.all_tied_weights_keys.get(name)
    return plan.edits.get(source, Edit()) if source and name not in plan.names else Edit()


def _changed(plan: Plan, onto: Mapping[str, WeightTransform]) -> set[str]:
    """Names of the parameters whose merged values are not the base's."""
    return set(plan.edits) | {name for name, stored in plan.names.items() if stored in onto}


def _unchanged(plan: Plan, proved: set[str], onto: Mapping[str, WeightTransform]) -> list[str]:
    """Stored names that the merge copies and that no compared module has read."""
    seen = {plan.names[name] for name in proved | _changed(plan, onto) if name in plan.names}
    for name in proved:
        if name in plan.forms.converted:
            seen.update(plan.forms.converted[name].sources)
    return [name for name in plan.base.tensors if name not in seen]


def check_unchanged(base: Checkpoint, files: Checkpoint, names: Sequence[str]) -> None:
    """Compare copied tensors with the base, byte for byte.

    Raises:
        LoraplugError: a tensor differs.
    """
    for name in names:
        if not _stored_in(files, name).same_as(base.tensors[name]):
            raise LoraplugError(
                f"{name} differs from the base's, though no adapter changes it", where=files.folder, todo="merge again"
            )


def _is_past(plan: Plan, module: str, name: str) -> bool:
    """Whether a module reads the weight of another module directly, past its adapter."""
    return name.rpartition(".")[0] != module and name in plan.edits and not plan.edits[name].replaces


def made_up(module: torch.nn.Module) -> torch.Tensor:
    """Inputs for a module that no row has reached: 8 random vectors, or the first 64 token ids.

    Raises:
        NotInPiecesError: the inputs of this kind of module are unknown.
    """
    import torch

    def draw(size: int) -> torch.Tensor:
        return torch.randn(8, size, generator=torch.Generator().manual_seed(0))

    if isinstance(module, torch.nn.Embedding):
        return torch.arange(min(64, module.weight.shape[0]))
    if isinstance(module, torch.nn.Linear):
        return draw(module.weight.shape[1])
    if type(module).__name__ == "Conv1D" or module.weight.ndim == 1:
        return draw(module.weight.shape[0])
    raise NotInPiecesError(f"no row reaches a {type(module).__name__} that the adapter changes")


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
