"""The private part of transformers that exporters take; `tests/export/test_export_compat.py` holds what it must do."""

from __future__ import annotations

from typing import Any


def kept_in_fp32(model: Any) -> list[str]:
    """Names of modules that transformers quantises in no case; none for most models."""
    return [*(model._keep_in_fp32_modules or ())]
