"""Files and listings from git objects, through one `git cat-file` process; nothing is checked out."""

from __future__ import annotations

import re
import subprocess
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from loraplug import LoraplugError
from loraplug_swe.repositories.git import environment, killing, start
from loraplug_swe.tasks.rejects import Reject

TREE = "40000"
_ODD = re.compile(rb'[^ -~]|["\\]')  # bytes that git quotes a path for


@frozen
class Node:
    """An entry of a tree: its mode (`100644`, `40000`, `120000`, `160000`) and object name."""

    mode: str
    oid: str


class Objects:
    """The objects of one repository. Use as a context manager.

    Args:
        git_dir: a repository without promisor remotes: missing objects are reported, not fetched one by one.
        timeout: seconds for everything done in one `limited` block.
    """

    def __init__(self, git_dir: Path, timeout: float) -> None:
        self._git_dir, self._timeout = git_dir, timeout
        self._stack = ExitStack()
        self._known: dict[str, tuple[str, str, int]] = {}
        self.beneath = lru_cache(maxsize=4_096)(self._beneath)
        self.entries = lru_cache(maxsize=16_384)(self._entries)
        self._summary = lru_cache(maxsize=65_536)(self._count)
        self._below = lru_cache(maxsize=4_096)(self._paths_below)

    def __enter__(self) -> Objects:
        command = ["git", f"--git-dir={self._git_dir}", "cat-file", "--batch-command"]
        self._process = self._stack.enter_context(
            start(command, subprocess.PIPE, subprocess.DEVNULL, self._git_dir, environment())
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def limited(self) -> AbstractContextManager[object]:
        """A block in which the process is ended when it takes too long."""
        return killing(self._process, self._timeout)

    def info(self, name: str) -> tuple[str, str, int] | None:
        """Object name, type and size in bytes of `name`; None if the object is not in the repository."""
        if (found := self._known.get(name)) is None:
            self._ask("info", name)
            found = self._head()
            if found is not None:
                self._known[name] = found
        return found

    def forget(self) -> None:
        """Clear the cache of `info`, so that memory does not grow with the number of tasks."""
        self._known.clear()

    def read(self, oid: str) -> bytes:
        """The bytes of an object.

        Raises:
            Reject: `missing-object`.
        """
        self._ask("contents", oid)
        head = self._head()
        if head is None:
            raise Reject("missing-object", f"object {oid} is not in the repository")
        content: bytes = self._process.stdout.read(head[2] + 1)
        if len(content) != head[2] + 1:
            raise self._broken()
        return content[:-1]

    def find(self, tree: str, path: str) -> tuple[Node | None, tuple[str, Node] | None]:
        """Look up a path in `tree`.

        Returns:
            The entry, and where the way to it is barred by a file or link, that one's path and entry.
        """
        parts, at = path.split("/"), tree
        for depth, part in enumerate(parts):
            node = self.entries(at).get(part.encode())
            if node is None or depth == len(parts) - 1:
                return node, None
            if node.mode != TREE:
                return None, ("/".join(parts[: depth + 1]), node)
            at = node.oid
        return None, None

    def paths(self, tree: str) -> list[bytes]:
        """Every path in `tree` that is not a folder, in git's order."""
        return [path for part in self._parts(tree) for path in part]

    def summary(self, tree: str) -> tuple[int, bool]:
        """How many files there are below `tree`, and whether git shows all their names without quotes."""
        return self._summary(tree)

    def _beneath(self, tree: str, name: bytes) -> list[str]:
        """The entries of a folder `name` with plain names, as paths."""
        return [f"{name.decode()}/{entry.decode()}" for entry in self.entries(tree)]

    def _count(self, tree: str) -> tuple[int, bool]:
        files, plain = 0, True
        for name, node in self.entries(tree).items():
            more, clean = self._summary(node.oid) if node.mode == TREE else (1, True)
            files, plain = files + more, plain and clean and not _ODD.search(name)
        return files, plain

    def _parts(self, tree: str) -> list[tuple[bytes, ...]]:
        return [
            self._below(node.oid, name) if node.mode == TREE else (name,) for name, node in self.entries(tree).items()
        ]

    def _paths_below(self, tree: str, name: bytes) -> tuple[bytes, ...]:
        return tuple(name + b"/" + path for part in self._parts(tree) for path in part)

    def _entries(self, tree: str) -> dict[bytes, Node]:
        raw, width, at = self.read(tree), len(tree) // 2, 0
        found: dict[bytes, Node] = {}
        while at < len(raw):
            space = raw.index(b" ", at)
            null = raw.index(b"\0", space)
            found[raw[space + 1 : null]] = Node(raw[at:space].decode(), raw[null + 1 : null + 1 + width].hex())
            at = null + 1 + width
        return found

    def _ask(self, verb: str, name: str) -> None:
        try:
            self._process.stdin.write(f"{verb} {name}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._broken() from None

    def _head(self) -> tuple[str, str, int] | None:
        line: bytes = self._process.stdout.readline()
        words = line.decode().split(" ")
        if len(words) == 3 and line.endswith(b"\n"):
            return words[0], words[1], int(words[2])
        if line.endswith((b" missing\n", b" ambiguous\n")):
            return None
        raise self._broken()

    def _broken(self) -> LoraplugError:
        return LoraplugError(
            "git cat-file ended early or took too long",
            where=self._git_dir,
            todo="check the repository with git fsck; raise git.timeout where the disk is slow",
        )
