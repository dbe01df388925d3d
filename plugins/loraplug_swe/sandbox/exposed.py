"""The files of this machine that a sandbox shows: system programs and libraries, an interpreter, its packages."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from loraplug import InputError

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
    "/etc/alternatives", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/fonts", "/etc/ld.so.cache",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/locale.alias", "/etc/localtime", "/etc/magic", "/etc/mime.types",
    "/etc/pki/ca-trust/extracted", "/etc/protocols", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)  # fmt: skip
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf")
_OURS = Path(__file__).parent
_ASK = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]))"
_PATIENCE = 60.0


def shown(python: str, more: Iterable[str | Path], network: bool) -> tuple[str, ...]:
    """Absolute paths that the sandbox shows read-only.

    Args:
        python: the interpreter that runs the tests.
        more: paths from the recipe.
    """
    libraries = [part for part in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]
    ours = tuple(str(_OURS / name) for name in ("worker.py", "command_worker.py", "pipes.py", "pytest_reporter.py"))
    found = [
        *SYSTEM,
        *(NETWORK if network else ()),
        *interpreter(sys.executable),
        *ours,
        *map(os.path.abspath, libraries),
    ]
    if python:
        found += interpreter(python)
    found = [one for one in found if not _too_wide(one)]
    return tuple(dict.fromkeys([*found, *(str(Path(one).expanduser().absolute()) for one in more)]))


@lru_cache(16)
def interpreter(python: str) -> tuple[str, ...]:
    """Paths of an interpreter, its library and its packages, as the interpreter reports them."""
    try:
        done = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, timeout=_PATIENCE, check=True)
        told: Sequence[str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        told = []  # what it says when it is started inside is told then
    return tuple(dict.fromkeys(os.path.abspath(one) for one in told if one))


def _too_wide(path: str) -> bool:
    """Whether a folder is one that holds everything: the root, a home, or what is above one."""
    home = Path(os.path.abspath(os.path.expanduser("~")))
    return home.is_relative_to(path) or path in ("/", "/etc", "/var", "/run", "/tmp", "/home", "/root")  # noqa: S108


def check_readable(paths: Iterable[str | Path]) -> None:
    """Check that the `readable` paths of a recipe exist and offer no way out of the sandbox.

    Raises:
        InputError: a path is missing, or has a socket or named pipe, through which sandboxed code would reach
            programs outside.
    """
    for one in paths:
        path = Path(one).expanduser()
        if not path.is_absolute():
            raise InputError("not an absolute path", where=f"readable: {one}", todo="start it with / or ~")
        if not path.exists():
            raise InputError(
                "no such file or folder", where=f"readable: {one}", todo="give an existing path, or leave it out"
            )
        for folder, _, files in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
            for name in files:
                try:
                    mode = os.lstat(os.path.join(folder, name)).st_mode
                except OSError:
                    continue
                if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                    kind = "a socket" if stat.S_ISSOCK(mode) else "a named pipe"
                    raise InputError(f"{kind} is in it: {os.path.join(folder, name)}", where=f"readable: {one}",
                                     todo="name a folder without it, or remove it")  # fmt: skip
