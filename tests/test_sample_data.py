"""Tests for the sample package, the sample tasks and the script that builds their repository."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
Task = dict[str, Any]


def load_builder() -> ModuleType:
    """Import data/build_sample_repo.py, which is a script and not part of a package."""
    spec = importlib.util.spec_from_file_location("build_sample_repo", DATA / "build_sample_repo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load_builder()
TASKS: dict[int, Task] = builder.load_tasks()


@pytest.fixture(scope="module")
def commits() -> dict[int, str]:
    """Hold the commit of each task; filled by the repo fixture."""
    return {}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, commits: dict[int, str]) -> Path:
    """Build the sample repository once."""
    dest = tmp_path_factory.mktemp("sample") / "tidyshelf"
    commits.update(builder.build(dest, TASKS))
    return dest


def tree_after(repo: Path, start: str, patch: str) -> str:
    """Apply a patch to a commit or tree with git and return the id of the new tree."""
    builder.git(repo, "read-tree", start)
    builder.git(repo, "apply", "--cached", text=patch)
    return str(builder.git(repo, "write-tree"))


def tree_of(repo: Path, commit: str) -> str:
    """Return the id of a commit's tree."""
    return str(builder.git(repo, "rev-parse", f"{commit}^{{tree}}"))


def unpack(repo: Path, commit: str, folder: Path) -> Path:
    """Write the files of a commit to a folder."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=repo, env=builder.git_env(), capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def run_pytest(folder: Path, *args: str) -> dict[str, str]:
    """Run pytest in a folder and return the outcome of each test, by node id."""
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return {node: outcome for outcome, node in found}


def changed_lines(patch: str) -> list[str]:
    """Return the lines a patch adds or removes, without their sign and indentation."""
    body = [line for line in patch.splitlines() if not line.startswith(("+++", "---"))]
    return [line[1:].strip() for line in body if line.startswith(("+", "-"))]


def test_there_are_enough_tasks() -> None:
    """Ids count from 1 without a hole, and there are at least 48."""
    assert len(TASKS) >= 48
    assert list(TASKS) == list(range(1, len(TASKS) + 1))


def test_fields_are_complete() -> None:
    """Every task has all fields of the contract, and none of them is empty."""
    fields = {
        "source": {"dataset", "swe_instance_id", "repo", "base_commit"},
        "bug": {"patch", "bug_types", "description", "problem_statement", "target_tests"},
        "original": {"gold_patch", "problem_statement", "all_tests"},
    }
    for number, task in TASKS.items():
        assert task.keys() == fields.keys() | {"generation", "verification"}
        for part, names in fields.items():
            assert task[part].keys() == names
            assert all(task[part].values())
        assert task["source"]["swe_instance_id"] == f"tidyshelf-{number}"
        assert set(task["bug"]["target_tests"]) <= set(task["original"]["all_tests"])


def test_tasks_are_varied() -> None:
    """Bugs are spread over all modules and many kinds, and no two patches are the same."""
    kinds = Counter(kind for task in TASKS.values() for kind in task["bug"]["bug_types"])
    files = Counter(name for task in TASKS.values() for name in re.findall(r"^--- a/(.+)$", task["bug"]["patch"], re.M))
    modules = {path.name for path in (builder.PACKAGE / "tidyshelf").glob("[a-z]*.py")}
    assert len(kinds) >= 15
    assert {Path(name).name for name in files} == modules
    assert len({task["bug"]["patch"] for task in TASKS.values()}) == len(TASKS)


def test_tasks_are_small() -> None:
    """Issue and patch of a task together stay short enough to train on a CPU."""
    for task in TASKS.values():
        issue = task["bug"]["problem_statement"]
        assert 40 <= len(issue.split()) <= 110
        assert len(issue) + len(task["original"]["gold_patch"]) < 1800


def test_issues_are_unique_and_hide_the_patch() -> None:
    """No two issue texts are the same, and none of them shows a changed line."""
    issues = [task["bug"]["problem_statement"] for task in TASKS.values()]
    assert len(set(issues)) == len(issues)
    for task in TASKS.values():
        issue = task["bug"]["problem_statement"]
        assert "diff --git" not in issue
        assert "@@" not in issue
        assert not [line for line in changed_lines(task["bug"]["patch"]) if len(line) > 5 and line in issue]


def test_base_commits_are_what_the_script_builds(repo: Path, commits: dict[int, str]) -> None:
    """The commit ids in the task files are those of a freshly built repository."""
    assert {number: task["source"]["base_commit"] for number, task in TASKS.items()} == commits
    for number, commit in commits.items():
        assert builder.git(repo, "rev-parse", f"task-{number}") == commit


def test_building_ignores_user_settings(
    repo: Path, commits: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git settings and variables of the user change nothing."""
    (tmp_path / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[user]\n\tname = Someone\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    some = {number: TASKS[number] for number in (1, 2)}
    assert builder.build(tmp_path / "again", some) == {number: commits[number] for number in some}


def test_building_refuses_a_used_folder(tmp_path: Path) -> None:
    """A folder with files in it is left alone."""
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        builder.build(tmp_path, {})


def test_main_is_the_correct_package(repo: Path) -> None:
    """The checked-out files of the repository are those of the sample package, byte by byte."""
    names = str(builder.git(repo, "ls-files")).splitlines()
    assert len(names) > 20
    assert builder.git(repo, "status", "--porcelain") == ""
    assert all((repo / name).read_bytes() == (builder.PACKAGE / name).read_bytes() for name in names)


def test_gold_patches_give_the_correct_tree(repo: Path) -> None:
    """Each gold patch takes its base commit to exactly the correct package."""
    correct = tree_of(repo, "main")
    for task in TASKS.values():
        assert tree_after(repo, task["source"]["base_commit"], task["original"]["gold_patch"]) == correct


def test_bug_patches_undo_gold_patches(repo: Path) -> None:
    """Each bug patch takes the correct package back to the base commit."""
    for task in TASKS.values():
        base = task["source"]["base_commit"]
        assert tree_after(repo, "main", task["bug"]["patch"]) == tree_of(repo, base) != tree_of(repo, "main")


def test_sample_package_passes_its_tests(repo: Path, tmp_path: Path) -> None:
    """All tests of the correct package pass, and they are the ones the tasks list."""
    outcomes = run_pytest(unpack(repo, "main", tmp_path))
    assert set(outcomes.values()) == {"PASSED"}
    for task in TASKS.values():
        assert set(task["original"]["all_tests"]) == outcomes.keys()


@pytest.mark.slow
def test_target_tests_fail_with_the_bug_and_pass_without(repo: Path, tmp_path: Path) -> None:
    """On each buggy tree every target test fails; on the fixed tree, the same for all tasks, all of them pass."""

    def outcomes(number: int) -> dict[str, str]:
        folder = unpack(repo, TASKS[number]["source"]["base_commit"], tmp_path / str(number))
        return run_pytest(folder, *TASKS[number]["bug"]["target_tests"])

    with ThreadPoolExecutor(max_workers=2) as pool:
        results = dict(zip(TASKS, pool.map(outcomes, TASKS), strict=True))
    for number, task in TASKS.items():
        assert results[number] == dict.fromkeys(task["bug"]["target_tests"], "FAILED")
    targets = {node for task in TASKS.values() for node in task["bug"]["target_tests"]}
    fixed = run_pytest(unpack(repo, "main", tmp_path / "fixed"), *sorted(targets))
    assert fixed == dict.fromkeys(targets, "PASSED")
