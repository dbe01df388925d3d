"""Tests for the sample package, the sample tasks and the script that builds their repository."""

from __future__ import annotations

import importlib.util
import io
import json
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

from command import Cli

DATA = Path(__file__).resolve().parents[1] / "data"
Task = dict[str, Any]


def load_builder() -> ModuleType:
    """Import data/build_sample_repo.py, which is a script and not part of a package."""
    spec = importlib.util.spec_from_file_location("build_sample_repo", DATA / "build_sample_repo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_tasks(folder: Path) -> dict[int, Task]:
    """Read all task files, in order of their number."""
    found = {int(path.stem.removeprefix("task_")): path for path in folder.glob("task_*.json")}
    return {number: json.loads(found[number].read_text(encoding="utf-8")) for number in sorted(found)}


builder = load_builder()
TASKS = load_tasks(DATA / "sample_tasks")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sample repository once."""
    dest = tmp_path_factory.mktemp("sample") / "tidyshelf"
    builder.build(dest)
    return dest


def tree_after(repo: Path, start: str, patch: str, *options: str) -> str:
    """Apply a patch to a commit or tree with git and return the id of the new tree."""
    builder.git(repo, "read-tree", start)
    builder.git(repo, "apply", "--cached", *options, text=patch)
    made = str(builder.git(repo, "write-tree"))
    builder.git(repo, "read-tree", "main")  # the index as it was, for whoever comes next
    return made


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
    """Numbers count from 1 without a hole, and there are at least 48."""
    assert len(TASKS) >= 48
    assert list(TASKS) == list(range(1, len(TASKS) + 1))


def test_fields_are_complete() -> None:
    """Every task has all fields of the contract; only what belongs to a gold patch is empty, as there is none."""
    fields = {
        "source": {"dataset", "swe_instance_id", "repo", "base_commit"},
        "bug": {"patch", "bug_types", "description", "problem_statement", "target_tests"},
        "original": {"gold_patch", "problem_statement", "all_tests"},
    }
    for number, task in TASKS.items():
        assert task.keys() == fields.keys() | {"generation", "verification"}
        for part, names in fields.items():
            assert task[part].keys() == names
        assert all(task["source"].values()) and all(task["bug"].values()) and task["original"]["all_tests"]
        assert task["original"]["gold_patch"] == task["original"]["problem_statement"] == ""
        assert task["source"]["swe_instance_id"] == f"loraplug__tidyshelf-{number}"
        assert set(task["bug"]["target_tests"]) <= set(task["generation"]["related_tests"])
        assert set(task["generation"]["related_tests"]) <= set(task["original"]["all_tests"])


def test_tasks_are_varied() -> None:
    """Bugs are spread over all modules, many functions and many kinds, and no two patches are the same."""
    kinds = Counter(kind for task in TASKS.values() for kind in task["bug"]["bug_types"])
    files = Counter(name for task in TASKS.values() for name in re.findall(r"^--- a/(.+)$", task["bug"]["patch"], re.M))
    functions = {(task["generation"]["file"], task["generation"]["function"]) for task in TASKS.values()}
    modules = {path.name for path in (builder.PACKAGE / "tidyshelf").glob("[a-z]*.py")}
    assert len(kinds) >= 20
    assert len(functions) >= 60
    assert {Path(name).name for name in files} == modules
    assert len({task["bug"]["patch"] for task in TASKS.values()}) == len(TASKS)


def test_tasks_are_small() -> None:
    """Statement and patch of a task together stay short enough to train on a CPU."""
    for task in TASKS.values():
        assert len(task["bug"]["problem_statement"]) + len(task["bug"]["patch"]) < 1500


def test_statements_show_the_failure_and_hide_the_patch() -> None:
    """All differ, name the first failing test, and show a changed line only where a traceback passes through it."""
    statements = [task["bug"]["problem_statement"] for task in TASKS.values()]
    assert len(set(statements)) == len(statements)
    for task in TASKS.values():
        lines = task["bug"]["problem_statement"].splitlines()
        assert lines[-1].removeprefix("Test: ") == task["bug"]["target_tests"][0]
        told = "\n".join(line for line in lines if not re.match(r"  tidyshelf/\w+\.py:\d+ in ", line))
        assert "diff --git" not in told and "@@" not in told and " at 0x" not in told
        assert task["bug"]["description"].split(": ", 1)[1] not in told
        assert not [line for line in changed_lines(task["bug"]["patch"]) if len(line) > 5 and line in told]


def test_base_commit_is_what_the_script_builds(repo: Path) -> None:
    """The commit id in all task files is that of a freshly built repository."""
    assert {task["source"]["base_commit"] for task in TASKS.values()} == {builder.git(repo, "rev-parse", "main")}


def test_building_ignores_user_settings(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git settings and variables of the user change nothing."""
    (tmp_path / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[user]\n\tname = Someone\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert builder.build(tmp_path / "again") == builder.git(repo, "rev-parse", "main")


def test_building_refuses_a_used_folder(tmp_path: Path) -> None:
    """A folder with files in it is left alone."""
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        builder.build(tmp_path)


def test_main_is_the_correct_package(repo: Path) -> None:
    """The checked-out files of the repository are those of the sample package, byte by byte."""
    names = str(builder.git(repo, "ls-files")).splitlines()
    assert len(names) > 20
    assert builder.git(repo, "status", "--porcelain") == ""
    assert all((repo / name).read_bytes() == (builder.PACKAGE / name).read_bytes() for name in names)


def test_bug_patches_apply_and_can_be_taken_back(repo: Path) -> None:
    """git applies each bug patch to the base commit, which changes it, and reversed leads back."""
    right = builder.git(repo, "rev-parse", "main^{tree}")
    for task in TASKS.values():
        broken = tree_after(repo, task["source"]["base_commit"], task["bug"]["patch"])
        assert broken != right
        assert tree_after(repo, broken, task["bug"]["patch"], "--reverse") == right


def test_sample_package_passes_its_tests(repo: Path, tmp_path: Path) -> None:
    """All tests of the correct package pass, and they are the ones the tasks list."""
    outcomes = run_pytest(unpack(repo, "main", tmp_path))
    assert set(outcomes.values()) == {"PASSED"}
    for task in TASKS.values():
        assert set(task["original"]["all_tests"]) == outcomes.keys()


@pytest.mark.slow
def test_target_tests_fail_with_the_bug_and_pass_without(repo: Path, tmp_path: Path) -> None:
    """With each bug all target tests fail, and none of the other related ones; without it all of them pass."""

    trees = {number: tree_after(repo, "main", task["bug"]["patch"]) for number, task in TASKS.items()}

    def outcomes(number: int) -> dict[str, str]:
        folder = unpack(repo, trees[number], tmp_path / str(number))
        return run_pytest(folder, *TASKS[number]["generation"]["related_tests"])

    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(outcomes, TASKS))
    for task, result in zip(TASKS.values(), results, strict=True):
        related, targets = task["generation"]["related_tests"], task["bug"]["target_tests"]
        assert result == {test: "FAILED" if test in targets else "PASSED" for test in related}
    all_tests = TASKS[1]["original"]["all_tests"]
    assert run_pytest(unpack(repo, "main", tmp_path / "right")) == dict.fromkeys(all_tests, "PASSED")


def test_swe_shows_the_bug_and_its_way_back(repo: Path, loraplug: Cli, tmp_path: Path) -> None:
    """The command in swe_local.toml makes a row of every task: the file with the bug, and the reversed patch."""
    recipe = DATA.parent / "recipes" / "swe_local.toml"
    done = loraplug("data", recipe, "-o", "rows.jsonl", "--set", f"dataset.clone_url={repo}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows.rejects.jsonl").read_text(encoding="utf-8") == ""
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [int(row["task_id"]) for row in rows] == list(TASKS)
    for row in rows:
        patch = TASKS[int(row["task_id"])]["bug"]["patch"]
        removed, added = ([line[1:] for line in patch.splitlines() if re.match(rf"\{sign}(?!\{sign}\{sign} )", line)]
                          for sign in "-+")  # fmt: skip
        seen = "\n".join(message["content"] for message in row["messages"] if message["role"] == "user")
        answer = "\n".join(message["content"] for message in row["messages"] if message["role"] == "assistant")
        assert all(line in seen for line in added)
        assert all(f"\n-{line}\n" in answer for line in added) and all(f"\n+{line}\n" in answer for line in removed)


@pytest.mark.slow
def test_tasks_made_again_are_the_same(repo: Path, loraplug: Cli, tmp_path: Path) -> None:
    """The recipe makes these very tasks: every byte in Python 3.11; in others errors may read otherwise."""
    settings = ("--set", f"dataset.path={repo}", "--set", "dataset.tasks_out=tasks")
    done = loraplug("data", DATA.parent / "recipes" / "sample_tasks.toml", "-o", "rows.jsonl", *settings)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == len(TASKS)
    if sys.version_info[:2] == (3, 11):
        for number in TASKS:
            name = f"task_{number}.json"
            assert (tmp_path / "tasks" / name).read_bytes() == (DATA / "sample_tasks" / name).read_bytes()
    made, known = load_tasks(tmp_path / "tasks"), load_tasks(DATA / "sample_tasks")
    for task in (*made.values(), *known.values()):
        assert task["bug"].pop("problem_statement")
    assert made == known


@pytest.mark.slow
def test_right_answers_are_found_right(loraplug: Cli, tmp_path: Path) -> None:
    """The answers of `swe-synth`, the reversed bug patches, resolve every task in `loraplug eval`."""
    done = loraplug("data", DATA.parent / "recipes" / "swe_small.toml", "-o", "answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answers.rejects.jsonl").read_text(encoding="utf-8") == ""
    done = loraplug("eval", "--tasks", DATA / "sample_tasks", "--repo", DATA / "sample_package", "--answers",
                    "answers.jsonl", "--edit", "diff", "--suite", "related", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["models"]["answers"]["all"]
    assert told["tasks"] == told["resolved"] == len(TASKS)
