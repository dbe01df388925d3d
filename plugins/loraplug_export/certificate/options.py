"""The options of exporters whose artefacts can be certified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, Problem, Run

CHEAP = 400_000_000
"""Up to this many parameters a certificate is made by default: it takes under a minute on two CPU cores."""


@frozen(kw_only=True)
class ProvedExporter(Exporter):
    """An exporter that can compare what it has made with base + adapter."""

    prove: Annotated[
        Literal["auto", "always", "never"],
        Doc(
            "certify that the export gives the same answers as base + adapter, in chat; auto: after a training, for "
            "models of at most 400 million parameters. If they do not agree, the export fails"
        ),
    ] = "auto"
    server: Annotated[
        str | None, Doc("address of a server (OpenAI API) that serves this model; it is included in the certificate")
    ] = None
    server_model: Annotated[str | None, Doc("the model's name on that server; default: the run's name")] = None

    def proves(self, result: ExportContext) -> bool:
        """Whether to make a certificate; never for a model that was trained whole, which has no adapter."""
        if result.kind == "model":
            return False
        if self.prove != "auto":
            return self.prove == "always"
        from loraplug_export.certificate.reference import parameters
        from loraplug_export.folders import has_tokenizer

        folder = result.adapter if has_tokenizer(result.adapter) else result.base
        return bool(result.samples) and _has_template(folder) and parameters(result) <= CHEAP

    def proving_problems(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """Refuse a certificate for a model without a chat template, and an invalid server address."""
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            yield Problem(
                "exporter.server", f"{self.server!r} is not a valid address: begin it with http:// or https://"
            )
        if self.prove == "always" and recipe.trainer.makes() == "model":
            yield Problem(
                "exporter.prove", "a certificate compares with base + adapter, but this trainer makes a whole model"
            )
        facts = recipe.model.facts(run=run) if self.prove == "always" else None
        if facts is not None and facts.chat_template is None:
            yield Problem("exporter.prove", "a certificate needs a chat template, and the model has none")


def _has_template(folder: Any) -> bool:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError):
        return False
    return bool(tokenizer.chat_template)


def server_claims(exporter: ProvedExporter, result: ExportContext, limit: float) -> Iterator[Any]:
    """The exporter's server as an engine, where one is named."""
    if exporter.server is None:
        return
    import os

    from loraplug_export.certificate.openai_server import OpenAIEngine
    from loraplug_export.certificate.verdict import Claim

    address, model = exporter.server, exporter.server_model or result.run.name
    key = os.environ.get("OPENAI_API_KEY")
    yield Claim(
        f"server {address}", lambda reference: OpenAIEngine("server", address, model, reference.tokenizer, key), limit
    )
