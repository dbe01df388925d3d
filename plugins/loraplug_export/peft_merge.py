"""peft's own merge, for kinds of adapter this package has no arithmetic for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, LoraplugError, Run

if TYPE_CHECKING:
    import torch


def merge_with_peft(
    adapter: Path, base: Path, out: Path, rows: Sequence[Sequence[int]] | None, run: Run
) -> dict[str, Any]:
    """Load the base in fp32, merge, and save in the base's type; the whole model is in memory.

    Args:
        rows: token ids on which logits before and after the merge must agree, or None.

    Returns:
        What the proof measured, as `verify.Proof` says it; empty without `rows`.

    Raises:
        InputError: base and adapter do not fit.
        LoraplugError: peft cannot merge this adapter, or the merged model answers differently.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    try:
        wrapped = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"peft cannot put the adapter on this base ({_line(error)})", where=adapter, todo="check the base model"
        ) from None
    before = [_logits(wrapped, row) for row in rows or ()]
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise LoraplugError(
            f"peft cannot merge this kind of adapter ({_line(error)})",
            where=adapter,
            todo="use the adapter as it is, with the exporter adapter",
        ) from None
    proof: dict[str, Any] = {}
    if rows:
        largest = max(float((_logits(merged, row) - old).abs().max()) for row, old in zip(rows, before, strict=True))
        relative = largest / max(float(old.abs().max()) for old in before)
        if not relative < 1e-3:
            raise LoraplugError(
                f"peft's merged model answers differently from base + adapter (logits by {largest:.2g})",
                where=adapter,
                todo="use the adapter as it is, with the exporter adapter",
            )
        run.say(f"merged: proved on the logits of {sum(map(len, rows))} tokens; largest difference {largest:.2g}")
        proof = {
            "tokens": sum(map(len, rows)),
            "largest": largest,
            "relative": relative,
            "layer": "logits",
            "allowed": 1e-3,
        }
    merged.to(dtype).save_pretrained(out)
    return proof


def _logits(model: Any, row: Sequence[int]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(row)])).logits
    return logits


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
