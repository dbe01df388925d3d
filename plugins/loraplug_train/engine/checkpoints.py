"""Checkpoints: written atomically, verified by hash before use, without pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import Run, atomic_output, wrap_os_errors

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"step-(\d{8})")


@frozen
class Checkpoint:
    """State between two optimizer steps: tensors by name (any shape and dtype) and facts (JSON values)."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@frozen
class Checkpoints:
    """The checkpoints of a run, `step-00000120` and so on, the newest `save_total_limit` of them."""

    run: Run
    keep: int = 2

    @property
    def folder(self) -> Path:
        """The folder of the checkpoints."""
        return self.run.folder / "checkpoints"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint to a temporary folder, rename it, and delete the oldest ones."""
        place = self.folder / f"step-{checkpoint.step:08d}"
        write(place, checkpoint)
        with wrap_os_errors(self.folder):
            for old in sorted(self._all())[: -self.keep]:
                _remove(old)
        return place

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint; a damaged one is skipped with a warning."""
        for place in sorted(self._all(), reverse=True):
            try:
                return read(place)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.run.warn(f"checkpoint {place.name} is damaged ({error}); using the one before it")
        return None

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)]


def write(place: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder: state.safetensors, and state.json with the hashes of both."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        plain = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage (bitsandbytes shares its maps)
        tensors[name] = plain.clone() if plain.untyped_storage().data_ptr() in seen else plain
        seen.add(plain.untyped_storage().data_ptr())
    with atomic_output(place) as out, wrap_os_errors(place):
        out.mkdir(parents=True)
        save_file(tensors, out / "state.safetensors")
        body = {"step": checkpoint.step, "facts": dict(checkpoint.facts), "tensors": _hash(out / "state.safetensors")}
        text = json.dumps(body, sort_keys=True)
        sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body}
        (out / "state.json").write_text(json.dumps(sealed), encoding="utf-8")


def read(place: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        OSError, ValueError, KeyError, TypeError: a file is missing, cut short or changed.
    """
    from safetensors.torch import load_file

    sealed = json.loads((place / "state.json").read_text(encoding="utf-8"))
    body = sealed["body"]
    if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != sealed["sha256"]:
        raise ValueError("state.json does not match its hash")
    if _hash(place / "state.safetensors") != body["tensors"]:
        raise ValueError("state.safetensors does not match its hash")
    return Checkpoint(body["step"], load_file(place / "state.safetensors"), body["facts"])


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Rename, then delete, so that a kill leaves no partial checkpoint of that name."""
    import shutil

    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
