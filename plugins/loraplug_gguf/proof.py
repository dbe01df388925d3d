"""A GGUF file's claim to answer as base + adapter does, and what of it is different where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loraplug import Run
from loraplug_export import open_checkpoint
from loraplug_export.certificate import Claim, LlamaCppEngine, Reference
from loraplug_gguf.choices import TypeName

_LIMITS: tuple[tuple[str, float], ...] = (
    ("f32", 1e-3), ("f16", 1e-3), ("bf16", 5e-3), ("q8_0", 1e-2), ("q6", 3e-2), ("q5", 5e-2), ("q4", 0.1), ("iq4", 0.1),
    ("mxfp4", 0.2), ("q3", 0.3), ("iq3", 0.5),
)  # fmt: skip
"""Of the mean divergence, nats a token, by what a type's name begins with.

That of f16 is held to SmolLM2, whose mean is 1.4e-5; those of smaller types are estimates.
"""
_ROUNDED = {"F32": 1e-3, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 2e-2}
_FINEST = 0.35  # of a tensor's norm: what formats of four bits and less may round away


def limit_of(kind: TypeName) -> float:
    """Of the mean divergence of a type, nats a token."""
    return next((limit for start, limit in _LIMITS if kind.startswith(start)), 2.0)


def first_file(out: Path) -> Path:
    """What llama.cpp is given: the file, or the first of a folder's."""
    return sorted(out.glob("*.gguf"))[0] if out.is_dir() else out


def file_claim(out: Path, kind: TypeName, folder: Path, run: Run, adapters: Sequence[Path] = ()) -> Claim:
    """A file, or a folder of split ones, in llama.cpp.

    Args:
        folder: the transformers folder that it was made of.
    """

    def start(reference: Reference) -> LlamaCppEngine:
        return LlamaCppEngine.start(f"llama.cpp ({kind})", first_file(out), reference.context + 8, adapters)

    return Claim(f"llama.cpp ({kind})", start, limit_of(kind), lambda: other_tensors(out, folder, run))


def other_tensors(out: Path, folder: Path, run: Run) -> Iterator[str]:
    """Tensors of the files that are not the folder's, beyond what their format rounds away; at most three are named."""
    import numpy as np
    from gguf import GGUFReader, quants

    from loraplug_gguf.converter import run_converter

    stored = open_checkpoint(folder).tensors
    shapes = {name: tensor.shape for name, tensor in stored.items() if len(tensor.shape) == 2}
    places = run_converter(run, "layout", folder, shapes=shapes)["places"]
    files = sorted(out.glob("*.gguf")) if out.is_dir() else [out]
    tensors = {tensor.name: tensor for file in files for tensor in GGUFReader(file).tensors}
    found: list[tuple[float, str]] = []
    for name, place in places.items():
        tensor = tensors.get(place["name"])
        if tensor is None:
            if not (name == "lm_head.weight" and "output.weight" not in tensors):
                found.append((float("inf"), f"{place['name']} ({name}) is not in the file"))
            continue
        wanted: Any = stored[name].read().float().numpy()
        wanted = wanted if place["rows"] is None else wanted[place["rows"]]
        got = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if got.size != wanted.size:
            found.append((float("inf"), f"{place['name']} ({name}) has {got.size} values for {wanted.size}"))
            continue
        off = float(np.linalg.norm(got.reshape(wanted.shape) - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))
        if off > _ROUNDED.get(tensor.tensor_type.name, _FINEST):
            found.append((off, f"{place['name']} ({name}) is off by {off:.0%} of its size"))
    yield from (text for _, text in sorted(found, reverse=True)[:3])
