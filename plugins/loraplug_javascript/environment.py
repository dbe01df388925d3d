"""Node.js on this machine, and the packages installed with the code."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from loraplug import InputError
from loraplug_swe.mutation import Environment

OURS = Path(__file__).parent / "node-scripts"
OLDEST = (20, 16)  # tests have a fullName from there on
MODULES = "node_modules"
_PATIENCE = 30.0


def node_program(command: str) -> tuple[str, str]:
    """The absolute path of node, from the recipe or PATH, and its version.

    Raises:
        InputError: Node.js is missing or too old.
    """
    found = shutil.which(command or "node")
    if found is None:
        raise InputError(f"{command or 'node'} was not found", where="dataset.python",
                         todo="install Node.js, or set python to its node program")  # fmt: skip
    path = os.path.realpath(found)
    version = _version(path)
    numbers = re.match(r"v(\d+)\.(\d+)\.", version)
    if numbers is None:
        raise InputError(f"is not Node.js (--version gives {version[:60]!r})", where=path,
                         todo="set python to the node program")  # fmt: skip
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise InputError(f"node {version} is too old", where=path,
                         todo=f"install {'.'.join(map(str, OLDEST))} or a newer one")  # fmt: skip
    return path, version


@lru_cache(8)
def _version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=_PATIENCE, check=False,
                              env={"PATH": os.defpath})  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return done.stdout.decode("utf-8", "replace").strip()


def environment(path: str, command: str) -> Environment:
    """Node, this package's own modules for it, and `node_modules` of the code at `path`, where there is one.

    The sandbox shows nothing else of the code's folder or its parents.

    Raises:
        InputError: Node.js is missing.
    """
    node, version = node_program(command)
    installed = Path(path, MODULES)
    links: tuple[tuple[str, str], ...] = ()
    stamp = ""
    if not path.startswith("package:") and installed.is_dir():
        links = ((MODULES, str(installed.resolve())),)
        stamp = _stamp(installed)
    return Environment((node, str(OURS)), links, f"node {version} {_ours()} {stamp}")


def _stamp(installed: Path) -> str:
    """What is installed: the list that npm, yarn or pnpm keeps of it, else its packages' names."""
    for name in (".package-lock.json", ".yarn-state.yml", ".yarn-integrity", ".modules.yaml"):
        if (installed / name).is_file():
            return hashlib.sha256((installed / name).read_bytes()).hexdigest()[:20]
    return hashlib.sha256("\n".join(sorted(path.name for path in installed.iterdir())).encode()).hexdigest()[:20]


def _ours() -> str:
    texts = [path.read_bytes() for path in sorted(OURS.glob("*.mjs"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:8]
