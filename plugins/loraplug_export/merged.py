"""`merged`: a transformers model folder that needs no peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import asdict, frozen

from loraplug import Doc, ExportContext, InputError, Problem, Provenance, Run, write_provenance
from loraplug_export.certificate.options import ProvedExporter
from loraplug_export.choices import OntoName

if TYPE_CHECKING:
    from loraplug_export.onto import WeightTransform
    from loraplug_export.plan import Plan


@frozen
class MergedExporter(ProvedExporter):
    """The base with the adapter merged in, written tensor by tensor; loads with transformers alone."""

    name = "merged"
    takes = frozenset({"adapter", "model"})
    out: Annotated[Path | None, Doc("the parent folder; default: outputs/merged")] = None
    onto: Annotated[
        OntoName,
        Doc(
            "the weights that the adapter is merged into: the base's own, or, for an adapter trained on a 4- or 8-bit "
            "base, the quantized and dequantized weights of the training"
        ),
    ] = "original"
    verify: Annotated[
        bool, Doc("verify the output of every merged layer against base + adapter before the export is kept")
    ] = True

    def place(self, run: Run) -> Path:
        """`<out>/<run name>`."""
        return (self.out or run.outputs / "merged") / run.name

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """Report what a certificate would need and the recipe does not have."""
        yield from self.proving_problems(run, recipe)

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:
        """Bytes of the base's unquantized weights."""
        from loraplug_export.estimate import base_bytes

        return {self.place(run): base_bytes(recipe.model.facts(run=run))}

    def export(self, result: ExportContext, out: Path) -> Path:
        """Merge into the folder `out`, with the verification's figures in `loraplug.json`. A fully trained model is
        copied.

        Raises:
            InputError: base and adapter do not fit, or one of their files is missing or damaged.
            LoraplugError: the merged weights are not finite, or do not give the outputs of base + adapter.
        """
        from loraplug_export.card import write_card
        from loraplug_export.folders import copy_licences, copy_model
        from loraplug_export.lora_files import open_adapter
        from loraplug_export.onto import dequantized
        from loraplug_export.plan import UnsupportedAdapterError, make_plan
        from loraplug_export.tensors import open_checkpoint

        if result.kind == "model":
            copy_model(result.adapter, out)
            copy_licences(result.base, out)
            _lock_with_proof(result, {}, out)
            write_card(result, out, "merged")
            return out
        adapter, base = open_adapter(result.adapter), open_checkpoint(result.base)
        try:
            plan = make_plan(adapter, base)
            onto = dequantized(plan, result.adapter, result.quantizer) if self.onto == "dequantized" else {}
        except UnsupportedAdapterError as reason:
            proof = self._with_peft(result, str(reason), out)
        else:
            proof = self._stream(result, plan, onto, out)
        copy_licences(result.base, out)
        write_provenance(out, Provenance(base=result.base_id, onto=self.onto, proof=proof or None))
        _lock_with_proof(result, {"base": result.base_id, "onto": self.onto, "proof": proof or None}, out)
        if self.proves(result):
            self._certify(result, out)
        write_card(result, out, "merged", proof)
        return out

    def _certify(self, result: ExportContext, out: Path) -> None:
        from loraplug_export.certificate import FILE, PAGE, certify, folder_claim, server_claims, settle

        if self.onto == "dequantized":
            result.run.say(
                "merged: no certificate, as a model merged into dequantized weights differs from base + adapter"
            )
            return
        claim = folder_claim(out)
        certificate = certify(result, [claim, *server_claims(self, result, claim.limit)])
        settle(certificate, out / FILE, out / PAGE, self.place(run=result.run))

    def _stream(
        self, result: ExportContext, plan: Plan, onto: Mapping[str, WeightTransform], out: Path
    ) -> dict[str, Any]:
        from loraplug_export.folders import write_config
        from loraplug_export.generation import write_generation_config
        from loraplug_export.judge import ReadPastError
        from loraplug_export.merge import merge
        from loraplug_export.rows import rows_for_proof
        from loraplug_export.verify import verify

        _begin(result, out)
        merge(plan, out, result.run, onto)
        grown = new_vocabulary(plan)
        write_config(result.base, out, grown, untied=bool(plan.untied))
        write_generation_config(result.base, out, out)
        if not self.verify:
            return {}
        vocabulary = grown or plan.model.config.get_text_config().vocab_size
        rows = [*rows_for_proof(result, out, vocabulary), *_token_rows(plan)]
        try:
            return asdict(verify(plan, out, rows, result.run, onto))
        except ReadPastError as error:
            names = ", ".join(error.names)
            result.run.say(
                f"merged: the adapter of {names} is left out: the model reads these weights directly, so it has no "
                "effect"
            )
            plan = plan.without(error.names)
        for file in plan.base.metadata:
            (out / file).unlink()
        merge(plan, out, result.run, onto)
        return asdict(verify(plan, out, rows, result.run, onto))

    def _with_peft(self, result: ExportContext, reason: str, out: Path) -> dict[str, Any]:
        from loraplug_export.compat import stored_forms
        from loraplug_export.lora_files import open_adapter
        from loraplug_export.peft_merge import merge_with_peft
        from loraplug_export.plan import check_ends, empty_model
        from loraplug_export.rows import rows_for_proof
        from loraplug_export.tensors import open_checkpoint

        if self.onto == "dequantized":
            raise InputError(
                f"this adapter needs peft's own merge ({reason}), which merges into the original weights only",
                where=result.adapter,
                todo='set onto = "original"',
            )
        model = empty_model(result.base, tuple(open_adapter(result.adapter).tensors))
        check_ends(model, stored_forms(model, open_checkpoint(result.base).tensors), result.base)
        vocabulary = model.config.get_text_config().vocab_size
        result.run.say(f"merged: peft merges with the whole model in memory, because {reason}")
        _begin(result, out)
        rows = rows_for_proof(result, out, vocabulary) if self.verify else None
        return merge_with_peft(result.adapter, result.base, out, rows, result.run)


def _lock_with_proof(result: ExportContext, facts: Mapping[str, Any], out: Path) -> None:
    """The run's lock, if there is one, with the merge's settings and verification figures as a last table."""
    import tomli_w

    if (lock := result.extras.get("recipe.lock.toml")) is not None:
        merge = {key: value for key, value in facts.items() if value is not None}
        proof = "\n" + tomli_w.dumps({"lock": {"merge": merge}}) if merge else ""
        text = lock.read_text(encoding="utf-8").rstrip() + "\n" + proof
        (out / lock.name).write_text(text, encoding="utf-8")


def _begin(result: ExportContext, out: Path) -> None:
    from loraplug_export.folders import copy_tokenizer

    out.mkdir(parents=True)
    copy_tokenizer([result.adapter, result.base], out)


def new_vocabulary(plan: Plan) -> int | None:
    """The number of embedding rows, if the adapter replaces the embedding or adds rows; else None."""
    embedding = plan.model.get_input_embeddings()
    for name, edit in plan.edits.items():
        if edit.rows is not None and plan.model.get_submodule(name.rpartition(".")[0]) is embedding:
            before = plan.base.tensors[plan.names[name]].shape[0]
            return grown if (grown := edit.rows.grown(before)) > before else None
        if edit.replacement is not None and plan.model.get_submodule(name.rpartition(".")[0]) is embedding:
            return int(edit.replacement.shape[0])
    return None


def _token_rows(plan: Plan) -> list[list[int]]:
    """A row of the added tokens, for the verification."""
    found = [edit.rows.numbers[:64] for edit in plan.edits.values() if edit.rows is not None]
    return [[*found[0]]] if found else []
