"""The exporter `zip`: an adapter as one file that can be checked."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Annotated

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, LoraplugError, Run

SUMS = "SHA256SUMS"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip file can hold


@frozen
class ZipExporter(Exporter):
    """The adapter as one zip file with SHA-256 sums: the same adapter, the same bytes."""

    name = "zip"
    out: Annotated[Path | None, Doc("the folder to put it into; by default outputs/zip")] = None
    extras: Annotated[bool, Doc("take in recipe lock, metrics and plot, too")] = True
    compress: Annotated[bool, Doc("deflate; weights hardly shrink, and the bytes then depend on zlib's version")] = (
        False
    )

    def place(self, run: Run) -> Path:
        """`<out>/<run name>.zip`."""
        return (self.out or run.outputs / "zip") / f"{run.name}.zip"

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the file; names sorted, dates and rights the same for all."""
        check_adapter(result.adapter)
        files = {
            path.relative_to(result.adapter).as_posix(): path for path in result.adapter.rglob("*") if path.is_file()
        }
        if self.extras:
            files = {**result.extras, **files}
        for name, path in files.items():
            if path.suffix in _PICKLES:
                todo = "save the adapter as safetensors"
                raise LoraplugError("is a pickle, which runs code where it is loaded", where=path, todo=todo)
            if name == SUMS:
                raise LoraplugError(f"the adapter has a file {SUMS} of its own", where=path, todo="remove it")
        how = zipfile.ZIP_DEFLATED if self.compress else zipfile.ZIP_STORED
        sums: list[str] = []
        with zipfile.ZipFile(out, "w", how) as archive, result.run.progress("zip", len(files)) as bar:
            for name, path in sorted(files.items()):
                digest = hashlib.sha256()
                with path.open("rb") as source, archive.open(_entry(name, how, path.stat().st_size), "w") as target:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        target.write(block)
                sums.append(f"{digest.hexdigest()}  {name}\n")
                bar.advance(1)
            archive.writestr(_entry(SUMS, how, 0), "".join(sums).encode("utf-8"))
        return out


def _entry(name: str, how: int, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.compress_type, entry.file_size = how, size
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, wherever it is made
    return entry


def check_adapter(folder: Path) -> None:
    """LoraplugError unless the folder holds an adapter whose config and weights can be read."""
    from safetensors import SafetensorError, safe_open

    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoraplugError(f"cannot be read ({error})", where=config, todo="train the adapter again") from error
    try:
        with safe_open(weights, framework="numpy") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise LoraplugError(f"cannot be read ({error})", where=weights, todo="train the adapter again") from error
