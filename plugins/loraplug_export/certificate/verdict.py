"""The certificate: whether an export gives the same answers as base + adapter, and where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from loraplug import ExportContext, LoraplugError, load_adapter, redact
from loraplug_export.card import public_name
from loraplug_export.certificate.engines import Engine, TorchEngine, stop_ids
from loraplug_export.certificate.measure import EngineReport, compare
from loraplug_export.certificate.page import page
from loraplug_export.certificate.reference import Reference, ask_reference, load_local

VERSION = 1
FILE, PAGE = "certificate.json", "CERTIFICATE.md"

MERGED_LIMITS = {"F32": 1e-4, "F16": 1e-3, "BF16": 5e-3}
"""Limit of the mean KL divergence (nats per token) of merged weights, by the dtype they are stored in."""


@frozen
class Certificate:
    """The engines' comparisons with the reference.

    Attributes:
        base: its name for publication, see `card.public_name`.
        dtype: the dtype in which base + adapter was computed.
        engines: one report per engine.
    """

    run: str
    base: str
    dtype: str
    engines: tuple[EngineReport, ...]

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return not any(one.problems for one in self.engines)

    def table(self) -> dict[str, Any]:
        """The content of certificate.json."""
        rows = [
            asdict(one) | {"mean_kl": one.mean, "largest_kl": one.largest, "passed": not one.problems}
            for one in self.engines
        ]
        said = {"version": VERSION, "passed": self.passed, "run": self.run, "base": self.base, "dtype": self.dtype}
        return said | {"engines": rows}

    def write(self, data: Path, readable: Path) -> None:
        """Write it as JSON (`data`) and as Markdown (`readable`)."""
        text = json.dumps(_finite(self.table()), indent=1, ensure_ascii=False) + "\n"
        data.write_text(redact(text), encoding="utf-8")
        readable.write_text(redact(page(self.table())), encoding="utf-8")


@frozen
class Claim:
    """An engine to compare, and its limit.

    Attributes:
        start: loads it; is given the reference, for the context length.
        limit: of its mean KL divergence, nats per token.
        explain: names differences in the artefact itself, if the answers differ.
    """

    name: str
    start: Callable[[Reference], Engine]
    limit: float
    explain: Callable[[], Iterable[str]] | None = None


def certify(result: ExportContext, claims: Iterable[Claim]) -> Certificate:
    """Compute the reference's answers, then compare each engine; one model at a time is in memory.

    Raises:
        InputError: base + adapter itself fails.
    """
    reference = ask_reference(result)
    reports = []
    for claim in claims:
        report = _asked(reference, claim)
        reports.append(report)
        result.run.say(_line(report))
    return Certificate(result.run.name, public_name(result.base_id), reference.dtype, tuple(reports))


def _asked(reference: Reference, claim: Claim) -> EngineReport:
    try:
        engine = claim.start(reference)
    except Exception as error:  # libraries raise errors of any kind on a broken artefact
        what = " ".join(str(getattr(error, "what", None) or error).split())[:300]
        return EngineReport(claim.name, claim.limit, problems=[f"cannot be loaded: {type(error).__name__}: {what}"])
    try:
        report = compare(reference, engine, claim.limit)
    finally:
        engine.close()
    if report.problems and claim.explain is not None:
        report = evolve(report, problems=[*report.problems, *claim.explain()])
    return report


def _line(report: EngineReport) -> str:
    if report.problems:
        return f"certificate: {report.name}: {report.problems[0]}"
    figures = (
        "" if report.mean is None else f"; KL divergence {report.mean:.2g} nats per token (limit {report.limit:g})"
    )
    return (
        f"certificate: {report.name} gives the same answers as base + adapter on {len(report.prompts)} prompts{figures}"
    )


def settle(certificate: Certificate, data: Path, readable: Path, refused: Path) -> None:
    """Write a passed certificate into the export's folder; a failed one beside it, and fail, so that the export is not
    made.

    Raises:
        LoraplugError: an engine does not agree.
    """
    report = refused.with_name(refused.name + ".refused.json")
    if certificate.passed:
        certificate.write(data, readable)
        for old in (report, report.with_suffix(".md")):
            old.unlink(missing_ok=True)
        return
    refused.parent.mkdir(parents=True, exist_ok=True)
    certificate.write(report, report.with_suffix(".md"))
    found = [f"{one.name}: {problem}" for one in certificate.engines for problem in one.problems]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    what = f"gives other answers than base + adapter: {'; '.join(found[:3])}{more}"
    raise LoraplugError(what, where=refused, todo=f"nothing was exported; see {report.with_suffix('.md')} for details")


def folder_claim(folder: Path) -> Claim:
    """A merged folder, loaded by transformers with its own tokenizer and template."""
    from loraplug_export.tensors import open_checkpoint

    kinds = [tensor.dtype for tensor in open_checkpoint(folder).tensors.values() if len(tensor.shape) > 1]
    limit = max((MERGED_LIMITS.get(kind, 1e-3) for kind in kinds), default=1e-3)
    return Claim("merged", lambda reference: _folder_engine(folder, reference), limit)


def _folder_engine(folder: Path, reference: Reference) -> TorchEngine:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model, told = load_local(folder, reference.dtype, output_loading_info=True, ignore_mismatched_sizes=False)
    if lost := sorted(told["missing_keys"]):
        raise LoraplugError(f"lacks {len(lost)} weights, such as {lost[0]}", where=folder)
    return TorchEngine("merged", model.eval(), tokenizer, stop_ids(model, tokenizer))


def adapter_claim(base: Path, folder: Path) -> Claim:
    """An adapter folder, loaded by peft with the tokenizer and generation config in it."""
    return Claim("adapter", lambda reference: _adapter_engine(base, folder, reference), MERGED_LIMITS["F32"])


def _adapter_engine(base: Path, folder: Path, reference: Reference) -> TorchEngine:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = load_local(base, reference.dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return TorchEngine("adapter", load_adapter(model, folder).eval(), tokenizer, stop_ids(model, tokenizer))


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if abs(value) < 1e300 else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
