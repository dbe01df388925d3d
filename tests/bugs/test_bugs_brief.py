"""The short report of `loraplug eval`: one bug that was fixed, and how many were."""

from __future__ import annotations

import json
from pathlib import Path

from command import Cli

CODE = "def half(number):\n    return number / 2\n"
BUG = "def half(number):\n    return number * 2\n"
TESTS = """import halves


def test_half():
    assert halves.half(4) == 2


def test_none():
    assert halves.half(0) == 0
"""
PATCH = (
    "diff --git a/halves.py b/halves.py\n--- a/halves.py\n+++ b/halves.py\n@@ -1,2 +1,2 @@\n def half(number):\n"
    "-    return number / 2\n+    return number * 2\n"
)


def write(folder: Path, answer: str) -> list[str]:
    """A repository with one task and one answer to it; the words of the command."""
    (folder / "code/tests").mkdir(parents=True)
    (folder / "code/halves.py").write_text(CODE)
    (folder / "code/tests/test_halves.py").write_text(TESTS)
    names = [f"tests/test_halves.py::test_{name}" for name in ("half", "none")]
    task = {
        "source": {"swe_instance_id": "local__code-1", "repo": "local/code", "base_commit": ""},
        "bug": {"patch": PATCH, "bug_types": ["wrong_operator"], "target_tests": names[:1],
                "problem_statement": "`test_half` fails with AssertionError."},
        "original": {"gold_patch": "", "all_tests": names},
        "generation": {"mode": "swe-bugs", "language": "python", "file": "halves.py", "function": "half",
                       "kind": "wrong_operator", "related_tests": names},
    }  # fmt: skip
    (folder / "tasks").mkdir()
    (folder / "tasks/task_1.json").write_text(json.dumps(task))
    (folder / "answers.jsonl").write_text(json.dumps({"task_id": "1", "answer": answer}) + "\n")
    return ["eval", "--tasks", "tasks", "--repo", "code", "--answers", "answers.jsonl", "--edit", "lines", "--brief"]


def test_a_fixed_bug_is_shown_with_its_tests(loraplug: Cli, tmp_path: Path) -> None:
    """Failure, diff, tests that pass, and the count as the last line."""
    done = loraplug(*write(tmp_path, "2|    return number / 2\n"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "A bug that was fixed: wrong operator, `half` in halves.py"
    assert "`test_half` fails with AssertionError." in lines
    assert "-    return number * 2" in lines and "+    return number / 2" in lines
    assert "PASSED tests/test_halves.py::test_half" in lines
    assert "PASSED 1 more, which also passed before the bug" in lines
    assert lines[-1] == "resolved 1 of 1"


def test_where_nothing_was_fixed_nothing_is_shown(loraplug: Cli, tmp_path: Path) -> None:
    """Only the count."""
    done = loraplug(*write(tmp_path, "2|    return number * 3\n"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "resolved 0 of 1\n"
