"""`adapter`: the trained adapter itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from attrs import frozen

from loraplug import Doc, ExportContext, Run
from loraplug_export.certificate.options import ProvedExporter


@frozen
class AdapterExporter(ProvedExporter):
    """The adapter with tokenizer, model card, recipe lock and metrics; loads with peft."""

    name = "adapter"
    out: Annotated[Path | None, Doc("the parent folder; default: outputs/adapters")] = None

    def place(self, run: Run) -> Path:
        """`<out>/<run name>`."""
        return (self.out or run.outputs / "adapters") / run.name

    def export(self, result: ExportContext, out: Path) -> Path:
        """Copy the adapter folder with tokenizer, model card, recipe lock and metrics."""
        import shutil

        from loraplug_export.card import loadable_base, write_card
        from loraplug_export.folders import copy_licences
        from loraplug_export.generation import write_generation_config
        from loraplug_export.lora_files import CONFIG, open_adapter

        open_adapter(result.adapter)
        shutil.copytree(result.adapter, out)
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = loadable_base(result)
        (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, path in result.extras.items():
            shutil.copyfile(path, out / name)
        write_generation_config(result.base, out, out)
        copy_licences(result.base, out)
        if self.prove == "always":  # an adapter folder is base + adapter itself: only a server can differ from it
            self._certify(result, out)
        write_card(result, out, "adapter")
        return out

    def _certify(self, result: ExportContext, out: Path) -> None:
        from loraplug_export.certificate import FILE, PAGE, adapter_claim, certify, server_claims, settle

        claim = adapter_claim(result.base, out)
        certificate = certify(result, [claim, *server_claims(self, result, claim.limit)])
        settle(certificate, out / FILE, out / PAGE, self.place(run=result.run))
