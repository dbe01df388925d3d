"""Verifies a merge by the whole model's float32 logits, for models that cannot be run module by module.

The effect of rounding the merged weights on the logits depends on the model, so it is measured: the merged weights are
perturbed at random by as much as rounding to their dtype may have changed them.
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
"""Relative difference of logits that float32 arithmetic alone may cause: x (W + s A B) against x W + s (x A) B."""
ROUNDINGS = 3
"""Allowed multiple of the difference that was measured for a random rounding."""
STEPS = {"F64": 2**-53, "F32": 2**-24, "BF16": 2**-9, "F16": 2**-12}
"""Half a unit in the last place, relative to the value, at most."""


def verify_logits(
    plan: Plan,
    merged: Path,
    rows: Sequence[Sequence[int]],
    run: Run,
    onto: Mapping[str, WeightTransform],
    unchanged: int,
) -> VerificationReport:
    """Verify the merged folder by its logits; base + adapter and the merged model are loaded one after the other.

    Args:
        unchanged: number of tensors already found to be byte for byte the base's.

    Raises:
        InputError: peft cannot attach the adapter to the base.
        LoraplugError: the logits differ by more than rounding explains, or are not finite.
    """
    with run.progress("verifying the merge", 3) as bar:
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
    """Compare logits of shape (tokens, vocabulary), given the logits of another rounding of the merged weights.

    Raises:
        LoraplugError: they differ by more than rounding explains, or are not finite.
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
            todo="use the adapter without merging, with the exporter `adapter`",
        )
    largest = float((got - wanted).abs().max())
    run.say(
        f"merged: compared with base + adapter on {proof.tokens} tokens: the logits differ by at most {largest:.2g}, "
        f"relative {relative:.2g} (allowed {allowed:.2g}, from the measured effect of rounding)"
        + (f"; {proof.unchanged} tensors are identical to the base's" if proof.unchanged else "")
    )
    return evolve(proof, largest=largest, relative=relative, layer="logits", allowed=allowed)


def logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of the tokens of all rows, float32 of shape (tokens, vocabulary).

    Raises:
        LoraplugError: the model fails on token ids, with or without the adapter.
    """
    import torch

    try:
        with torch.inference_mode():
            return torch.cat(
                [model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0].float() for row in rows]
            )
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        kind = type(model.get_base_model() if hasattr(model, "peft_config") else model).__name__
        what = f"a {kind} fails on input tokens ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        todo = "set exporter.verify = false to merge without verification"
        raise LoraplugError(f"the merge cannot be verified: {what}", where="exporter", todo=todo) from error


def _reference(plan: Plan, rows: Sequence[Sequence[int]], onto: Mapping[str, WeightTransform]) -> torch.Tensor:
    from loraplug_export.peft_merge import with_adapter

    model = load(plan.base.folder, type(plan.model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, stored in plan.names.items():
        if stored in onto and name in parameters:
            parameters[name].data = onto[stored](plan.base.tensors[stored].read())
    return logits(with_adapter(model, plan.adapter), rows)


def load(folder: Path, kind: type[PreTrainedModel]) -> Any:
    """Load a folder as a model of this class, in float32."""
    import torch

    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _shake(model: Any, plan: Plan) -> None:
    """Perturb the weights that the merge has changed by a random rounding to their stored dtype."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shake({name: (parameters[name], plan.dtype(name)) for name in plan.edits if name in parameters})


def shake(weights: Mapping[str, tuple[torch.Tensor, str]]) -> None:
    """Perturb weights, in place, by up to half a unit in the last place of their stored dtype."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for values, dtype in weights.values():
        noise = torch.rand(values.shape, generator=generator).mul_(2).sub_(1).mul_(STEPS[dtype])
        values.data.mul_(noise.add_(1))
