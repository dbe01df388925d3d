"""JavaScript and TypeScript for `swe-bugs` and `eval`: bugs by tree-sitter; tests by node's runner, jest or vitest."""

from collections.abc import Sequence

from loraplug import Diagnostic, hookimpl
from loraplug_javascript.diagnosis import node_found


@hookimpl
def loraplug_diagnostics() -> Sequence[Diagnostic]:
    """Check Node.js."""
    return [node_found]
