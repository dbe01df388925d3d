"""The check of `loraplug doctor` for JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from loraplug import Finding, InputError, Run
from loraplug_javascript.syntax import INSTALL

_PARSERS = ("tree_sitter", "tree_sitter_javascript", "tree_sitter_typescript")


def node_found(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Check Node.js and the parsers."""
    from loraplug_javascript.environment import node_program

    if missing := [name for name in _PARSERS if find_spec(name) is None]:
        yield Finding("javascript", f"{', '.join(missing)} not installed", "ok", INSTALL)
        return
    try:
        path, version = node_program("")
    except InputError as error:
        yield Finding("javascript", error.what, "ok", error.todo or "")
        return
    yield Finding("javascript", f"node {version} ({path}) runs the tests of JavaScript and TypeScript")
