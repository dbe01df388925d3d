"""The exporter `my-part`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, ExportContext, Exporter, LoraplugError, Run


@frozen
class MyPart(Exporter):
    """A JSON file that tells what an adapter holds: its settings, its tensors, and the figures of its training."""

    name = "my-part"
    indent: Annotated[int, Doc("spaces a level is moved in by")] = field(default=1, validator=validators.ge(0))

    def place(self, run: Run) -> Path:
        """`outputs/my-part/<run name>.json`."""
        return run.outputs / self.name / f"{run.name}.json"

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the file."""
        config = self._config(result.adapter)
        told = {"base": result.base_id, "rank": config.get("r"), "alpha": config.get("lora_alpha")}
        told |= {"tensors": self._tensors(result.adapter), "figures": dict(result.figures)}
        out.write_text(json.dumps(told, indent=self.indent, sort_keys=True) + "\n", encoding="utf-8")
        return out

    def _config(self, adapter: Path) -> dict[str, Any]:
        path = adapter / "adapter_config.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise LoraplugError(f"cannot be read ({error})", where=path, todo="train the adapter again") from error

    def _tensors(self, adapter: Path) -> dict[str, list[int]]:
        """Name to shape."""
        from safetensors import SafetensorError, safe_open

        path = adapter / "adapter_model.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
        except (OSError, SafetensorError) as error:
            raise LoraplugError(f"cannot be read ({error})", where=path, todo="train the adapter again") from error
