"""Small repositories, tasks about them, and a shell that replays a conversation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loraplug import Run

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no folder ../shared/data beside the checkout")


class Repo:
    """A git repository in a folder `<root>/<owner>/<name>`, driven by real git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run git here and return what it prints; a failure is an error."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"} | {
            f"GIT_{who}_{what}": text
            for who in ("AUTHOR", "COMMITTER")
            for what, text in (("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", "2024-01-01T00:00:00Z"))
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=env, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def write(self, files: dict[str, bytes | str | None]) -> None:
        """Write files into the work tree; None deletes."""
        for path, content in files.items():
            place = self.folder / path
            if content is None:
                place.unlink()
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: dict[str, bytes | str | None] | None = None) -> str:
        """Commit these changes and return the commit's name."""
        self.write(files or {})
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "step")
        return self.git("rev-parse", "HEAD").strip()

    def patch(self, base: str, files: dict[str, bytes | str | None]) -> str:
        """The patch that makes these changes to `base`, as git writes it."""
        self.git("checkout", "-q", "-f", base)
        self.write(files)
        self.git("add", "-A", "-f")
        text = self.git("diff", "--cached")
        self.git("reset", "-q", "--hard")
        return text


def row(base: str, patch: str, **fields: Any) -> dict[str, Any]:
    """A SWE-bench row of ada/lib."""
    return {
        "instance_id": "ada__lib-1",
        "repo": "ada/lib",
        "base_commit": base,
        "problem_statement": "It is broken.",
        "patch": patch,
    } | fields


def synth(base: str, gold: str = "", bug: str = "", **fields: Any) -> dict[str, Any]:
    """A SWE-SYNTH task of ada/lib."""
    return {
        "source": {"dataset": "d", "swe_instance_id": "ada__lib-1", "repo": "ada/lib", "base_commit": base},
        "bug": {"patch": bug, "problem_statement": "The bug shows." if bug else ""},
        "original": {"gold_patch": gold, "problem_statement": "The gold issue." if gold else ""},
    } | fields


def write_tasks(folder: Path, rows: list[Any], name: str = "tasks.jsonl") -> str:
    """Write tasks as JSON Lines and return the path."""
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def read_rejects(run: Run) -> list[dict[str, Any]]:
    """The rejects of the run, in order."""
    return [json.loads(line) for line in (run.folder / "rejects.jsonl").read_text().splitlines()]


def commands(messages: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Every command of a conversation with the answer it got, if any."""
    found = []
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            if message.get("tool_calls"):
                command = message["tool_calls"][0]["function"]["arguments"]["command"]
            else:
                _, _, command = re.search(r"(`{3,})(bash)\n(.*?)\n\1$", message["content"], re.DOTALL).groups()
            found.append((command, messages[at + 1]["content"] if at + 1 < len(messages) else None))
    return found


def replay(messages: list[dict[str, Any]], checkout: Path) -> None:
    """Run every command in `checkout` with bash and compare each answer, byte for byte."""
    env = {"PATH": os.environ["PATH"], "HOME": str(checkout.parent), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    script = checkout.with_name(checkout.name + ".sh")  # a command may be longer than an argument may be
    for command, answer in commands(messages):
        script.write_text(command + "\n", newline="\n")
        done = subprocess.run(
            ["bash", str(script)],
            cwd=checkout,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        shown = f"<returncode>{done.returncode}</returncode>\n<output>\n{done.stdout.decode()}</output>"
        assert answer == shown, command


def checkout_of(repo: Repo, commit: str, folder: Path, *patches: str) -> Path:
    """A fresh clone at `commit` with `patches` committed on top."""
    subprocess.run(["git", "clone", "-q", "--no-checkout", str(repo.folder), str(folder)], check=True)
    clone = object.__new__(Repo)
    clone.folder = folder
    clone.git("checkout", "-q", commit)
    for patch in patches:
        clone.git("apply", "--index", "-", stdin=patch.encode())
    if patches:
        clone.git("commit", "-q", "-m", "bug")
    return folder
