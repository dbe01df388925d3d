"""Python, the programs around it, and whether what loraplug needs is installed in versions that go together."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING

from loraplug import Finding, Run, __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_TESTED = ((3, 11), (3, 14))
_TOOLS = {
    "git": "the sources swe and swe-bugs, eval and diffs in answers need it",
    "gcc": "torch.compile and some libraries built from source need it",
}
_SHOWN = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
_SECONDS = 20


def python(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """The interpreter and the system."""
    text = f"{platform.python_version()} on {platform.system()} {platform.release()}, loraplug {__version__}"
    first, last = _TESTED
    if not first <= sys.version_info[:2] <= last:
        known = f"{'.'.join(map(str, first))} to {'.'.join(map(str, last))}"
        yield Finding("python", text, "warning", f"loraplug supports Python {known}")
    elif platform.system() != "Linux":
        yield Finding("python", text, "warning", "only Linux is tested; please report what does not work")
    else:
        yield Finding("python", text)


def tools(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Programs that some stages call."""
    for name, needed in _TOOLS.items():
        if shutil.which(name) is None:
            yield Finding(name, "not found", "warning", f"install it: {needed}")
            continue
        try:
            done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False, timeout=_SECONDS)
            first = next(iter(done.stdout.splitlines()), "").strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding(name, f"is installed but does not start: {error}", "warning", f"{needed}")
            continue
        yield Finding(name, first or f"found, but prints no version (exit code {done.returncode})")


def dependencies(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Versions of what loraplug requires, those that do not fit first, and extras that are not installed."""
    fine: list[str] = []
    extras: dict[str, list[Requirement]] = {}
    for needed, extra in _needed():
        try:
            there = version(needed.name)
        except PackageNotFoundError:
            if extra:
                extras.setdefault(extra, []).append(needed)
            else:
                yield Finding("libraries", f"{needed.name} is missing", "error", _install(needed))
            continue
        if not needed.specifier.contains(there, prereleases=True):
            text = f"{needed.name} {there} is installed; loraplug needs {needed.specifier}"
            yield Finding("libraries", text, "error", _install(needed))
        elif needed.name in _SHOWN:
            fine.append(f"{needed.name} {there}")
    yield Finding("libraries", ", ".join(fine))
    for extra, lacking in extras.items():
        text = f"{', '.join(one.name for one in lacking)} is not installed (optional, extra {extra})"
        yield Finding("libraries", text, "ok", _install(*lacking))


def _install(*needed: Requirement) -> str:
    """The command that installs libraries in a version that loraplug works with, from a checkout as from a wheel."""
    return "pip install " + " ".join(f'"{one.name}{one.specifier}"' for one in needed)


def _needed() -> Iterator[tuple[Requirement, str]]:
    """What the installed metadata requires on this machine, with the extra that asks for it ("" for everybody)."""
    from packaging.requirements import Requirement

    extras = metadata("loraplug").get_all("Provides-Extra") or []
    for text in requires("loraplug") or ():
        needed = Requirement(text)
        for extra in ("", *extras):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                yield needed, extra
                break
