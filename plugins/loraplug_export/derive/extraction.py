"""Extracts a LoRA adapter from a full fine-tune: a low-rank approximation of each linear layer's change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from loraplug import InputError, Run
from loraplug_export.derive.low_rank import Errors, Pair, truncate
from loraplug_export.plan import empty_model
from loraplug_export.tensors import FLOATS, Checkpoint, Tensor, open_checkpoint, stored_name


@frozen(eq=False)
class Extracted:
    """LoRA pairs by module, their errors, and changed tensors that are not linear layers' weights.

    Attributes:
        modules: names of all modules of the base.
        left_out: stored name of a changed tensor that LoRA cannot represent, to the norm of its change.
    """

    pairs: Mapping[str, Pair]
    errors: Errors
    modules: tuple[str, ...]
    left_out: Mapping[str, float] = Factory(dict)

    @property
    def total(self) -> float:
        """The relative error over all changes, including what is left out."""
        kept = [(one.difference, one.change) for one in self.errors.layers.values()]
        kept += [(norm, norm) for norm in self.left_out.values()]
        return math.sqrt(math.fsum(one**2 for one, _ in kept) / math.fsum(all_**2 for _, all_ in kept))


def extract(base: Path, tuned: Path, rank: int, run: Run) -> Extracted:
    """Compare two models with equal tensor shapes, tensor by tensor; one tensor of each is in memory, in float32.

    Raises:
        InputError: their tensors differ in name or shape, or nothing changed.
    """
    import torch

    model = empty_model(base)
    ours, theirs = open_checkpoint(base), open_checkpoint(tuned)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    linear = {
        stored: name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" not in tied
        if (stored := stored_name(f"{name}.weight", model, ours)) is not None
    }
    matched = _matched(ours, theirs, model.base_model_prefix)
    pairs, errors, left_out = {}, Errors(), {}
    with run.progress("comparing", len(matched)) as bar:
        for stored, (old, new) in matched.items():
            module = linear.get(stored)
            if module is None:
                if (norm := _norm_of_change(old, new)) > 0:
                    left_out[stored] = norm
            else:
                change = new.read().float().sub_(old.read().float())
                if (norm := float(torch.linalg.norm(change))) > 0:
                    pairs[module] = pair = truncate(change, rank, run.seed)
                    difference = float(torch.linalg.norm(torch.addmm(change, pair.b, pair.a, alpha=-1)))
                    errors.add(module, pair.rank, difference, norm)
            bar.advance()
    if not pairs:
        what = f"differs from {base} in no linear layer" if left_out else f"has the same weights as {base}"
        raise InputError(what, where=tuned, todo="give the base first, then the model that was fine-tuned from it")
    return Extracted(pairs, errors, tuple(name for name, _ in model.named_modules()), left_out)


def _matched(ours: Checkpoint, theirs: Checkpoint, prefix: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Every stored tensor of the base with the tuned model's, whose name may have another prefix.

    Raises:
        InputError: one is missing on either side, has another shape, or is quantized.
    """
    found, taken, problems = {}, set(), []
    for name, old in ours.tensors.items():
        names = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        other = next((one for one in names if one in theirs.tensors), None)
        if other is None:
            if name != "lm_head.weight":  # some save it although it is tied to the embedding
                problems.append(f"{name} is missing")
            continue
        taken.add(other)
        new = theirs.tensors[other]
        if new.shape != old.shape:
            problems.append(f"{name} is {new.shape}, and {old.shape} in the base")
        elif strange := {old.dtype, new.dtype} - FLOATS.keys():
            problems.append(f"{name} has dtype {strange.pop()}")
        else:
            found[name] = (old, new)
    problems += [f"{name} is not in the base" for name in theirs.tensors if name not in taken | {"lm_head.weight"}]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        what = f"is not a fine-tune of {ours.folder}: {'; '.join(problems[:3])}{more}"
        raise InputError(
            what, where=theirs.folder, todo="use two models with the same architecture and sizes, unquantized"
        )
    return found


def _norm_of_change(old: Tensor, new: Tensor) -> float:
    """Frobenius norm of the difference, in chunks of rows."""
    import torch

    parts = (
        float(torch.linalg.norm(new.read(first, last).float() - old.read(first, last).float()))
        for first, last in old.pieces()
    )
    return math.sqrt(math.fsum(part**2 for part in parts))


def summary(found: Extracted) -> list[str]:
    """The summary of an extraction: errors by kind of layer, and what is left out."""
    lines = [*found.errors.lines(), f"  in all       {found.errors.total:.4f} of the linear layers' change is lost"]
    if found.left_out:
        largest = sorted(found.left_out, key=lambda name: -found.left_out[name])[:3]
        lines.append(
            f"  left out: {len(found.left_out)} tensors that are not weights of linear layers, such as "
            f"{', '.join(largest)}; with them {found.total:.4f} is lost"
        )
    return lines


def facts(found: Extracted) -> dict[str, Any]:
    """For `Provenance.derived`."""
    told: dict[str, Any] = {"error": found.errors.total, "error_with_what_is_left_out": found.total}
    return told | {"left_out": dict(found.left_out), "layers": found.errors.facts()}
