"""Judges what a merged module answers against base + adapter, and says what all of it came to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import define, evolve, field, frozen

from loraplug import LoraplugError, Run
from loraplug_export.pieces import Compared, NotInPiecesError, tensors

if TYPE_CHECKING:
    import torch

ALLOWED = {"F64": 1e-5, "F32": 1e-5, "BF16": 2**-8, "F16": 2**-11}
"""Largest relative difference by output type: its rounding for the short ones, fp32 arithmetic's own noise else."""


@frozen
class VerificationReport:
    """What the proof measured.

    Attributes:
        by: whether modules were compared one by one, or the whole model's logits.
        tokens: how many went through the model.
        modules: how many modules were compared; 0 where the logits were.
        unchanged: stored tensors beyond those modules', which are the base's byte for byte.
        largest: the largest absolute difference of a merged module's output (of the logits) from base + adapter's.
        relative: the largest difference of a module, relative to what its weights' sizes make of its input.
        layer: the module with the largest `relative`; "logits" where they were compared.
        allowed: the bound on `relative` for that module's type.
    """

    by: Literal["modules", "logits"] = "modules"
    tokens: int = 0
    modules: int = 0
    unchanged: int = 0
    largest: float = 0.0
    relative: float = 0.0
    layer: str = ""
    allowed: float = 0.0


class ReadPastError(LoraplugError):
    """The model reads adapted weights around their adapters, so that these do nothing, and merging them does.

    Attributes:
        names: the parameters.
    """

    def __init__(self, names: Sequence[str], merged: Path) -> None:
        self.names = tuple(names)
        super().__init__(
            f"the model reads {', '.join(names)} past its adapter, which does nothing there and must not be merged",
            where=merged,
            todo="train without an adapter on these layers",
        )


@define
class Worst:
    """The largest differences so far.

    Attributes:
        proved: the parameters that compared modules have read.
    """

    proof: VerificationReport = VerificationReport()
    modules: set[str] = field(factory=set)
    proved: set[str] = field(factory=set)
    failed: list[tuple[VerificationReport, Sequence[str]]] = field(factory=list)

    def take(self, compared: Compared, types: Collection[str], past: Sequence[str] = ()) -> None:
        """Compare the outputs of a module that has run with the base's weights and the adapter, and with merged ones.

        Args:
            types: safetensors' names of the types that its merged weights are stored in.
            past: adapted weights that it reads around their adapter, which changes nothing that way.

        Raises:
            NotInPiecesError: rounding has changed a choice, such as a router's, so that the outputs tell nothing.
        """
        import torch

        allowed = max(ALLOWED[dtype] for dtype in types)
        for wanted, got in zip(tensors(compared.wanted), tensors(compared.got), strict=True):
            if not wanted.is_floating_point():
                if not torch.equal(wanted, got):
                    raise NotInPiecesError(f"{compared.name} chooses otherwise once its weights are rounded")
                continue
            difference = (got - wanted).abs()
            relative = float(difference.norm() / _size(compared, got).norm().clamp_min(1e-30))
            this = VerificationReport(
                largest=float(difference.max()), relative=relative, layer=compared.name, allowed=allowed
            )
            if not relative <= allowed:
                self.failed.append((this, past))
            first = this if relative >= self.proof.relative else self.proof
            self.proof = evolve(first, largest=max(this.largest, self.proof.largest))
        self.modules.add(compared.name)
        self.proved.update(compared.read)

    def judged(self, tokens: int, unchanged: int, merged: Path, run: Run) -> VerificationReport:
        """What all comparisons came to.

        Raises:
            ReadPastError: all that is wrong is adapters that do nothing in training.
            LoraplugError: a module differs by more than its type allows.
        """
        if self.failed:
            if all(past for _, past in self.failed):
                raise ReadPastError(sorted({name for _, past in self.failed for name in past}), merged)
            bad, _ = max(self.failed, key=lambda one: one[0].relative / one[0].allowed)
            raise LoraplugError(
                f"{bad.layer} answers differently from base + adapter: relative difference {bad.relative:.2g}, "
                f"allowed {bad.allowed:.2g} ({len({one.layer for one, _ in self.failed})} modules are off)",
                where=merged,
                todo="report this as a bug; peft's merge_and_unload is the way round it",
            )
        proof = evolve(self.proof, tokens=tokens, modules=len(self.modules), unchanged=unchanged)
        run.say(
            f"merged: proved on {tokens} tokens, {proof.modules} modules one by one; "
            f"largest difference {proof.largest:.2g}, "
            f"relative {proof.relative:.2g} (allowed {proof.allowed:.2g}) in {proof.layer}"
            + (f"; {unchanged} more tensors are the base's own" if unchanged else "")
        )
        return proof


def _size(compared: Compared, got: torch.Tensor) -> torch.Tensor:
    """What a rounding of the weights is relative to: sqrt(x^2 W^2) of a product, else the output itself."""
    import torch

    kind, weight = compared.module, compared.read.get(f"{compared.name}.weight")
    if weight is None or not (isinstance(kind, torch.nn.Linear) or type(kind).__name__ == "Conv1D"):
        return got.abs()
    turned = weight if type(kind).__name__ == "Conv1D" else weight.T
    return (compared.args[0].square() @ turned.square()).sqrt()
