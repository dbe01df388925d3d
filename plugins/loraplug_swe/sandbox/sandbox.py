"""A private copy of a tree for running untrusted tests: isolated, with limits, restored after each run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from attrs import evolve

from loraplug import InputError, LoraplugError, wrap_os_errors
from loraplug_swe.sandbox.channel import Kept, Reader, close
from loraplug_swe.sandbox.copies import Copy, Stamp, copy_tree, give
from loraplug_swe.sandbox.ending import end, end_jail, shell_code
from loraplug_swe.sandbox.exposed import check_readable, shown
from loraplug_swe.sandbox.limits import Killed, Limits, Result

_JAIL = Path(__file__).with_name("isolate")
_NOBODY = 65534
_GRACE = 10.0  # seconds for the last output of a command that has ended
_TRIES = 3
_LARGEST = 4 << 20  # bytes of a file that is read


class Sandbox:
    """A private copy of `tree` to run commands in. The tree itself is only read.

    with Sandbox(tree, Limits(seconds=20)) as box:
        box.write({"lib/paging.py": text})
        result = box.run([sys.executable, "-m", "pytest", "-q", "tests/test_paging.py"])
        box.restore()

    Commands run in `box.tree` with an environment of their own: nothing of the caller's but PATH and LD_LIBRARY_PATH,
    HOME and TMPDIR inside the sandbox, PYTHONPATH at the tree and its `src` (or `roots`). They have a root of their own
    that holds the system's programs and libraries, the interpreter's, the copy and what `limits.readable` names; no
    network, no process, user or secret of this machine; and can write nothing but the copy, HOME, TMPDIR and /dev/shm.

    Args:
        tree: a folder. Version control, virtual environments and caches in it are not copied, nor are symbolic links
            that lead out of it.
        limits: for every run.
        env: additional environment variables.
        home: folder to make the copy in; the system's temporary folder by default.
        roots: folders of the tree, relative to it, that are added to PYTHONPATH if they exist.

    Raises:
        InputError: the system cannot isolate commands, and `limits.weak` is not set.
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
        check_readable(self._readable)
        check_isolation(self.limits)
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="loraplug-box-", dir=home)).resolve()
        self._owner = _NOBODY if _may_give() else None
        self.tree, self._tmp, self._home = self.root / "tree", self.root / "tmp", self.root / "home"
        self._shm = self.root / "shm"
        self._copy = Copy(self.tree, self._owner)
        self._env, self._roots = dict(env or {}), tuple(roots)
        self._gaps: tuple[str, ...] = ()
        self._own: dict[str, Stamp] = {}
        try:
            with wrap_os_errors(self.root):
                for folder in (self._tmp, self._home, self._shm, self.root / "root"):
                    folder.mkdir()
                    if self._owner is not None and folder.name != "root":
                        os.chown(folder, self._owner, self._owner)
                self._fill()
            self.settle()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End remaining processes and remove the copy."""
        self.end_inside()
        with contextlib.suppress(OSError):
            Copy(self.root).clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, command: Sequence[str], seconds: float | None = None) -> Result:
        """Run `command` in the copy and wait for it, at most `limits.seconds` (or `seconds`).

        The environment, limits and isolation are those of the class. What the command changes stays until `restore`.

        Raises:
            LoraplugError: the system cannot isolate the command.
        """
        killed: Killed | None = None
        begun = time.monotonic()
        kept = Kept(self.limits.output_bytes)
        process = subprocess.Popen(
            self.command(command), cwd=self.tree, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - for the type checker
        reader = Reader(process.stdout, kept.add, self.limits.output_mb << 20, lambda: end(process))
        try:
            process.wait(seconds or self.limits.seconds)
        except subprocess.TimeoutExpired:
            killed = "time"
        finally:
            end(process)
            reader.join(_GRACE)
            close(process)
        taken = time.monotonic() - begun
        self.check()
        if reader.over:
            killed = "output"
        return Result(shell_code(process.returncode), kept.text, taken, killed or self.told())

    def command(self, command: Sequence[str]) -> list[str]:
        """`command` with the jail before it, for those who start and feed it themselves (with `environment`)."""
        self._report.unlink(missing_ok=True)
        if sys.platform == "win32":  # no namespaces, no setrlimit: a copy and a time limit only
            self._gaps = ("network", "files", "processes", "memory")
            return list(command)
        limits = self.limits
        spec = {
            "root": str(self.root / "root"),
            "read": shown(limits.python, self._readable, limits.network),
            "write": [str(self.tree), str(self._tmp), str(self._home)],
            "shm": str(self._shm),
            "home": str(self._home),
            "owner": self._owner,
            "network": limits.network,
            "memory": limits.memory_mb << 20,
            "disk": limits.disk_mb << 20,
            "file": limits.file_mb << 20,
            "processes": limits.processes,
            "weak": limits.weak,
            "report": str(self._report),
        }
        return [sys.executable, "-I", "-S", str(_JAIL), json.dumps(spec), *command]

    def environment(self) -> dict[str, str]:
        """The complete environment of a command."""
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
            LoraplugError: a path leads out of the tree, or a symbolic link is in the way.
        """
        for name, content in files.items():
            try:
                if content is None:
                    self._copy.remove(name)
                else:
                    self._copy.write(name, content.encode() if isinstance(content, str) else content)
            except OSError as error:
                outside = "leads out of the tree" in str(error)
                what = "leads out of the tree" if outside else f"cannot be written ({error.strerror})"
                raise LoraplugError(what, where=name) from None

    def read(self, name: str) -> str | None:
        """The current text of a regular file of the copy, by its path relative to the tree; None if missing.

        No symbolic link is followed, whatever runs inside.
        """
        try:
            return self._copy.read(name, _LARGEST).decode("utf-8", "replace")
        except OSError:
            return None

    def settle(self) -> None:
        """Make the current copy the state that `restore` returns to; new files stay, unless a command changes them."""
        self._own = self._copy.stamps()

    def restore(self) -> int:
        """Restore changed files of the copy, and empty HOME, TMPDIR and /dev/shm.

        If single files cannot be restored (something is in the way, or still being changed), all processes inside are
        ended and the copy is created again.

        Returns:
            Number of files that were restored or removed.
        """
        return len(self.restored())

    def restored(self) -> list[str]:
        """Like `restore`; returns the names of the files."""
        for _ in range(_TRIES):
            try:
                wrong = self._put_back()
                for folder in (self._tmp, self._home, self._shm):
                    Copy(folder).clear()
                return sorted(wrong)
            except OSError:
                self.end_inside()
                with contextlib.suppress(OSError):
                    self._make_anew()
        raise LoraplugError("the copy of the code cannot be restored", where=self.tree,
                            todo="check that nothing else writes there, and that the disk is not full")  # fmt: skip

    def _put_back(self) -> list[str]:
        now, own, links = self._copy.stamps(), self._own, dict(self.limits.links)
        wrong = [name for name in now.keys() | own.keys() if now.get(name) != own.get(name)]
        for name in sorted(wrong, reverse=True):  # what is in a folder before the folder
            if name in now and (name not in own or not name.endswith("/")):
                self._copy.remove(name.rstrip("/"))
        for name in sorted(name for name in wrong if name in own and name.endswith("/")):
            self._copy.folder(name.rstrip("/"), own[name][0])
        for name in sorted(name for name in wrong if name in own and not name.endswith("/")):
            source = self.source / name
            if name in links:
                own[name] = self._copy.link(name, links[name])
            elif "__pycache__" in Path(name).parts or not os.path.lexists(source):  # was made here, and can be again
                del own[name]
            else:
                own[name] = self._bring(name, source)
        return [name for name in wrong if not name.endswith("/")]

    def _bring(self, name: str, source: Path) -> Stamp:
        """Copy a file or symbolic link of the source."""
        facts = source.lstat()
        if source.is_symlink():
            return self._copy.link(name, os.readlink(source))  # noqa: PTH115 - as it is written
        times = facts.st_atime_ns, facts.st_mtime_ns
        return self._copy.write(name, source.read_bytes(), facts.st_mode & 0o777, times)

    def _fill(self) -> None:
        copy_tree(self.source, self.tree)
        for name, target in self.limits.links:
            if not os.path.lexists(self.tree / name):
                self._copy.link(name, target)
        if self._owner is not None:
            give(self.tree, self._owner)

    def _make_anew(self) -> None:
        """The copy as it was when it was made; what was settled since (byte code) is not there any more."""
        Copy(self.root).remove("tree")
        self._fill()
        self.settle()

    def end_inside(self) -> None:
        """End what this box still runs, also where another thread waits for it."""
        with contextlib.suppress(OSError, ValueError):
            for line in self._report.read_text(encoding="utf-8").splitlines():
                if number := json.loads(line).get("process"):
                    end_jail(number, str(self._report))

    @property
    def gaps(self) -> tuple[str, ...]:
        """Parts of the isolation that were missing for the last command: `network`, `files`, `processes`, `filter`."""
        self.told()
        return self._gaps

    def check(self) -> None:
        """Check that the last command was isolated.

        Raises:
            InputError: the system could not, and it was not run.
        """
        self.told()
        if self._gaps and not self.limits.weak:
            raise _cannot(dict.fromkeys(self._gaps, "refused"))

    def told(self) -> Killed | None:
        """The limit that the last command exceeded, or None."""
        killed: Killed | None = None
        if self._report.exists():
            for line in self._report.read_text(encoding="utf-8").splitlines():
                told = json.loads(line)
                self._gaps = tuple(told.get("gaps", self._gaps))
                killed = told.get("killed", killed)
        return killed

    @property
    def _readable(self) -> tuple[str, ...]:
        return (*self.limits.readable, *(target for _, target in self.limits.links))

    @property
    def _report(self) -> Path:
        return self.root / "report"


