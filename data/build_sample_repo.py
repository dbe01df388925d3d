"""Build the git repository that the sample tasks are about.

Usage: python data/build_sample_repo.py DEST

The first commit (branch ``main``) is the correct package. Every task adds one child of it (branch ``task-<id>``): the
package with that task's bug. Names, dates and file modes are fixed and the user's git settings are left out, so the
commit ids are the same everywhere; they are the ``base_commit`` of the tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "sample_package"
TASKS = HERE / "sample_tasks"
FILES = ("README.md", "pyproject.toml", "tidyshelf/*.py", "tests/*.py")
WHO = {"NAME": "tidyshelf", "EMAIL": "tidyshelf@example.com", "DATE": "1704067200 +0000"}


def git_env() -> dict[str, str]:
    """Return an environment in which git sees no settings but ours."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in WHO.items()}
    return env | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def git(repo: Path, *args: str, text: str = "") -> str:
    """Run git in a folder, feed it text, and return what it prints."""
    command = ["git", "-c", "core.autocrlf=false", "-c", "init.defaultBranch=main", *args]
    done = subprocess.run(command, cwd=repo, env=git_env(), input=text.encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"git {args[0]} failed: {done.stderr.decode().strip()}")
    return done.stdout.decode().removesuffix("\n")


def load_tasks(folder: Path = TASKS) -> dict[int, dict[str, Any]]:
    """Read all task files, in order of their id."""
    found = {int(path.stem.removeprefix("task_")): path for path in folder.glob("task_*.json")}
    return {number: json.loads(found[number].read_text(encoding="utf-8")) for number in sorted(found)}


def commit_index(repo: Path, message: str, *parents: str) -> str:
    """Commit what is in git's index and return the commit id."""
    tree = git(repo, "write-tree")
    links = [word for parent in parents for word in ("-p", parent)]
    return git(repo, "commit-tree", tree, *links, "-m", message)


def commit_package(repo: Path, package: Path = PACKAGE) -> str:
    """Commit the correct package as the first commit and return its id."""
    paths = sorted(path for pattern in FILES for path in package.glob(pattern))
    blobs = git(repo, "hash-object", "-w", "--no-filters", "--stdin-paths", text="".join(f"{path}\n" for path in paths))
    names = (path.relative_to(package).as_posix() for path in paths)
    entries = (f"100644 {blob}\t{name}\n" for blob, name in zip(blobs.split(), names, strict=True))
    git(repo, "update-index", "--add", "--index-info", text="".join(entries))
    return commit_index(repo, "tidyshelf 0.3.0")


def build(dest: Path, tasks: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Make the repository at a new or empty folder; return the commit of each task."""
    dest.mkdir(parents=True, exist_ok=True)
    if any(dest.iterdir()):
        raise FileExistsError(f"not empty: {dest}")
    git(dest, "init", "--quiet", "--object-format=sha1", "--template=")
    git(dest, "config", "core.autocrlf", "false")
    first = commit_package(dest)
    commits: dict[int, str] = {}
    for number, task in tasks.items():
        git(dest, "read-tree", first)
        git(dest, "apply", "--cached", text=task["bug"]["patch"])
        commits[number] = commit_index(dest, f"Work in progress {number}", first)
    refs = {"main": first} | {f"task-{number}": commit for number, commit in commits.items()}
    git(dest, "update-ref", "--stdin", text="".join(f"create refs/heads/{ref} {refs[ref]}\n" for ref in refs))
    git(dest, "reset", "--quiet", "--hard", "main")
    return commits


def main() -> None:
    """Read the command line, build the repository and compare its commits with the tasks."""
    parser = argparse.ArgumentParser(description="Build the git repository of the sample tasks.")
    parser.add_argument("dest", type=Path, help="a new or empty folder")
    dest: Path = parser.parse_args().dest
    tasks = load_tasks()
    commits = build(dest, tasks)
    wrong = [number for number, task in tasks.items() if task["source"]["base_commit"] != commits[number]]
    if wrong:
        raise SystemExit(f"other commit ids than in the tasks: {wrong}")
    print(f"{dest}: {len(commits)} tasks, all commit ids as in the task files")


if __name__ == "__main__":
    main()
