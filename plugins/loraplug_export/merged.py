"""`merged`: a transformers folder that needs no peft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from attrs import frozen

from loraplug import Doc, Exporter, Run, Trained
from loraplug_export.folders import copy_licences, copy_tokenizer, write_config
from loraplug_export.lora_files import open_adapter
from loraplug_export.plan import Plan, make_plan
from loraplug_export.tensors import open_checkpoint


@frozen
class MergedExporter(Exporter):
    """The base with the adapter merged in, written tensor by tensor; loads with transformers alone."""

    name = "merged"
    out: Annotated[Path | None, Doc("the folder to put it into; by default outputs/merged")] = None

    def place(self, run: Run) -> Path:
        """`<out>/<run name>`."""
        return (self.out or run.outputs / "merged") / run.name

    def export(self, result: Trained, out: Path) -> Path:
        """Merge into the folder `out`."""
        from loraplug_export.merge import merge

        base = open_checkpoint(result.base)
        plan = make_plan(open_adapter(result.adapter), base)
        out.mkdir(parents=True)
        merge(plan, out, result.run)
        write_config(result.base, out, config_changes(plan))
        copy_tokenizer([result.adapter, result.base], out)
        copy_licences(result.base, out)
        return out


def config_changes(plan: Plan) -> dict[str, Any]:
    """What the merged model's config says differently from the base's."""
    changes: dict[str, Any] = {}
    if plan.untied:
        changes["tie_word_embeddings"] = False
    embedding = plan.model.get_input_embeddings()
    for name, edit in plan.edits.items():
        module = plan.model.get_submodule(name.rpartition(".")[0])
        if module is embedding and edit.replacement is not None:
            changes["vocab_size"] = edit.replacement.shape[0]
    return changes
