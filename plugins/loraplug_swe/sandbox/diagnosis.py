"""The check of `loraplug doctor` for the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

from loraplug import Finding, Run


def sandbox_strength(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Try the sandbox once with an empty program."""
    from loraplug_swe.sandbox.sandbox import probe

    missing = probe()
    if not missing:
        yield Finding("sandbox", "strict: tests and answers run without network, files and processes of yours")
        return
    parts = "; ".join(f"{name}: {why}" for name, why in missing.items())
    todo = 'swe-bugs, eval and improve refuse to run; allow it, or write sandbox = "weak" for code that you trust'
    yield Finding("sandbox", f"cannot isolate other people's code ({parts})", "warning", todo)
