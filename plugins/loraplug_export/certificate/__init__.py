"""The certificate: compares the answers of an export with those of base + adapter, through the chat interface that
users use.
"""

from loraplug_export.certificate.engines import ChatAnswer, Engine, Listed
from loraplug_export.certificate.llama_cpp import LlamaCppEngine
from loraplug_export.certificate.measure import EngineReport, compare
from loraplug_export.certificate.options import ProvedExporter, server_claims
from loraplug_export.certificate.reference import Reference, ask_reference
from loraplug_export.certificate.verdict import (
    FILE,
    PAGE,
    Certificate,
    Claim,
    adapter_claim,
    certify,
    folder_claim,
    settle,
)

__all__ = [
    "FILE",
    "PAGE",
    "Certificate",
    "ChatAnswer",
    "Claim",
    "Engine",
    "EngineReport",
    "Listed",
    "LlamaCppEngine",
    "ProvedExporter",
    "Reference",
    "adapter_claim",
    "ask_reference",
    "certify",
    "compare",
    "folder_claim",
    "server_claims",
    "settle",
]