@lru_cache(4)
def probe(network: bool = False) -> dict[str, str]:
    """Parts of the isolation this system lacks, and why: `network`, `files`, `processes`, `filter`; probed once."""
    if sys.platform == "win32":
        return dict.fromkeys(("network", "files", "processes"), "Windows has no namespaces")
    with tempfile.TemporaryDirectory(prefix="loraplug-probe-") as place:
        limits = Limits(weak=True, seconds=30.0, network=network)
        Path(place, "empty").mkdir()
        with Sandbox(Path(place, "empty"), limits, home=Path(place)) as box:
            strict = evolve(limits, weak=False)
            box.limits = strict
            process = subprocess.run(box.command([sys.executable, "-I", "-S", "-c", ""]), cwd=box.tree, check=False,
                                     env=box.environment(), capture_output=True, stdin=subprocess.DEVNULL)  # fmt: skip
            told = [json.loads(line) for line in (box.root / "report").read_text(encoding="utf-8").splitlines()]
    why: dict[str, str] = next((one["why"] for one in told if "why" in one), {})
    if not why and process.returncode:
        words = process.stderr.decode("utf-8", "replace").strip()
        return {"files": words[-200:] or f"exit code {process.returncode}"}
    return why


def check_isolation(limits: Limits) -> None:
    """Raise InputError if this system cannot isolate commands and `limits.weak` is not set."""
    if not limits.weak and (missing := probe(limits.network)):
        raise _cannot(missing)


def _cannot(missing: Mapping[str, str]) -> InputError:
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        names.setdefault(why, []).append(name)
    parts = "; ".join(f"{', '.join(its)}: {why}" for why, its in names.items())
    return InputError(
        f"this system cannot isolate other people's code ({parts})", where="sandbox",
        todo='allow user namespaces, or, for code you trust, write sandbox = "weak" (eval: --sandbox weak)',
    )  # fmt: skip


@lru_cache(1)
def _may_give() -> bool:
    """Whether this is root, who can give files to nobody."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return False
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.chown(file.name, _NOBODY, _NOBODY)
        except OSError:
            return False
    return True
