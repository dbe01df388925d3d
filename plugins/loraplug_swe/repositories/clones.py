"""One cached bare clone per repository, without blobs if the server supports it; blobs are fetched in batches."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from attrs import field, frozen

from loraplug import InputError, Run
from loraplug_swe.repositories.git import Result, run_git
from loraplug_swe.repositories.objects import Objects
from loraplug_swe.tasks.options import GitLimits, transport
from loraplug_swe.tasks.rejects import Reject

_SWEEP = 8  # batches after which the objects of tried patches are thrown away


def clone_address(template: str, repo: str) -> str:
    """The address of `repo`: `{repo}`, `{owner}` and `{name}` filled in.

    Data sets differ in the case of owner and name, so local paths are matched without regard to case.

    Raises:
        Reject: `no-clone` if a local path does not exist.
    """
    owner, _, name = repo.partition("/")
    address = template.replace("{repo}", repo).replace("{owner}", owner).replace("{name}", name)
    if transport(template) != "file" or "://" in address:
        return address
    path = Path()
    for part in Path(address).parts:
        exact = path / part
        if not exact.exists() and path.is_dir():
            exact = next((item for item in sorted(path.iterdir()) if item.name.lower() == part.lower()), exact)
        path = exact
    if not path.exists():
        raise Reject("no-clone", f"there is no repository at {address}")
    return str(path)


@frozen
class Clone:
    """A repository in the cache.

    Attributes:
        git_dir: the bare clone.
        protocol: the only transport allowed for its origin.
    """

    git_dir: Path
    protocol: str
    limits: GitLimits

    def fetch(self, oids: Iterable[str]) -> Result:
        """Fetch objects by name in one call, blobs or commits (with their trees)."""
        wanted = "".join(f"{oid}\n" for oid in oids).encode()
        lean = ["--filter=blob:none"] if self.protocol != "file" else []
        return run_git(
            ["-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
             "--no-recurse-submodules", "--no-auto-maintenance", *lean, "--stdin", "origin"],
            git_dir=self.git_dir, timeout=self.limits.clone_timeout, max_output=1 << 20, cwd=self.git_dir,
            stdin=wanted, allowed=self.protocol,
        )  # fmt: skip


def get_clone(run: Run, template: str, repo: str, limits: GitLimits) -> Clone:
    """The clone of `repo`, created if it is not in the cache; under a lock.

    It is cloned to a temporary path and renamed on success, so an interrupted clone is never used.

    Raises:
        Reject: `no-clone`, with git's message.
    """
    from filelock import FileLock

    if not repo:
        raise Reject("no-clone", "the task names no repository")
    address = clone_address(template, repo)
    folder = run.cache / "swe" / "repos"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(address.lower().encode()).hexdigest()[:10]
    place = folder / f"{re.sub(r'[^a-z0-9._-]', '+', repo.lower())}.{key}"
    protocol = transport(address)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            beside = place.with_name(place.name + ".part")
            shutil.rmtree(beside, ignore_errors=True)
            run.say(f"cloning {address} (without file contents)" if protocol != "file" else f"copying {address}")
            made = run_git(
                ["clone", "--quiet", "--bare", "--template=", "--no-recurse-submodules", "--filter=blob:none", "--",
                 address, str(beside)],
                git_dir=None, timeout=limits.clone_timeout, max_output=1 << 20, cwd=folder, allowed=protocol,
            )  # fmt: skip
            if made.code:
                shutil.rmtree(beside, ignore_errors=True)
                raise Reject("no-clone", made.words.strip() or f"git clone failed with code {made.code}")
            _settle(beside, limits)
            beside.rename(place)
    return Clone(place, protocol, limits)


def _settle(git_dir: Path, limits: GitLimits) -> None:
    """Fix the length of short object names once, as git would choose it now.

    Git chooses by the number of packed objects, which grows as blobs are fetched; a row must not depend on that.
    """
    counted = run_git(["count-objects", "-v"], git_dir=git_dir, timeout=limits.timeout, max_output=1 << 16, cwd=git_dir)
    match = re.search(rb"in-pack: (\d+)", counted.out)
    length = max(7, (int(match[1]).bit_length() + 1) // 2) if match else 7
    run_git(["config", "core.abbrev", str(length)], git_dir=git_dir, timeout=limits.timeout, max_output=1, cwd=git_dir)


@frozen
class Workshop:
    """A clone with a temporary repository on top of it, in which patches are tried.

    The throw-away one borrows the clone's objects, has settings of our own only, no remote, and an empty work tree:
    attributes are then read from its index, which is where we put the tree's.

    Attributes:
        empty_tree: the name of the tree without entries.
    """

    clone: Clone
    folder: Path
    objects: Objects
    empty_tree: str
    limits: GitLimits
    _stack: ExitStack
    _batches: list[None] = field(factory=list, init=False)

    def git(self, arguments: list[str], stdin: bytes = b"") -> Result:
        """Run git in the temporary repository."""
        return run_git(
            arguments, git_dir=self.folder / "git", timeout=self.limits.timeout,
            max_output=self.limits.max_output_bytes, cwd=self.folder / "tree", stdin=stdin,
            more={"GIT_WORK_TREE": str(self.folder / "tree")},
        )  # fmt: skip

    def commit_tree(self, commit: str) -> str:
        """The tree of a commit, fetched if missing.

        Raises:
            Reject: `no-commit`.
        """
        words, tree = "", f"{commit}^{{tree}}"
        if self.objects.info(tree) is None:
            words = self.clone.fetch([commit]).words.strip()
        if (head := self.objects.info(tree)) is None:
            raise Reject("no-commit", words or f"{commit} is no commit of this repository")
        return head[0]

    def fetch_missing(self, oids: Iterable[str]) -> None:
        """Fetch missing objects in one call; unavailable ones stay missing."""
        missing = [oid for oid in dict.fromkeys(oids) if self.objects.info(oid) is None]
        if missing:
            self.clone.fetch(missing)

    def sweep(self) -> None:
        """Occasionally delete the objects that trying patches has left."""
        self.objects.forget()
        self._batches.append(None)
        if len(self._batches) >= _SWEEP:
            self._batches.clear()
            for thrown in (self.folder / "git" / "objects").glob("[0-9a-f][0-9a-f]/*"):
                thrown.unlink()

    def close(self) -> None:
        """End git and remove the temporary repository."""
        self._stack.close()


def _scratch() -> str | None:
    """Memory, where there is plenty: a tried patch costs a small file, which a busy disk takes 1 ms for."""
    shared = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder in it
    roomy = "TMPDIR" not in os.environ and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 30
    return str(shared) if roomy else None


def open_workshop(clone: Clone) -> Workshop:
    """Create a temporary repository on top of `clone`."""
    stack, limits = ExitStack(), clone.limits
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loraplug-swe-", dir=_scratch())))
    (folder / "tree").mkdir()
    sha256 = (clone.git_dir / "config").exists() and b"sha256" in (clone.git_dir / "config").read_bytes()
    made = run_git(
        ["init", "--quiet", "--bare", "--template=", f"--object-format={'sha256' if sha256 else 'sha1'}", "git"],
        git_dir=None, timeout=limits.timeout, max_output=1 << 16, cwd=folder,
    )  # fmt: skip
    if made.code:
        stack.close()
        raise InputError(f"git init failed: {made.words.strip()}", todo="git 2.36 or newer is needed")
    git_dir = folder / "git"
    (git_dir / "objects" / "info").mkdir(parents=True, exist_ok=True)
    (git_dir / "objects" / "info" / "alternates").write_text(
        f"{(clone.git_dir.absolute() / 'objects').as_posix()}\n", encoding="utf-8", newline="\n"
    )
    abbrev = run_git(
        ["config", "core.abbrev"], git_dir=clone.git_dir, timeout=limits.timeout, max_output=64, cwd=folder
    )
    with (git_dir / "config").open("a", encoding="utf-8", newline="\n") as config:
        config.write(f"[core]\n\tabbrev = {abbrev.out.decode().strip() or 7}\n")
        config.write(
            "\tfsync = none\n\tcompression = 0\n\tcreateObject = rename\n\tsafecrlf = false\n[gc]\n\tauto = 0\n"
        )
    empty = run_git(["hash-object", "-t", "tree", "--stdin"], git_dir=git_dir, timeout=limits.timeout,
                    max_output=128, cwd=folder)  # fmt: skip
    objects = stack.enter_context(Objects(git_dir, limits.timeout))
    return Workshop(clone, folder, objects, empty.out.decode().strip(), limits, stack)
