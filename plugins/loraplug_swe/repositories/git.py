"""Git as a restricted subprocess: no hooks, prompts, user settings or unexpected transports.

Every call has a time limit and an output limit. Repositories and tasks come from strangers; what of theirs reaches a
command line (object names, URLs) has been checked for its form before, and paths only ever go through standard input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import LoraplugError

_WORDS = 8_192  # bytes of git's error output that are kept

_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "",
    "credential.helper": "",
    "credential.interactive": "false",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
}


@frozen
class Result:
    """The result of a git call: exit code, standard output, and standard error as text."""

    code: int
    out: bytes
    words: str


def environment(allowed: str = "") -> dict[str, str]:
    """The environment of every git call; `allowed` is the only transport it may use; default: none."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SSH_ASKPASS"))}
    settings = {f"GIT_CONFIG_{kind}_{at}": text for at, pair in enumerate(_SETTINGS.items())
                for kind, text in zip(("KEY", "VALUE"), pair, strict=True)}  # fmt: skip
    return kept | settings | {
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_ALLOW_PROTOCOL": allowed or "none",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "C",
        "LANGUAGE": "",
    }  # fmt: skip


def run_git(
    arguments: Sequence[str],
    *,
    git_dir: Path | None,
    timeout: float,
    max_output: int,
    cwd: Path,
    stdin: bytes = b"",
    allowed: str = "",
    more: Mapping[str, str] | None = None,
) -> Result:
    """Run git once.

    Args:
        git_dir: the repository, or None for a clone.
        cwd: a folder of loraplug; never inside an untrusted tree.
        stdin: bytes for its standard input.
        allowed: the only transport this call may use.
        more: additional environment variables.

    Raises:
        LoraplugError: git is not installed, took too long or wrote too much.
    """
    command = ["git", *([f"--git-dir={git_dir}"] if git_dir else []), *arguments]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        with start(command, given, errors, cwd, environment(allowed) | dict(more or {})) as process:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            with killing(process, timeout) as killed:
                out: bytes = process.stdout.read(max_output + 1)
                if len(out) > max_output:
                    end(process)
                code = process.wait()
        if killed.is_set():
            raise LoraplugError(f"git {arguments[0]} took longer than {timeout:g} s", where=git_dir)
        if len(out) > max_output:
            raise LoraplugError(f"git {arguments[0]} wrote more than {max_output:,} bytes", where=git_dir)
        errors.seek(0)
        return Result(code, out, errors.read(_WORDS).decode(errors="replace"))


@contextlib.contextmanager
def start(command: list[str], stdin: Any, stderr: Any, cwd: Path, env: Mapping[str, str]) -> Iterator[Any]:
    """A git process in a group of its own, ended with its children when the block is left."""
    try:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, cwd=cwd, env=env, process_group=0
        )
    except FileNotFoundError:
        raise LoraplugError("git is not installed", todo="install git 2.36 or newer") from None
    try:
        yield process
    finally:
        if process.poll() is None:
            end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


@contextlib.contextmanager
def killing(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End `process` when the block takes longer; the event tells whether that was so."""
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        end(process)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield killed
    finally:
        timer.cancel()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
