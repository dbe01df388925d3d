"""Rows per second of the `swe` source, compared with a straightforward implementation, and its memory over many tasks.

    python benchmarks/swe_rows.py                         # everything, on repositories made here
    python benchmarks/swe_rows.py --repo DIR --tasks FILE # the first figure on a repository of yours

Code context. Both sides read the same task file and make, for every task, the listing, the files that the patch touches
and the verdict on the patch. The straightforward way runs `git ls-tree`, one `git show` a file, and one
`git apply --check` in a work tree that is switched to the task's commit. Ours does more: the true `git apply` and
`git diff --cached` output and the whole conversation. Two cases: every task at its own commit, and all at one commit
(where the work tree need not be switched).

Memory. A process for each size writes SWE-SYNTH tasks to JSON Lines through `swe` in simple mode, as
`loraplug data` does, and reports its own peak. The time for a row, 10,000 against 100,000, shows whether it is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

from loraplug import Run
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.patches.unified import parse_patch


def git(
    folder: Path, *arguments: str, stdin: bytes | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Git the straightforward way."""
    return subprocess.run(["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=check)


def make_repository(folder: Path, commits: int, files: int = 400) -> None:
    """A repository of `files` Python files whose every commit changes a few lines in one to three of them."""
    draw = random.Random(7)  # noqa: S311 - to make up data
    names = [f"package_{n % 20}/module_{n}.py" for n in range(files)]
    bodies = {name: [f"value_{n} = {draw.random()}" for n in range(200)] for name in names}
    stream = []
    for at in range(commits + 1):
        stream.append(f"commit refs/heads/main\nmark :{at + 1}\ncommitter A <a@b.c> {at} +0000\ndata 1\nx")
        if at:
            stream.append(f"from :{at}")
        for name in names if at == 0 else draw.sample(names, draw.randint(1, 3)):
            for line in draw.sample(range(200), 2):
                bodies[name][line] = f"value_{line} = {draw.random()}"
            text = "\n".join(bodies[name]) + "\n"
            stream.append(f"M 100644 inline {name}\ndata {len(text)}\n{text}")
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "fast-import", "--quiet", stdin="\n".join([*stream, "done", ""]).encode())
    git(folder, "reset", "-q", "--hard")


def make_tasks(repo: Path, path: Path, count: int, *, one_commit: bool) -> None:
    """A task for each commit: its parent is the base, its change the gold patch; or changes all made to one commit."""
    names = git(repo, "rev-list", "--reverse", "--no-merges", "main").stdout.decode().split()
    with path.open("w") as file:
        for at, (base, commit) in enumerate(islice(pairwise(names), count)):
            patch = git(repo, "diff", base, commit).stdout.decode()
            if one_commit:
                base = names[0]
                sections = parse_patch(patch)
                patch = change_one(repo, base, sections[0].path, at)
            row = {
                "instance_id": f"a__b-{at}",
                "repo": "a/b",
                "base_commit": base,
                "problem_statement": "Broken.",
                "patch": patch,
            }
            file.write(json.dumps(row) + "\n")


def change_one(repo: Path, base: str, path: str, at: int) -> str:
    """A patch to one file of `base`."""
    lines = git(repo, "show", f"{base}:{path}").stdout.decode().splitlines()
    here = at % (len(lines) - 8) + 4
    hunk = [f" {line}" for line in lines[here - 3 : here]] + [f"-{lines[here]}", f"+changed = {at}"]
    hunk += [f" {line}" for line in lines[here + 1 : here + 4]]
    return "\n".join(
        [
            f"diff --git a/{path} b/{path}",
            f"--- a/{path}",
            f"+++ b/{path}",
            f"@@ -{here - 2},7 +{here - 2},7 @@",
            *hunk,
            "",
        ]
    )


def straightforward(repo: Path, tasks: Path, scratch: Path) -> int:
    """Listing, files and verdict with a git process for each."""
    tree = scratch / "worktree"
    git(repo, "worktree", "add", "-q", "--detach", str(tree), "HEAD")
    kept, at_commit = 0, ""
    for line in tasks.open():
        row = json.loads(line)
        base = row["base_commit"]
        git(repo, "ls-tree", "-r", "--name-only", base)
        for path in dict.fromkeys(section.old for section in parse_patch(row["patch"]) if section.old):
            git(repo, "show", f"{base}:{path}").stdout.decode()
        if base != at_commit:
            git(tree, "checkout", "-q", "-f", "--detach", base)
            at_commit = base
        kept += not git(tree, "apply", "--check", "-", stdin=row["patch"].encode(), check=False).returncode
    git(repo, "worktree", "remove", "--force", str(tree))
    return kept


def ours(repo: Path, tasks: Path, scratch: Path) -> int:
    """Whole conversations."""
    run = Run("bench", outputs=scratch / "outputs", cache=scratch / "cache")
    return sum(1 for _ in SweSource(tasks=str(tasks), mode="code-context", clone_url=str(repo)).rows(run))


def compare(title: str, repo: Path, tasks: Path) -> None:
    """Both ways, twice, the better of each; the clone is made in the first of ours."""
    best: dict[str, float] = {}
    kept: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in (straightforward, ours) * 2:
            start = time.perf_counter()
            kept[way.__name__] = way(repo, tasks, Path(scratch))
            rate = kept[way.__name__] / (time.perf_counter() - start)
            best[way.__name__] = max(rate, best.get(way.__name__, 0))
    slow, fast = best["straightforward"], best["ours"]
    print(
        f"{title}: {kept['ours']} kept of {kept['straightforward']} that apply; straightforward {slow:.0f} rows/s, "
        f"ours {fast:.0f} rows/s, {fast / slow:.1f} times"
    )


def write_many(count: int) -> None:
    """In a process of its own: `count` synthetic tasks through `swe` to JSON Lines; prints its figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        tasks, out = Path(folder) / "tasks.jsonl", Path(folder) / "out.jsonl"
        draw = random.Random(1)  # noqa: S311 - to make up data
        with tasks.open("w") as file:
            for at in range(count):
                lines = [f"    value = {draw.random()}" for _ in range(40)]
                patch = "diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n@@ -1,40 +1,41 @@\n+x\n" + "\n".join(
                    f" {line}" for line in lines
                )
                task = {
                    "source": {"swe_instance_id": f"a__b-{at}", "repo": "a/b", "base_commit": f"{at:040x}"},
                    "bug": {"patch": patch, "problem_statement": f"Bug {at}. " + "words " * 100},
                    "original": {"gold_patch": patch, "problem_statement": "Issue."},
                }
                file.write(json.dumps(task) + "\n")
        run = Run("bench", outputs=Path(folder) / "outputs", cache=Path(folder) / "cache")
        start = time.perf_counter()
        with out.open("w") as file:
            for row in SweSource(tasks=str(tasks)).rows(run):
                file.write(json.dumps(row) + "\n")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak, "rows": count, "out_mb": out.stat().st_size / 1e6}))


def memory() -> None:
    """10,000 and 100,000 tasks, each in a fresh process."""
    shares = []
    for count in (10_000, 100_000):
        told = subprocess.run([sys.executable, __file__, "--write", str(count)], capture_output=True, check=True).stdout
        one = json.loads(told)
        shares.append(one["seconds"] / count)
        print(
            f"simple mode, {count:,} tasks: {one['seconds']:.1f} s, {count / one['seconds']:,.0f} rows/s, "
            f"peak {one['peak_mb']:.0f} MB, {one['out_mb']:.0f} MB written"
        )
    print(f"time a row, 100,000 against 10,000: {shares[1] / shares[0]:.2f}")


def main() -> None:
    """See the module's text."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--repo", type=Path, help="a git repository with a work tree or bare")
    reader.add_argument("--tasks", type=Path, help="SWE-bench rows of that repository, JSON Lines")
    reader.add_argument("--rows", type=int, default=1000)
    reader.add_argument("--write", type=int, help=argparse.SUPPRESS)
    options = reader.parse_args()
    if options.write:
        write_many(options.write)
        return
    git_version = subprocess.run(["git", "--version"], capture_output=True, check=True).stdout.decode().strip()
    print(f"{git_version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    if options.repo:
        compare(options.repo.name, options.repo, options.tasks)
        return
    with tempfile.TemporaryDirectory() as folder:
        repo, tasks = Path(folder) / "repo", Path(folder) / "tasks.jsonl"
        make_repository(repo, options.rows)
        for one_commit, title in ((False, "each task at its own commit"), (True, "all tasks at one commit")):
            make_tasks(repo, tasks, options.rows, one_commit=one_commit)
            compare(title, repo, tasks)
    memory()


if __name__ == "__main__":
    main()
