"""Checks out the code under test to a private folder: a git commit, a plain folder, or a package."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from loraplug import InputError, LoraplugError, wrap_os_errors
from loraplug_swe.sandbox.copies import LEFT_OUT, Copy, copy_tree, leaves, stamps

_OLD = 946_684_800  # every staged file is of the year 2000, so that a mutated one is never as old as its byte code
_GIT = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.devnull,
        "-c", "core.alternateRefsCommand=" + os.devnull)  # fmt: skip


@frozen
class Staged:
    """A checked-out tree.

    Attributes:
        tree: the folder of the private copy.
        repo: owner/name, for the tasks.
        commit: its commit, or "" for a folder that is not a repository.
        digest: hash over names, modes and bytes of all files.
    """

    tree: Path
    repo: str
    commit: str
    digest: str


def stage(path: str, revision: str, repo: str | None, tests: Path | None, out: Path) -> Staged:
    """Copy the code at `path` to `out / "tree"`.

    Args:
        path: a git work tree or bare repository, a folder, or `package:<import name>`.
        revision: the commit, branch or tag of a repository.
        repo: owner/name; None: derived from the path.
        tests: a folder of tests that is not in `path`; becomes `tests/`.
        out: a fresh folder.

    Raises:
        InputError: the path, revision or package does not exist.
    """
    tree = out / "tree"
    commit = ""
    if path.startswith("package:"):
        name = path.removeprefix("package:")
        _package(name, tree)
    else:
        source = Path(path)
        name = source.resolve().name.removesuffix(".git") or "repository"
        if not source.is_dir():
            raise InputError("no such folder", where=path, todo="name a git repository, a folder or package:NAME")
        if is_repository(source):
            commit = find_commit(source, revision)
            repo = repo or repo_name(source)
            _export(source, commit, tree)
        else:
            copy_tree(source.resolve(), tree)
    if tests is not None:
        if not tests.is_dir():
            raise InputError("no such folder", where=tests, todo="name the folder of the tests")
        copy_tree(tests.resolve(), tree / "tests" if not (tree / "tests").exists() else tree / tests.name)
    for file in sorted(stamps(tree)):
        os.utime(tree / file, (_OLD, _OLD), follow_symlinks=False)
    return Staged(tree, repo or _local(name), commit, digest(tree))


def repo_name(source: Path) -> str:
    """owner/name of a repository: its remote's, else local/ and the folder's name."""
    return _origin(source) or _local(source.resolve().name.removesuffix(".git") or "repository")


def _local(name: str) -> str:
    return f"local/{re.sub(r'[^A-Za-z0-9_.-]', '-', name).lstrip('.-') or 'code'}"


def digest(tree: Path) -> str:
    """SHA-256 (hex) over names and bytes of all files of a tree."""
    found = hashlib.sha256()
    for name in sorted(stamps(tree)):
        path = tree / name
        data = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        found.update(f"{name}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
    return found.hexdigest()


def _package(name: str, tree: Path) -> None:
    from importlib.util import find_spec

    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InputError(f"{name!r} is not the import name of a package", where="dataset.path")
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise InputError(
            f"no package {name} is installed here", where="dataset.path", todo="pip install it, or give a folder"
        )
    origin = Path(spec.origin)
    if spec.submodule_search_locations:
        copy_tree(origin.parent.resolve(), tree / name)
    else:
        tree.mkdir(parents=True)
        shutil.copy2(origin, tree / origin.name)


def is_repository(source: Path) -> bool:
    """Whether a folder is the top of a work tree, or a bare repository; a folder below one is a plain folder."""
    if (source / ".git").exists():
        return True
    return (source / "HEAD").is_file() and (source / "objects").is_dir() and (source / "refs").is_dir()


def run_git(
    source: Path,
    *arguments: str,
    stdin: bytes = b"",
    refused: str = "it gives no reason",
    key: str = "dataset.revision",
) -> bytes:
    """Run git on a repository, without hooks, transports or user settings; nothing is fetched.

    Args:
        refused: what the error says where git refuses without a word.
        key: the option that names the commit, for the error.

    Raises:
        InputError: git refuses.
    """
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0", "GIT_ATTR_NOSYSTEM": "1", "GIT_LITERAL_PATHSPECS": "1"}  # fmt: skip
    try:
        done = subprocess.run([*_GIT, "-C", str(source), *arguments], input=stdin, env=env, capture_output=True,
                              check=False, timeout=600)  # fmt: skip
    except FileNotFoundError:
        raise LoraplugError("git is not installed", todo="install git, or export the tree to a folder") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:300] or refused
        raise InputError(f"git: {said}", where=source, todo=f"check dataset.path and {key}")
    return done.stdout


def copy_commits(source: Path, commits: Iterable[str], out: Path) -> None:
    """Make `out` a bare repository of these commits alone, with their trees; what is not here is not there either.

    No clone is made: git's transports are shut (see `run_git`), and a commit is needed without its ancestors.
    """
    with wrap_os_errors(out):
        out.mkdir(parents=True)
    kind = run_git(source, "rev-parse", "--show-object-format").decode().strip()
    run_git(out, "init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
    names = "".join(f"{name}\n" for name in dict.fromkeys(commits)).encode()
    listed = run_git(source, "rev-list", "--objects", "--no-walk=unsorted", "--missing=allow-any", "--ignore-missing",
                     "--stdin", stdin=names)  # fmt: skip
    run_git(source, "pack-objects", "--quiet", str(out.resolve() / "objects" / "pack" / "pack"), stdin=listed)


def find_commit(source: Path, revision: str, key: str = "dataset.revision") -> str:
    """Resolve a branch, tag or hash, given by the option `key`, to a full commit hash."""
    if revision.startswith("-") or not revision.strip():
        raise InputError(f"{revision!r} is not a revision", where=key, todo="give a branch, tag or commit")
    missing = "there is no commit yet" if revision == "HEAD" else f"there is no commit {revision}"
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return run_git(source, *asked, refused=missing, key=key).decode().strip()


def _origin(source: Path) -> str | None:
    """owner/name of the remote a repository was cloned from, where it tells them."""
    configured = run_git(source, "config", "--default", "", "--get", "remote.origin.url").decode().strip()
    match = (
        re.search(r"[:/]([A-Za-z0-9][\w.-]*/[\w.-]+?)(?:\.git)?/?$", configured)
        if "://" in configured or "@" in configured
        else None
    )
    return match[1] if match and ".." not in match[1] else None


def _export(source: Path, commit: str, tree: Path) -> None:
    """Write all files of a commit as they are stored: no filters, no attributes, no submodules.

    Files come first and symbolic links last, so that nothing is written through one; links that lead out of the tree
    are left out, as `copy_tree` does.
    """
    tree.mkdir(parents=True)
    entries = [entry for entry in run_git(source, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0") if entry]
    listed = []
    for entry in entries:
        head, _, name = entry.partition(b"\t")
        mode, kind, oid = head.split()
        path = PurePosixPath(os.fsdecode(name))
        if kind == b"blob" and not path.is_absolute() and ".." not in path.parts and not LEFT_OUT & set(path.parts):
            listed.append((mode, oid, path))
    _check_names([str(path) for _, _, path in listed], source)
    blobs = _blobs(run_git(source, "cat-file", "--batch", stdin=b"".join(oid + b"\n" for _, oid, _ in listed)))
    copy = Copy(tree)
    links: list[tuple[str, str]] = []
    with wrap_os_errors(tree):
        for (mode, _, path), data in zip(listed, blobs, strict=True):
            if mode == b"120000":
                links.append((str(path), os.fsdecode(data)))
            else:
                copy.write(str(path), data, 0o755 if mode == b"100755" else 0o644)
        for link, target in links:
            if target and "\0" not in target:
                copy.link(link, target)
        for link, _ in links:
            if leaves(tree / link, tree.resolve()):
                copy.remove(link)


def _check_names(names: Sequence[str], source: Path) -> None:
    """See that no two entries have one name, nor one the name of another's folder: here, or on other disks.

    Raises:
        InputError: two do. git itself makes no such tree.
    """
    known: dict[str, str] = {}
    seen: set[str] = set()
    for name in names:
        folders = [str(folder) for folder in PurePosixPath(name).parents][:-1]
        for one, is_folder in [(name, False), *((folder, True) for folder in folders)]:
            shown = f"{one}/" if is_folder else one
            key = unicodedata.normalize("NFC", one).casefold()
            if known.setdefault(key, shown) != shown or (not is_folder and name in seen):
                raise InputError(f"the commit has two entries of one name: {known[key]!r} and {shown!r}", where=source,
                                 todo="use another revision, or rename one of them")  # fmt: skip
        seen.add(name)


def _blobs(stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        end = stream.index(b"\n", at)
        head = stream[at:end].split()
        if len(head) != 3:
            raise InputError(
                f"git has no object {head[0].decode()}", todo="fetch the whole repository: git fetch --unshallow"
            )
        size = int(head[2])
        yield stream[end + 1 : end + 1 + size]
        at = end + size + 2
