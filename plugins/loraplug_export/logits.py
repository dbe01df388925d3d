"""The proof of a merge for models that cannot be run module by module: the whole model's logits in fp32, as base +
adapter and as the merged folder loads.

What rounding the merged weights may do to the logits depends on the model, so it is measured on the model itself: the
merged weights are moved at random by as much as the rounding of their type may have moved them, and the logits by what
follows from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import LoraplugError, Run
from loraplug_export.judge import VerificationReport
from loraplug_export.onto import WeightTransform
from loraplug_export.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ARITHMETIC = 1e-4
"""Relative difference of logits that fp32 arithmetic alone may make: x (W + s A B) against x W + s (x A) B."""
ROUNDINGS = 3
"""How many times what is measured once for a random rounding the rounding of the files may make."""
STEPS = {"F64": 2**-53, "F32": 2**-24, "BF16": 2**-9, "F16": 2**-12}
"""Half a unit in the last place of a value, relative to the value at most."""


def verify_logits(
    plan: Plan,
    merged: Path,
    rows: Sequence[Sequence[int]],
    run: Run,
    onto: Mapping[str, WeightTransform],
    unchanged: int,
) -> VerificationReport:
    """Prove the merged folder by its logits; base + adapter and the merged model are in memory one after the other.

    Args:
        unchanged: how many tensors have been found to be the base's byte for byte.

    Raises:
        InputError: peft cannot put the adapter on the base.
        LoraplugError: the logits differ by more than rounding explains, or are not finite.
    """
    with run.progress("proving the merge", 3) as bar:
        wanted = _reference(plan, rows, onto)
        bar.advance()
        model = load(merged, type(plan.model))
        got = logits(model, rows)
        bar.advance()
        _shake(model, plan)
        shaken = logits(model, rows)
        bar.advance()
    return compare(
        wanted, got, shaken, merged, run, VerificationReport("logits", sum(map(len, rows)), unchanged=unchanged)
    )


def compare(
    wanted: torch.Tensor, got: torch.Tensor, shaken: torch.Tensor, merged: Path, run: Run, proof: VerificationReport
) -> VerificationReport:
    """Judge logits of shape (tokens, vocabulary) by what another rounding of the merged weights has made of them.

    Raises:
        LoraplugError: they differ by more, or are not finite.
    """
    from attrs import evolve

    size = float((wanted - wanted.mean(-1, keepdim=True)).norm())
    relative = float((got - wanted).norm()) / max(size, 1e-30)
    allowed = max(ARITHMETIC, ROUNDINGS * float((shaken - got).norm()) / max(size, 1e-30))
    if not relative <= allowed:
        raise LoraplugError(
            f"the merged model's logits differ from base + adapter's by {relative:.2g} of their size, "
            f"allowed {allowed:.2g}",
            where=merged,
            todo="use the adapter as it is, with the exporter adapter",
        )
    largest = float((got - wanted).abs().max())
    run.say(
        f"merged: proved on {proof.tokens} tokens by the whole model's logits; largest difference {largest:.2g}, "
        f"relative {relative:.2g} (allowed {allowed:.2g}, by what rounding makes of this model)"
        + (f"; {proof.unchanged} tensors are the base's own" if proof.unchanged else "")
    )
    return evolve(proof, largest=largest, relative=relative, layer="logits", allowed=allowed)


def logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of all rows' tokens, fp32 of shape (tokens, vocabulary).

    Raises:
        LoraplugError: the model does not run on text, as it is or with the adapter on it.
    """
    import torch

    try:
        with torch.inference_mode():
            return torch.cat(
                [model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0].float() for row in rows]
            )
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        kind = type(model.get_base_model() if hasattr(model, "peft_config") else model).__name__
        what = f"a {kind} fails on text ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        todo = "set exporter.verify = false, which merges without a proof"
        raise LoraplugError(f"the merge cannot be proved: {what}", where="exporter", todo=todo) from error


def _reference(plan: Plan, rows: Sequence[Sequence[int]], onto: Mapping[str, WeightTransform]) -> torch.Tensor:
    from loraplug_export.peft_merge import with_adapter

    model = load(plan.base.folder, type(plan.model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, stored in plan.names.items():
        if stored in onto and name in parameters:
            parameters[name].data = onto[stored](plan.base.tensors[stored].read())
    return logits(with_adapter(model, plan.adapter), rows)


def load(folder: Path, kind: type[PreTrainedModel]) -> Any:
    """The model of a folder as one of this class, in fp32."""
    import torch

    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _shake(model: Any, plan: Plan) -> None:
    """Move the weights that the merge has changed by a random rounding of their stored type."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shake({name: (parameters[name], plan.dtype(name)) for name in plan.edits if name in parameters})


def shake(weights: Mapping[str, tuple[torch.Tensor, str]]) -> None:
    """Move weights, in place, by up to half a unit in the last place of their stored type."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for values, dtype in weights.values():
        noise = torch.rand(values.shape, generator=generator).mul_(2).sub_(1).mul_(STEPS[dtype])
        values.data.mul_(noise.add_(1))
