"""peft's own merge, for kinds of adapter this package has no arithmetic for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, LoraplugError, Run

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

LOGITS = 1e-3
"""Largest relative difference of fp32 logits by the merge itself, before the weights are rounded to the base's type."""


def merge_with_peft(
    adapter: Path, base: Path, out: Path, rows: Sequence[Sequence[int]] | None, run: Run
) -> dict[str, Any]:
    """Load the base in fp32, merge, and save in the base's type; the whole model is in memory, once.

    Args:
        rows: token ids on which the written folder is proved layer by layer, or None.

    Returns:
        What the proof measured, as `verify.Proof` says it, and `logits`, the largest difference of fp32 logits by the
        merge itself; empty without `rows`.

    Raises:
        InputError: base and adapter do not fit.
        LoraplugError: peft cannot merge this adapter, or the merged model answers differently.
    """
    largest = _write_merged(adapter, base, out, rows or ())
    if not rows:
        return {}
    from attrs import asdict

    from loraplug_export.peft_verify import verify_with_peft

    return asdict(verify_with_peft(_load(adapter, base), out, rows, run)) | {"logits": largest}


def _write_merged(adapter: Path, base: Path, out: Path, rows: Sequence[Sequence[int]]) -> float:
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).dtype or torch.float32
    wrapped = _load(adapter, base)
    before = [_logits(wrapped, row) for row in rows]
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise LoraplugError(
            f"peft cannot merge this kind of adapter ({_line(error)})",
            where=adapter,
            todo="use the adapter as it is, with the exporter adapter",
        ) from None
    largest = 0.0
    if rows:
        largest = max(float((_logits(merged, row) - old).abs().max()) for row, old in zip(rows, before, strict=True))
        if not largest / max(float(old.abs().max()) for old in before) < LOGITS:
            raise LoraplugError(
                f"peft's merged model answers differently from base + adapter (logits by {largest:.2g})",
                where=adapter,
                todo="use the adapter as it is, with the exporter adapter",
            )
    merged.to(dtype).save_pretrained(out)
    return largest


def _load(adapter: Path, base: Path) -> PeftModel:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    try:
        return PeftModel.from_pretrained(model, str(adapter)).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"peft cannot put the adapter on this base ({_line(error)})", where=adapter, todo="check the base model"
        ) from None


def _logits(model: Any, row: Sequence[int]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(row)])).logits
    return logits


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
