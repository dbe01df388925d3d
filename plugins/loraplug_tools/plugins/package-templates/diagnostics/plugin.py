"""A loraplug plugin: see `part.py`."""

from collections.abc import Sequence

from loraplug import Diagnostic, hookimpl
from my_package.part import proxy

LORAPLUG_API = "2.0"


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """Provide the diagnostic `proxy`."""
    return [proxy]
