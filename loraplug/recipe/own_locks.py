"""Which recipe locks this user's own runs have written: kept outside every folder that may come from somebody else.

A lock says where a base lies and whether its code is run, so what is found beside a model is believed only if its very
bytes were written here. Nothing inside a folder can vouch for that folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from loraplug.context import Run

TRUST = "if you trust its authors, open it with --trust"


def state_folder() -> Path:
    """`LORAPLUG_STATE`, else `loraplug` in `XDG_STATE_HOME`, `LOCALAPPDATA` or `~/.local/state`."""
    if chosen := os.environ.get("LORAPLUG_STATE"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local/state"
    return Path(home) / "loraplug"


def remember(lock: bytes, run: Run) -> None:
    """Note that a run of this user has written these bytes as a lock; where it cannot be noted, that is told."""
    place = _place(lock)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_text(f"{run.folder}\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        run.warn(
            f"cannot record that this run is yours ({error.strerror or error}: {place.parent}): its adapter will need "
            "--trust to be opened; set LORAPLUG_STATE to a writable folder"
        )


def is_own(lock: bytes) -> bool:
    """Whether a run of this user has written these very bytes as a lock."""
    return _place(lock).is_file()


def _place(lock: bytes) -> Path:
    import hashlib

    return state_folder() / "locks" / hashlib.sha256(lock).hexdigest()
