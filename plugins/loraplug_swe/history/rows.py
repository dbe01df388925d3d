"""Rows and tasks of verified fixes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError
from loraplug_swe.history.commits import Fix
from loraplug_swe.history.message import told_message
from loraplug_swe.history.verify import Verdict
from loraplug_swe.mutation.problem_statement import problem_statement
from loraplug_swe.sandbox.checkout import run_git

METHOD = (
    "buggy_tree, fixed_tree: all tests with the fix taken back and without, twice each; those that fail run again "
    "without the others, beside control tests that must fail"
)


@frozen
class Row:
    """A verified commit."""

    fix: Fix
    verdict: Verdict


def then_row(row: Row, repo: str, statement: str, source: Path, mark: str) -> dict[str, Any]:
    """A row with SWE-bench's columns and those that a formatter needs."""
    fix, verdict = row.fix, row.verdict
    told = _statement(row, statement, source, mark)
    name = f"{repo.replace('/', '__')}-{fix.commit.name[:12]}"
    return {
        "instance_id": name, "repo": repo, "base_commit": fix.commit.parents[0], "problem_statement": told,
        "patch": fix.patch, "test_patch": fix.test_patch, "FAIL_TO_PASS": list(verdict.fail_to_pass),
        "PASS_TO_PASS": list(verdict.pass_to_pass), "created_at": fix.commit.created_at,
        "instruction": told, "response": fix.patch, "task_id": name, "group": [repo.lower(), name],
    }  # fmt: skip


def today_task(row: Row, repo: str, tip: str, statement: str, source: Path, mark: str) -> dict[str, Any]:
    """A SWE-SYNTH task: `bug.patch` reverts an old fix on the newest commit."""
    fix, verdict = row.fix, row.verdict
    return {
        "source": {"dataset": "swe-history", "swe_instance_id": f"{repo.replace('/', '__')}-{fix.commit.name[:12]}",
                   "repo": repo, "base_commit": tip},
        "bug": {"patch": verdict.bug, "bug_types": ["old_fix_reverted"],
                "description": f"The fix of {fix.commit.name} taken back.",
                "problem_statement": _statement(row, statement, source, mark),
                "target_tests": list(verdict.fail_to_pass)},
        "original": {"gold_patch": "", "problem_statement": "",
                     "all_tests": [*verdict.fail_to_pass, *verdict.pass_to_pass]},
        "generation": {"mode": "swe-history", "kind": "old_fix_reverted", "commit": fix.commit.name,
                       "created_at": fix.commit.created_at},
        "verification": {"verified": True, "method": METHOD,
                         "buggy_tree": {"failed": len(verdict.fail_to_pass)},
                         "fixed_tree": {"passed": len(verdict.fail_to_pass)}},
    }  # fmt: skip


def today_row(number: int, row: Row, task: Mapping[str, Any]) -> dict[str, Any]:
    """{instruction, response, task_id, group}; the answer is the fix on the newest commit."""
    return {"instruction": task["bug"]["problem_statement"], "response": row.verdict.mend, "task_id": str(number),
            "group": [task["source"]["repo"].lower(), task["source"]["swe_instance_id"]]}  # fmt: skip


def _statement(row: Row, statement: str, source: Path, mark: str) -> str:
    """What fails, after what the commit says of it where that is asked for and tells nothing of the fix."""
    failure = problem_statement(row.verdict.failures, mark)
    if statement != "message":
        return failure
    fix = row.fix
    parent, own = fix.commit.parents[0], fix.commit.name
    seen = [_text(source, parent, path) for path in fix.code if path not in fix.new_files]
    seen += [_text(source, own, path) for path in fix.tests]
    said = told_message(fix.commit.message, fix.patch, [*seen, failure], fix.new_files)
    return f"{said}\n\n{failure}" if re.search(r"\w", said) else failure


def _text(source: Path, commit: str, path: str) -> str:
    try:
        return run_git(source, "cat-file", "blob", f"{commit}:{path}").decode("utf-8", "replace")
    except InputError:
        return ""
