"""Build the git repository that the sample tasks are about.

Usage: python data/build_sample_repo.py DEST

One commit on the branch ``main``: the package in ``sample_package``. Names, dates and file modes are fixed and the
user's git settings are left out, so the commit id is the same everywhere; it is the ``base_commit`` of the tasks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "sample_package"
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


def build(dest: Path, package: Path = PACKAGE) -> str:
    """Make the repository in a new or empty folder; return the id of its commit."""
    dest.mkdir(parents=True, exist_ok=True)
    if any(dest.iterdir()):
        raise FileExistsError(f"not empty: {dest}")
    git(dest, "init", "--quiet", "--object-format=sha1", "--template=")
    git(dest, "config", "core.autocrlf", "false")
    paths = sorted(path for pattern in FILES for path in package.glob(pattern))
    blobs = git(dest, "hash-object", "-w", "--no-filters", "--stdin-paths", text="".join(f"{path}\n" for path in paths))
    names = (path.relative_to(package).as_posix() for path in paths)
    entries = (f"100644 {blob}\t{name}\n" for blob, name in zip(blobs.split(), names, strict=True))
    git(dest, "update-index", "--add", "--index-info", text="".join(entries))
    commit = git(dest, "commit-tree", git(dest, "write-tree"), "-m", "tidyshelf 0.3.0")
    git(dest, "update-ref", "refs/heads/main", commit)
    git(dest, "reset", "--quiet", "--hard", "main")
    return commit


def main() -> None:
    """Read the command line, build the repository and tell its commit."""
    parser = argparse.ArgumentParser(description="Build the git repository of the sample tasks.")
    parser.add_argument("dest", type=Path, help="a new or empty folder")
    dest: Path = parser.parse_args().dest
    print(f"{dest}: main is {build(dest)}")


if __name__ == "__main__":
    main()
