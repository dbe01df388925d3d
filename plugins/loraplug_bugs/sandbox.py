"""A copy of a tree in which a stranger's tests may run: isolated where the system can, limited, put back after each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Literal

from attrs import field, frozen, validators

from loraplug import Doc, LoraplugError, working_on

Killed = Literal["time", "memory", "processes"]
LEFT_OUT = frozenset({
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", "__pycache__", "node_modules",
})  # fmt: skip
_JAIL = Path(__file__).with_name("jail.py")
_Stamp = tuple[int, int, int, int]


@frozen
class Limits:
    """What a command in the sandbox may take."""

    seconds: Annotated[float, Doc("wall-clock seconds for one run")] = field(default=60.0, validator=validators.gt(0))
    memory_mb: Annotated[int, Doc("memory of a process, and of all together, in MiB")] = field(
        default=2048, validator=validators.ge(64)
    )
    processes: Annotated[int, Doc("processes at once")] = field(default=64, validator=validators.ge(1))
    file_mb: Annotated[int, Doc("size of one file written, in MiB")] = field(default=64, validator=validators.ge(1))
    output_bytes: Annotated[int, Doc("bytes of output kept: the first and the last half")] = field(
        default=200_000, validator=validators.ge(1000)
    )
    network: Annotated[bool, Doc("leave the network on")] = False


@frozen
class Result:
    """How a command ended.

    Attributes:
        returncode: its exit code; 128 and the signal's number where a signal ended it.
        output: stdout and stderr as one text; a long one without its middle.
        seconds: wall-clock time.
        killed: the limit it was killed for, or None.
    """

    returncode: int
    output: str
    seconds: float
    killed: Killed | None = None


class Sandbox:
    """A private copy of `tree` to run commands in. The tree itself is only read.

    with Sandbox(tree, Limits(seconds=20)) as box:
        box.write({"lib/paging.py": text})
        result = box.run([sys.executable, "-m", "pytest", "-q", "tests/test_paging.py"])
        box.restore()

    Commands run in `box.tree` with an environment of their own: nothing of the caller's but PATH and LD_LIBRARY_PATH,
    HOME and TMPDIR inside the sandbox, PYTHONPATH at the tree and its `src` (or `roots`). On Linux they have no
    network, see only their own processes and can write nothing but the copy; `gaps` names what of this the system
    refused.

    Args:
        tree: a folder. Version control, virtual environments and caches in it are not copied, nor are symbolic links
            that lead out of it.
        limits: for every run.
        env: further environment variables.
        home: folder to make the copy in; the system's temporary folder by default.
        roots: folders of the tree, relative to it, that go on PYTHONPATH where they are there.
    """

    def __init__(
        self,
        tree: Path,
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        roots: Sequence[str] = ("src", "."),
    ) -> None:
        self.source, self.limits = tree.resolve(), limits or Limits()
        if not self.source.is_dir():
            raise LoraplugError("no such folder", where=tree, todo="name the folder of the code and its tests")
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="loraplug-box-", dir=home)).resolve()
        self.tree, self._tmp, self._home = self.root / "tree", self.root / "tmp", self.root / "home"
        self._env, self._roots = dict(env or {}), tuple(roots)
        self._gaps: tuple[str, ...] = ()
        try:
            with working_on(self.root):
                copy_tree(self.source, self.tree)
                self._tmp.mkdir()
                self._home.mkdir()
            self.settle()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, command: Sequence[str], seconds: float | None = None) -> Result:
        """Run `command` in the copy and wait for it, at most `limits.seconds` (or `seconds`).

        The environment, limits and isolation are those of the class. What the command changes stays until `restore`.
        """
        killed: Killed | None = None
        begun = time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                self.command(command), cwd=self.tree, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(seconds or self.limits.seconds)
            except subprocess.TimeoutExpired:
                killed = "time"
            finally:
                end(process)
            taken = time.monotonic() - begun
            text = clipped(output, self.limits.output_bytes)
        return Result(shell_code(process.returncode), text, taken, killed or self.told())

    def command(self, command: Sequence[str]) -> list[str]:
        """`command` with the jail before it, for those who start and feed it themselves (with `environment`)."""
        self._report.unlink(missing_ok=True)
        spec = {
            "write": [str(self.tree), str(self._tmp), str(self._home)],
            "network": self.limits.network,
            "memory": self.limits.memory_mb << 20,
            "file": self.limits.file_mb << 20,
            "processes": self.limits.processes,
            "cpu": None,
            "report": str(self._report),
        }
        if sys.platform == "win32":  # no namespaces, no setrlimit: a copy and a time limit only
            self._gaps = ("network", "files", "processes", "memory")
            return list(command)
        return [sys.executable, "-I", "-S", str(_JAIL), json.dumps(spec), *command]

    def environment(self) -> dict[str, str]:
        """All the environment a command gets."""
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(self._home),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONPATH": os.pathsep.join(
                str(folder) for folder in (self.tree / root for root in self._roots) if folder.is_dir()
            ),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "OMP_NUM_THREADS": "1",
            **kept,
            **self._env,
        }

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files of the copy, by paths relative to the tree; None deletes.

        Raises:
            LoraplugError: a path leads out of the tree.
        """
        for name, content in files.items():
            path = self.tree / name
            if not path.resolve().is_relative_to(self.tree) or Path(name).is_absolute():
                raise LoraplugError("leads out of the tree", where=name)
            if content is None:
                path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def settle(self) -> None:
        """Take the copy as it is now for what `restore` goes back to; new files stay, unless a command changes them."""
        self._stamps = stamps(self.tree)

    def restore(self) -> int:
        """Put back what was changed in the copy, empty HOME and TMPDIR; how many files were put back or removed."""
        now = stamps(self.tree)
        wrong = [name for name in now.keys() | self._stamps.keys() if now.get(name) != self._stamps.get(name)]
        for name in wrong:
            if name in now:
                (self.tree / name).unlink()
        for name in sorted(wrong):
            path, source = self.tree / name, self.source / name
            if name not in self._stamps:
                continue
            if "__pycache__" in path.parts or not os.path.lexists(source):  # was made here, and can be again
                del self._stamps[name]
                continue
            if path.is_dir():
                shutil.rmtree(path)
            _clear_way(path.parent, self.tree)
            shutil.copy2(source, path, follow_symlinks=False)
            self._stamps[name] = _stamp(path.lstat())
        for folder in (self._tmp, self._home):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return len(wrong)

    @property
    def gaps(self) -> tuple[str, ...]:
        """What of the isolation the last command had to do without: `network`, `files`, `processes`, `memory`."""
        self.told()
        return self._gaps

    def told(self) -> Killed | None:
        """The limit for which the jail ended the last command, or None."""
        killed: Killed | None = None
        if self._report.exists():
            for line in self._report.read_text(encoding="utf-8").splitlines():
                told = json.loads(line)
                self._gaps = tuple(told.get("gaps", self._gaps))
                killed = told.get("killed", killed)
        return killed

    @property
    def _report(self) -> Path:
        return self.root / "report"


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree without what the tests do not need; symbolic links only where they stay inside."""

    def skip(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in LEFT_OUT or _leaves(Path(folder) / name, source)]

    shutil.copytree(source, target, symlinks=True, ignore=skip)


def stamps(tree: Path) -> dict[str, _Stamp]:
    """Size, times and number of every file below `tree`, by relative path: what changes when a file does."""
    found: dict[str, _Stamp] = {}
    waiting = [str(tree)]
    cut = len(str(tree)) + 1
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found[entry.path[cut:]] = _stamp(entry.stat(follow_symlinks=False))
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with all of its group."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and left no one behind
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def clipped(file: IO[bytes], limit: int) -> str:
    """The text of a file, or its first and last half where it is longer than `limit` bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= limit:
        return file.read().decode("utf-8", "replace")
    head = file.read(limit // 2)
    file.seek(size - limit // 2)
    return (
        f"{head.decode('utf-8', 'replace')}\n[... {size - limit} bytes ...]\n{file.read().decode('utf-8', 'replace')}"
    )


def shell_code(returncode: int) -> int:
    """As shells give it: 128 and the signal's number where one ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def _stamp(stat: os.stat_result) -> _Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _leaves(path: Path, tree: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(tree)


def _clear_way(folder: Path, tree: Path) -> None:
    """Make `folder`, taking away a file that stands where one of its parents was."""
    for part in [*reversed(folder.relative_to(tree).parents), folder.relative_to(tree)]:
        place = tree / part
        if place.is_symlink() or place.is_file():
            place.unlink()
        place.mkdir(exist_ok=True)
