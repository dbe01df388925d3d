"""Files below one folder that strangers' code may have worked in: nothing is ever followed out of it.

Every step goes by a descriptor of the folder before and refuses symbolic links, so that not even a process that is
still inside, and swaps a folder for a link meanwhile, leads anything astray: what does not fit raises OSError.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from attrs import frozen

Stamp = tuple[int, ...]
LEFT_OUT = frozenset({
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", "__pycache__", "node_modules",
})  # fmt: skip
_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd


@frozen
class Copy:
    """The files below `top`, a folder of ours that nobody else can rename.

    Attributes:
        owner: the user and group that new files are given to, or None.
    """

    top: Path
    owner: int | None = None

    @contextmanager
    def _beside(self, name: str, make: bool = False) -> Iterator[tuple[int | None, str]]:
        """The folder a name is in, as a descriptor, and the name's last part; a path where there are no descriptors."""
        *folders, last = PurePosixPath(name).parts
        if not last or ".." in (*folders, last) or PurePosixPath(name).is_absolute():
            raise OSError(f"leads out of the tree: {name}")
        if not _BY_DESCRIPTOR:  # Windows, where nothing is shut in anyway
            place = self.top.joinpath(*folders)
            if not place.resolve().is_relative_to(self.top.resolve()):
                raise OSError(f"leads out of the tree: {name}")
            if make:
                place.mkdir(parents=True, exist_ok=True)
            yield None, str(place / last)
            return
        at = os.open(self.top, _FOLDER)
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(folder, 0o755, dir_fd=at)
                        self._give(folder, at)
                inner = os.open(folder, _FOLDER, dir_fd=at)
                os.close(at)
                at = inner
            yield at, last
        finally:
            os.close(at)

    def _give(self, name: str, at: int | None) -> None:
        if self.owner is not None:
            os.chown(name, self.owner, self.owner, dir_fd=at, follow_symlinks=False)

    def write(self, name: str, data: bytes, mode: int = 0o644, times: tuple[int, int] | None = None) -> Stamp:
        """A new file in place of what has this name (not a folder that holds something); `times` in nanoseconds."""
        with self._beside(name, make=True) as (at, last):
            self._clear(last, at)
            number = os.open(last, _NEW, 0o600, dir_fd=at)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(number, view) :]
                if sys.platform != "win32":
                    os.fchmod(number, mode)
                    if self.owner is not None:
                        os.fchown(number, self.owner, self.owner)
                if times is not None and os.utime in os.supports_fd:
                    os.utime(number, ns=times)
                return stamp(os.fstat(number))
            finally:
                os.close(number)

    def read(self, name: str, most: int) -> bytes:
        """A regular file of this name, of at most so many bytes; OSError where there is none."""
        with self._beside(name) as (at, last):
            number = os.open(last, _LOOK, dir_fd=at)
            with open(number, "rb") as file:
                facts = os.fstat(number)
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
                    raise OSError(f"no file to read: {name}")
                return file.read(most)

    def link(self, name: str, target: str) -> Stamp:
        """A symbolic link in place of what has this name."""
        with self._beside(name, make=True) as (at, last):
            self._clear(last, at)
            os.symlink(target, last, dir_fd=at)
            self._give(last, at)
            return stamp(os.stat(last, dir_fd=at, follow_symlinks=False))

    def folder(self, name: str, mode: int = 0o755) -> None:
        """A folder of this name and mode, made where it is not there."""
        with self._beside(name, make=True) as (at, last):
            if not stat.S_ISDIR(_mode(last, at)):
                self._clear(last, at)
                os.mkdir(last, 0o755, dir_fd=at)
                self._give(last, at)
            if sys.platform != "win32" and stat.S_IMODE(_mode(last, at)) != mode:
                _set_mode(last, at, mode)

    def remove(self, name: str) -> None:
        """What has this name, with all that is in it, is gone after."""
        with suppress(FileNotFoundError), self._beside(name) as (at, last):
            self._clear(last, at)

    def _clear(self, name: str, at: int | None) -> None:
        mode = _mode(name, at)
        if not mode:
            return
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=at)
            return
        if at is None:
            shutil.rmtree(name)
            return
        _readable(name, at)
        inner = os.open(name, _FOLDER, dir_fd=at)
        try:
            _empty(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=at)

    def clear(self) -> None:
        """Nothing is left below the folder."""
        if not _BY_DESCRIPTOR:
            for path in self.top.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            return
        number = os.open(self.top, _FOLDER)
        try:
            _empty(number)
        finally:
            os.close(number)

    def stamps(self) -> dict[str, Stamp]:
        """What changes when a file does, by relative path: size, times, number; of a folder (name/) the mode."""
        found: dict[str, Stamp] = {}
        if not _BY_DESCRIPTOR:
            for path in self.top.rglob("*"):
                name, facts = path.relative_to(self.top).as_posix(), path.lstat()
                found |= {f"{name}/": (0,)} if stat.S_ISDIR(facts.st_mode) else {name: stamp(facts)}
            return found
        waiting = [("", os.open(self.top, _FOLDER))]
        try:
            while waiting:
                before, number = waiting.pop()
                try:
                    folders = []
                    with os.scandir(number) as entries:
                        for entry in entries:
                            facts = entry.stat(follow_symlinks=False)
                            if stat.S_ISDIR(facts.st_mode):
                                folders.append(entry.name)
                                found[f"{before}{entry.name}/"] = (stat.S_IMODE(facts.st_mode),)
                            else:
                                found[before + entry.name] = stamp(facts)
                    for name in folders:  # one by one, so that those that are open are closed where one cannot be
                        waiting.append((f"{before}{name}/", os.open(name, _FOLDER, dir_fd=number)))  # noqa: PERF401
                finally:
                    os.close(number)
        except BaseException:
            for _, number in waiting:
                os.close(number)
            raise
        return found


