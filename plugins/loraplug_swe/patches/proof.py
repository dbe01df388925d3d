"""Verifies with git that patches apply, for many tasks at once.

Each task gets a folder `@0`, `@1`, ... in one index; in it lie the files its patches touch, as they are in its commit,
and nothing else (what a patch does not name cannot matter to it). One `git apply --cached` then tries the patches of
all tasks, their paths led into those folders. Where git says anything at all, the batch is halved until the task that
it spoke of is alone; that one's patch is tried as it stands, with `--directory`. So a verdict, a warning and the
resulting files are always git's own, and a process costs its start once for a batch, not once for a task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from attrs import field, frozen

from loraplug import LoraplugError
from loraplug_swe.patches.repair import sound_patch
from loraplug_swe.patches.unified import Section, check_path, parse_patch
from loraplug_swe.repositories.clones import Workshop
from loraplug_swe.repositories.objects import TREE, Node
from loraplug_swe.repositories.trees import TreePack
from loraplug_swe.tasks.rejects import Reject
from loraplug_swe.tasks.task import Answered

_WHITESPACE = re.compile(r"^\+(?:.*[ \t\r]|[ \t]* \t.*|(?=\n(?![ +\\-])))$", re.MULTILINE)  # git is likely to warn
_STAGES = {"gold": ("does-not-apply",), "revert-bug": ("gold-does-not-apply", "bug-does-not-apply", "does-not-apply")}

_State = dict[str, Mapping[str, Node]]  # folder to its files


@frozen
class Proof:
    """An answer that is verified to apply.

    Attributes:
        words: output of `git apply`: empty, or warnings.
        diff: the change as `git diff --cached` shows it.
        sections: the parsed answer.
        base: the tree of base_commit.
        before: those files that the task's patches touch, as the conversation shows them.
        added, removed: paths that the shown tree adds to or removes from `base`.
    """

    words: str
    diff: str
    sections: list[Section]
    base: str
    before: Mapping[str, Node]
    added: frozenset[bytes] = frozenset()
    removed: frozenset[bytes] = frozenset()


@frozen
class _Job:
    """One task under proof: `files` are the index entries it starts from, `guards` those that must be left alone."""

    at: int
    kind: str
    patches: tuple[str, ...]
    sections: tuple[list[Section], ...]
    base: str
    files: dict[str, Node]
    guards: dict[str, Node]

    @property
    def folder(self) -> str:
        return f"@{self.at}"


@frozen
class _Batch:
    """Jobs of one kind with the same attributes, and what became of them."""

    shop: Workshop
    jobs: list[_Job]
    faults: dict[int, Reject]
    words: dict[int, str] = field(factory=dict)

    def alive(self) -> list[_Job]:
        return [job for job in self.jobs if job.at not in self.faults]


def prove(shop: Workshop, tasks: Sequence[Answered]) -> list[Proof | Reject]:
    """Verify the answers of tasks of one repository, in order.

    Raises:
        LoraplugError: git failed or exceeded its limits.
    """
    faults: dict[int, Reject] = {}
    proofs: dict[int, Proof] = {}
    jobs: list[_Job] = []
    with shop.objects.limited():
        for at, task in enumerate(tasks):
            try:
                jobs.append(_job(shop, at, task))
            except Reject as fault:
                faults[at] = fault
        shop.fetch_missing(node.oid for job in jobs for node in job.files.values() if node.mode != "160000")
        for job in jobs:
            try:
                _check_files(shop, job)
            except Reject as fault:
                faults[job.at] = fault
    ready = sorted((job for job in jobs if job.at not in faults), key=_alike)
    for _, alike in groupby(ready, key=_alike):
        proofs |= _prove_batch(_Batch(shop, list(alike), faults))
    return [proofs[at] if at in proofs else faults[at] for at in range(len(tasks))]


def _alike(job: _Job) -> str:
    """Equal for jobs that may share an index: the same stages under the same attributes."""
    if any(path.rpartition("/")[2] == ".gitattributes" for path in set(job.files) - set(job.guards)):
        return job.folder  # the patch changes the rules it is read by
    rules = sorted((path, node.oid) for path, node in job.guards.items() if path.endswith(".gitattributes"))
    return f"{job.kind} {len([text for text in job.patches if text])} {rules}"


def _job(shop: Workshop, at: int, answered: Answered) -> _Job:
    task = answered.task
    if not task.base_commit:
        todo = 'add it to the rows, or set mode = "simple", which needs no repository'
        raise Reject("no-commit", f"the task names no base_commit; {todo}")
    base = shop.commit_tree(task.base_commit)
    patches: tuple[str, ...] = (answered.patch,)
    if answered.kind == "revert-bug":
        gold = sound_patch(task.gold_patch).text if task.gold_patch.strip() else ""
        patches = (gold, task.bug_patch, answered.patch)
    sections = tuple(parse_patch(text) for text in patches)
    files: dict[str, Node] = {}
    guards: dict[str, Node] = {}
    for section in (section for stage in sections for section in stage):
        for path in (section.old, section.new):
            if path is not None:
                check_path(path)
                _look_up(shop, base, path, created=path != section.old, files=files, guards=guards)
    guards = {path: node for path, node in guards.items() if path not in files}
    return _Job(at, answered.kind, patches, sections, base, files | guards, guards)


def _look_up(
    shop: Workshop, base: str, path: str, *, created: bool, files: dict[str, Node], guards: dict[str, Node]
) -> None:
    node, bar = shop.objects.find(base, path)
    if node is not None and node.mode == TREE:
        if created:
            raise Reject("path-conflict", f"{path} would be a file and is a folder")
    elif node is not None:
        files[path] = node
    if bar is not None:
        guards[bar[0]] = bar[1]
    parts = path.split("/")[:-1]
    for depth in range(len(parts) + 1):
        rules = "/".join([*parts[:depth], ".gitattributes"])
        found, _ = shop.objects.find(base, rules)
        if found is not None and found.mode.startswith("100"):
            guards[rules] = found


def _check_files(shop: Workshop, job: _Job) -> None:
    for path, node in job.files.items():
        if node.mode == "160000":
            continue
        if (info := shop.objects.info(node.oid)) is None:
            raise Reject("missing-object", f"the repository lacks the content of {path} ({node.oid})")
        if info[2] > shop.limits.max_file_bytes:
            raise Reject("file-too-large", f"{path} has {info[2]:,} bytes, more than {shop.limits.max_file_bytes:,}")


def _prove_batch(batch: _Batch) -> dict[int, Proof]:
    shop, jobs = batch.shop, batch.jobs
    (shop.folder / "git" / "index").unlink(missing_ok=True)
    lines = [f"{node.mode} {node.oid}\t{job.folder}/{path}\0" for job in jobs for path, node in job.files.items()]
    rules = {path: node for job in jobs for path, node in job.files.items() if path.endswith(".gitattributes")}
    lines += [f"{node.mode} {node.oid}\t{path}\0" for path, node in rules.items()]  # for diffs between the folders
    _must(shop, ["update-index", "-z", "--index-info"], "".join(lines).encode())
    states: list[_State] = [{job.folder: job.files for job in jobs}]
    for stage, reason in enumerate(_STAGES[jobs[0].kind]):
        batch.words.clear()
        todo = [job for job in batch.alive() if job.patches[stage]]
        _apply(batch, todo, stage, reason)
        states.append(_state(shop) if todo else states[-1])
    _check_results(batch, states)
    return _diffs(batch, states) if batch.alive() else {}


def _state(shop: Workshop) -> _State:
    """The files in every folder of the index."""
    state: dict[str, dict[str, Node]] = {}
    for entry in _must(shop, ["ls-files", "-s", "-z"]).decode().split("\0"):
        if entry.startswith("1"):  # a mode; the list ends with an empty entry
            head, place = entry.split("\t", 1)
            folder, _, path = place.partition("/")
            mode, oid, _ = head.split(" ")
            state.setdefault(folder, {})[path] = Node(mode, oid)
    return dict(state)


def _check_results(batch: _Batch, states: list[_State]) -> None:
    for job in batch.alive():
        before, after = (states[at].get(job.folder, {}) for at in (-2, -1))
        if before == after:
            batch.faults[job.at] = Reject("changes-nothing", "the patch applies but leaves the tree as it was")
        elif job.kind == "revert-bug" and after != states[1].get(job.folder, {}):
            batch.faults[job.at] = Reject(
                "not-the-inverse", "reversing the bug patch does not restore the tree before the bug"
            )
        elif any(after.get(path) != node for path, node in job.guards.items()):
            batch.faults[job.at] = Reject("path-conflict", "the patch puts a folder where a file is")


def _apply(batch: _Batch, jobs: list[_Job], stage: int, reason: str) -> None:
    """Apply one stage of all jobs, halving where git speaks; jobs it fails for get `reason` and git's words."""
    led = {job.at: _lead(job.sections[stage], job.folder) for job in jobs if not _WHITESPACE.search(job.patches[stage])}
    quiet = [job for job in jobs if led.get(job.at) is not None]
    piles = [quiet] if quiet else []
    alone = [job for job in jobs if led.get(job.at) is None]
    while piles:
        pile = piles.pop()
        if len(pile) == 1:
            alone += pile
            continue
        text = "".join(led[job.at] or "" for job in pile)
        done = batch.shop.git(["apply", "--cached", "-"], text.encode())
        if done.code or done.words:
            piles += [pile[: len(pile) // 2], pile[len(pile) // 2 :]]
    for job in alone:
        done = batch.shop.git(["apply", "--cached", f"--directory={job.folder}", "-"], job.patches[stage].encode())
        words = done.words.replace(f"{job.folder}/", "")
        if done.code:
            batch.faults[job.at] = Reject(reason, words.strip() or f"git apply ended with code {done.code}")
        else:
            batch.words[job.at] = words


def _lead(sections: list[Section], folder: str) -> str | None:
    """The patch with every path led into `folder`; None where a header is not in git's plain form."""
    lines: list[str] = []
    for section in sections:
        old, new = section.old or section.path, section.path
        if section.binary or old.startswith('"') or new.startswith('"'):
            return None
        plain = {
            f"diff --git a/{old} b/{new}": f"diff --git a/{folder}/{old} b/{folder}/{new}",
            f"diff --git /dev/null b/{new}": f"diff --git /dev/null b/{folder}/{new}",
            f"--- a/{old}": f"--- a/{folder}/{old}",
            f"+++ b/{new}": f"+++ b/{folder}/{new}",
            f"rename from {old}": f"rename from {folder}/{old}",
            f"rename to {new}": f"rename to {folder}/{new}",
        }
        for line in section.header:
            if (led := plain.get(line.rstrip("\t"))) is not None:
                lines.append(led + line[len(line.rstrip("\t")) :])
            elif line in ("--- /dev/null", "+++ /dev/null") or re.match(r"index |old |new |deleted |similarity ", line):
                lines.append(line)
            else:
                return None
        for hunk in section.hunks:
            lines += [hunk.header(), *hunk.lines]
    return "".join(f"{line}\n" for line in lines)


def _diffs(batch: _Batch, states: list[_State]) -> dict[int, Proof]:
    shop, jobs = batch.shop, batch.alive()
    trees = TreePack(len(shop.empty_tree))
    pairs = [tuple(trees.add(states[at].get(job.folder, {})) for at in (-2, -1)) for job in jobs]
    _must(shop, ["index-pack", "--stdin"], trees.pack())
    heads = [f"{before} {after}\n".encode() for before, after in pairs]
    out = _must(shop, ["diff-tree", "--stdin", "-r", "-p", "-M", "--no-ext-diff", "--no-textconv"], b"".join(heads))
    proofs: dict[int, Proof] = {}
    at = 0
    for job, head, following in zip(jobs, heads, [*heads[1:], b""], strict=True):
        if not out.startswith(head, at):
            raise LoraplugError("git diff-tree answered out of order", where=shop.clone.git_dir)
        at += len(head)
        until = out.index(b"\n" + following, at) + 1 if following else len(out)
        try:
            diff = out[at:until].decode()
        except UnicodeDecodeError:
            batch.faults[job.at] = Reject("not-utf8", "the change touches text that is not UTF-8")
        else:
            proofs[job.at] = _proof(batch, job, states, diff)
        at = until
    return proofs


def _proof(batch: _Batch, job: _Job, states: list[_State], diff: str) -> Proof:
    first, before = (states[at].get(job.folder, {}) for at in (0, -2))
    added, removed = (
        frozenset(path.encode() for path in one) for one in (before.keys() - first, first.keys() - before)
    )
    return Proof(batch.words.get(job.at, ""), diff, job.sections[-1], job.base, before, added, removed)


def _must(shop: Workshop, arguments: list[str], stdin: bytes = b"") -> bytes:
    done = shop.git(arguments, stdin)
    if done.code:
        raise LoraplugError(f"git {arguments[0]} failed: {done.words.strip()}", where=shop.clone.git_dir)
    return done.out
