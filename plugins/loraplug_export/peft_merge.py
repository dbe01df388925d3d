"""peft's own merge, for kinds of adapter that the streaming merge does not support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, LoraplugError, Run, load_adapter, model_names
from loraplug_export.compat import as_stored, stored_forms
from loraplug_export.folders import write_config
from loraplug_export.generation import write_generation_config
from loraplug_export.logits import load, logits
from loraplug_export.lora_files import open_adapter
from loraplug_export.plan import empty_model
from loraplug_export.tensors import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

LOGITS = 1e-3
"""Largest relative difference of float32 logits allowed before the weights are rounded to the base's dtype."""


def merge_with_peft(
    adapter: Path, base: Path, out: Path, rows: Sequence[Sequence[int]] | None, run: Run
) -> dict[str, Any]:
    """Load the base in float32, merge, and save as the base is stored; the whole model is in memory, once.

    Args:
        rows: token ids on which the written folder is verified, or None.

    Returns:
        The figures of `judge.VerificationReport`, and `logits`, the largest difference of float32 logits before
        rounding; empty without `rows`.

    Raises:
        InputError: base and adapter do not fit.
        LoraplugError: peft cannot merge this adapter, or the merged model's outputs differ.
    """
    largest = _write_merged(adapter, base, out, rows or (), run)
    if not rows:
        return {}
    from attrs import asdict

    from loraplug_export.peft_verify import verify_with_peft
    from loraplug_export.verify import check_unchanged

    model, stored = _load(adapter, base), open_checkpoint(base)
    forms = stored_forms(empty_model(base, tuple(open_adapter(adapter).tensors)), stored.tensors)
    loaded = {*forms.direct.values(), *(name for one in forms.converted.values() for name in one.sources)}
    beside = [name for name in stored.tensors if name not in loaded]
    check_unchanged(stored, open_checkpoint(out), beside)
    proof = verify_with_peft(model, out, rows, run, beside=len(beside))
    return asdict(proof) | {"logits": largest}


def _write_merged(adapter: Path, base: Path, out: Path, rows: Sequence[Sequence[int]], run: Run) -> float:
    from loraplug_export.merge import write_values

    wrapped = _load(adapter, base)
    before = logits(wrapped, rows) if rows else None
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise LoraplugError(
            f"peft cannot merge this kind of adapter ({_line(error)})",
            where=adapter,
            todo="use the adapter without merging, with the exporter `adapter`",
        ) from None
    largest = 0.0
    if before is not None:
        largest = float((logits(merged, rows) - before).abs().max())
        if not largest / float(before.abs().max()) < LOGITS:
            raise LoraplugError(
                f"the logits of peft's merged model differ from those of base + adapter by {largest:.2g}",
                where=adapter,
                todo="use the adapter without merging, with the exporter `adapter`",
            )
    checkpoint = open_checkpoint(base)
    values, new = _as_stored(merged, checkpoint)
    write_values(checkpoint, values, new, out, run)
    rows_now = merged.get_input_embeddings().weight.shape[0]
    vocabulary = empty_model(base).config.get_text_config().vocab_size
    write_config(base, out, rows_now if rows_now != vocabulary else None, untied=bool(new))
    write_generation_config(base, out, out)
    return largest


def _as_stored(merged: Any, base: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The merged model's values by the base's stored names, and those of untied weights by the model's names. Tensors
    that the model does not load (a vision tower) are in neither.

    Raises:
        LoraplugError: transformers cannot convert them to the base's form.
    """
    import torch

    forms, state = stored_forms(merged, base.tensors), merged.state_dict()
    tied = dict(merged.all_tied_weights_keys)
    tied |= {source: target for target, source in tied.items()}
    values = {stored: state[name] for name, stored in forms.direct.items()}
    new = {
        name: value
        for name, value in state.items()
        if name not in forms.direct
        and name not in forms.converted
        and not (name in tied and torch.equal(value, state[tied[name]]))
    }
    for conversion in set(forms.converted.values()):
        back = as_stored(merged, {name: state[name] for name in conversion.targets})
        if sorted(back) != sorted(conversion.sources):
            raise LoraplugError(
                f"transformers cannot store {conversion.targets[0]} as the base does",
                where=base.folder,
                todo="use the adapter without merging, with the exporter `adapter`",
            )
        values |= back
    return values, new


def _load(adapter: Path, base: Path) -> PeftModel:
    kind = type(empty_model(base, tuple(open_adapter(adapter).tensors)))
    return with_adapter(load(base, kind), adapter)


def with_adapter(model: Any, adapter: Path) -> PeftModel:
    """Attach an adapter to a model with peft.

    Raises:
        InputError: they do not fit.
    """
    from peft import get_peft_model_state_dict

    names = model_names(model, open_adapter(adapter).tensors)
    try:
        adapted = load_adapter(model, adapter).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"peft cannot attach the adapter to this base model ({_line(error)})",
            where=adapter,
            todo="check that this is the base model of the adapter",
        ) from None
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if lacking := sorted(wanted - {*names.values()}):  # peft only warns of them
        what = f"the adapter does not fit this base model: {len(lacking)} tensors are missing, such as {lacking[0]}"
        raise InputError(what, where=adapter, todo="check that this is the base model of the adapter")
    return adapted


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