def stamp(facts: os.stat_result) -> Stamp:
    """Size, times and number: what changes when a file does."""
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def stamps(tree: Path) -> dict[str, Stamp]:
    """Size, times and number of every file below `tree`, by relative path."""
    return {name: one for name, one in Copy(tree).stamps().items() if not name.endswith("/")}


def leaves(path: Path, tree: Path) -> bool:
    """Whether a path is a symbolic link that leads out of the tree, or in a circle."""
    try:
        return path.is_symlink() and not path.resolve(strict=False).is_relative_to(tree)
    except (OSError, RuntimeError):
        return True


def _mode(name: str, at: int | None) -> int:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _set_mode(name: str, at: int | None, mode: int) -> None:
    """chmod of what is no symbolic link."""
    if at is None or not sys.platform.startswith("linux"):
        os.chmod(name, mode, dir_fd=at, follow_symlinks=os.chmod not in os.supports_follow_symlinks)
        return
    number = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=at)  # opens even what cannot be read
    try:
        os.chmod(f"/proc/self/fd/{number}", mode)
    finally:
        os.close(number)


def _readable(name: str, at: int) -> None:
    if stat.S_IMODE(_mode(name, at)) & 0o700 != 0o700:
        _set_mode(name, at, 0o700)


def _empty(number: int) -> None:
    """Remove all that is in a folder, however deep: what lies deeper is moved up first, so that nothing recurses."""
    count = 0
    while True:
        with os.scandir(number) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if not names:
            return
        for name, is_folder in names:
            if not is_folder:
                os.unlink(name, dir_fd=number)
                continue
            _readable(name, number)
            inner = os.open(name, _FOLDER, dir_fd=number)
            try:
                with os.scandir(inner) as entries:
                    below = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
                for deep, deep_folder in below:
                    if deep_folder:
                        _readable(deep, inner)
                        while _mode(f".loraplug-{count}", number):
                            count += 1
                        os.rename(deep, f".loraplug-{count}", src_dir_fd=inner, dst_dir_fd=number)
                        count += 1
                    else:
                        os.unlink(deep, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=number)


def give(folder: Path, owner: int) -> None:
    """Give a folder and all in it, symbolic links themselves, to a user."""
    os.chown(folder, owner, owner)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(place, name), owner, owner, follow_symlinks=False)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree without what the tests do not need; symbolic links only where they stay inside."""

    def skip(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in LEFT_OUT or _special(Path(folder) / name, source)]

    shutil.copytree(source, target, symlinks=True, ignore=skip)


def _special(path: Path, tree: Path) -> bool:
    """Whether it is neither file nor folder nor a link that stays inside."""
    return leaves(path, tree) or not (path.is_symlink() or path.is_file() or path.is_dir())
