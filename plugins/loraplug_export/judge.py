"""Compares the outputs of merged modules with those of base + adapter, and reports the result."""

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
"""Largest relative difference allowed, by stored dtype: its rounding for 16-bit dtypes, else float32's own noise."""


@frozen
class VerificationReport:
    """The figures of a verification.

    Attributes:
        by: whether modules were compared one by one, or the whole model's logits.
        tokens: how many went through the model.
        modules: how many modules were compared; 0 where the logits were.
        unchanged: other stored tensors, which are byte for byte the base's.
        largest: the largest absolute difference of a merged module's output (of the logits) from base + adapter's.
        relative: the largest difference of a module, relative to sqrt(x² W²) of its input and weights.
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
    """The model reads adapted weights directly, so that their adapters have no effect, but merging them would.

    Attributes:
        names: the parameters.
    """

    def __init__(self, names: Sequence[str], merged: Path) -> None:
        self.names = tuple(names)
        super().__init__(
            f"the model reads {', '.join(names)} directly, past the adapter, which has no effect there and must not be "
            "merged",
            where=merged,
            todo="train without an adapter on these layers",
        )


@define
class Worst:
    """Collects the largest differences.

    Attributes:
        proved: the parameters that the compared modules have read.
    """

    proof: VerificationReport = VerificationReport()
    modules: set[str] = field(factory=set)
    proved: set[str] = field(factory=set)
    failed: list[tuple[VerificationReport, Sequence[str]]] = field(factory=list)

    def take(self, compared: Compared, types: Collection[str], past: Sequence[str] = ()) -> None:
        """Compare the outputs of a module with base weights + adapter and with merged weights.

        Args:
            types: safetensors' names of the dtypes that its merged weights are stored in.
            past: adapted weights that it reads directly, past their adapter.

        Raises:
            NotInPiecesError: rounding has changed a discrete choice, such as a router's, so that the outputs cannot be
                compared.
        """
        import torch

        allowed = max(ALLOWED[dtype] for dtype in types)
        for wanted, got in zip(tensors(compared.wanted), tensors(compared.got), strict=True):
            if not wanted.is_floating_point():
                if not torch.equal(wanted, got):
                    raise NotInPiecesError(
                        f"{compared.name} makes another discrete choice once its weights are rounded"
                    )
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
        """The report over all comparisons; logs it.

        Raises:
            ReadPastError: the only differences are adapters that had no effect in training.
            LoraplugError: a module differs by more than its dtype allows.
        """
        if self.failed:
            if all(past for _, past in self.failed):
                raise ReadPastError(sorted({name for _, past in self.failed for name in past}), merged)
            bad, _ = max(self.failed, key=lambda one: one[0].relative / one[0].allowed)
            raise LoraplugError(
                f"{bad.layer} gives another output than with base + adapter: relative difference {bad.relative:.2g}, "
                f"allowed {bad.allowed:.2g} ({len({one.layer for one, _ in self.failed})} modules differ)",
                where=merged,
                todo="report this as a bug; peft's merge_and_unload can be used instead",
            )
        proof = evolve(self.proof, tokens=tokens, modules=len(self.modules), unchanged=unchanged)
        run.say(
            f"merged: compared with base + adapter on {tokens} tokens: the outputs of {proof.modules} modules differ "
            f"by at most {proof.largest:.2g}, relative {proof.relative:.2g} (allowed {proof.allowed:.2g}) in "
            f"{proof.layer}" + (f"; {unchanged} other tensors are identical to the base's" if unchanged else "")
        )
        return proof


def _size(compared: Compared, got: torch.Tensor) -> torch.Tensor:
    """The scale of rounding errors: sqrt(x^2 W^2) of a product, else the output itself."""
    import torch

    kind, weight = compared.module, compared.read.get(f"{compared.name}.weight")
    if weight is None or not (isinstance(kind, torch.nn.Linear) or type(kind).__name__ == "Conv1D"):
        return got.abs()
    turned = weight if type(kind).__name__ == "Conv1D" else weight.T
    return (compared.args[0].square() @ turned.square()).sqrt()
