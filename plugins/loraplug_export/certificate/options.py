"""The options of exporters whose artefacts can be proved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, Problem, Run

CHEAP = 400_000_000
"""Up to so many parameters a certificate is made without being asked for: under a minute on two CPU cores."""


@frozen(kw_only=True)
class ProvedExporter(Exporter):
    """An exporter that can ask what it has made the same as base + adapter."""

    prove: Annotated[
        Literal["auto", "always", "never"],
        Doc(
            "certify that what was made answers as base + adapter does, through the chat path; auto does so after a "
            "training of at most 400 million parameters. What does not agree is not made"
        ),
    ] = "auto"
    server: Annotated[
        str | None, Doc("address of a server (OpenAI API) that has this model; it is asked the same where one proves")
    ] = None
    server_model: Annotated[str | None, Doc("what that server calls the model; by default the run's name")] = None

    def proves(self, result: ExportContext) -> bool:
        """Whether a certificate is to be made; none is of a model that was trained whole, which has no adapter."""
        if result.kind == "model":
            return False
        if self.prove != "auto":
            return self.prove == "always"
        from loraplug_export.certificate.reference import parameters
        from loraplug_export.folders import has_tokenizer

        folder = result.adapter if has_tokenizer(result.adapter) else result.base
        return bool(result.samples) and _has_template(folder) and parameters(result) <= CHEAP

    def proving_problems(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """A certificate of a model without a chat template; a server's address that is none."""
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            yield Problem("exporter.server", f"{self.server!r} is no address: begin it with http:// or https://")
        if self.prove == "always" and recipe.trainer.makes() == "model":
            yield Problem("exporter.prove", "a certificate asks base and adapter, and the trainer makes a whole model")
        facts = recipe.model.facts(run=run) if self.prove == "always" else None
        if facts is not None and facts.chat_template is None:
            yield Problem("exporter.prove", "a certificate asks through a chat template, and the model has none")


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
