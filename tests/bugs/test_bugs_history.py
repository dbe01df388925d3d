"""The source `swe-history` on a small repository with a history: rows that tests prove, and why the rest gives none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from history_repository import CODE, GUARD, LOW, MEAN, MESSAGE, History, judged_commits, plain_commits

from command import Cli
from loraplug import InputError, LoraplugError, Reporter, Run, load_registry
from loraplug_swe.history.commits import NoFix, kind_of, list_commits, read_fix
from loraplug_swe.history.environments import declared
from loraplug_swe.history.make import VerifyJob, read_journal
from loraplug_swe.history.message import told_message
from loraplug_swe.history.source import SweHistorySource
from loraplug_swe.mutation.make import box_limits
from loraplug_swe.mutation.python import Python
from loraplug_swe.sandbox.checkout import copy_commits, find_commit

REASONS = {
    "first": "the first commit", "only code": "changes no tests", "only tests": "changes no code",
    "Latin": "is not UTF-8", "link": "changes links or submodules", "many": "changes too many files",
    "unnoticed": "no test fails without it", "new name": "its tests cannot be imported without it",
    "never right": "its tests fail with it too", "clock": "flaky tests", "leans": "its tests depend on others",
    "leaves": "ends the process", "merge side": "a merge",
}  # fmt: skip


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The repository."""
    made = History(tmp_path_factory.mktemp("history") / "sums")
    plain_commits(made)
    judged_commits(made)
    return made


@pytest.fixture(scope="module")
def made(history: History, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, Run]:
    """Its rows, where the tasks are, and the run that made them."""
    run = run_in(tmp_path_factory.mktemp("made"))
    source = SweHistorySource(str(history.folder), timeout=20.0)
    return list(source.rows(run)), run.folder / "tasks.jsonl", run


def run_in(folder: Path) -> Run:
    """A run with folders of its own."""
    return Run("t", outputs=folder / "outputs", cache=folder / "cache", reporter=Reporter())


def tree_with(history: History, out: Path, row: dict[str, Any], *patches: str) -> Path:
    """A checkout of a row's commit with some of its patches, by plain git."""
    subprocess.run(["git", "clone", "-q", str(history.folder), str(out)], check=True)
    subprocess.run(["git", "checkout", "-q", row["base_commit"]], cwd=out, check=True)
    for name in patches:
        subprocess.run(["git", "apply", "-"], cwd=out, input=row[name].encode(), check=True)
    return out


def pytest_says(tree: Path, tests: list[str]) -> int:
    """The exit code of a plain pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    env = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, check=False).returncode


def test_the_rows_are_those_of_the_fixes(made: tuple[Any, Path, Run], history: History) -> None:
    """Three commits are fixes, newest first, told as SWE-bench tells them; what is no code or test is in no patch."""
    rows, out, run = made
    names = [history.names[one] for one in ("Tests get another name", "Mean of strings", MESSAGE.split("\n")[0])]
    assert [row["instance_id"] for row in rows] == [f"local__sums-{name[:12]}" for name in names]
    assert [row["FAIL_TO_PASS"] for row in rows] == [
        ["tests/test_words.py::test_none"], ["tests/test_text.py::test_text"], ["tests/test_sums.py::test_high"]
    ]  # fmt: skip
    last = rows[-1]
    assert last["base_commit"] == history.names["first"] and last["created_at"] == "2024-05-06T07:08:09+00:00"
    assert last["PASS_TO_PASS"] == ["tests/test_sums.py::test_low", "tests/test_sums.py::test_mean"]
    assert (
        last["problem_statement"].startswith("`test_high` fails with AssertionError.")
        and "return high" not in last["problem_statement"]
    )
    assert last["response"] == last["patch"] and last["instruction"] == last["problem_statement"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert SweHistorySource(str(history.folder), timeout=20.0).load(run)[0] == rows[0]


def test_every_row_holds_by_plain_git_and_pytest(made: tuple[Any, Path, Run], history: History, tmp_path: Path) -> None:
    """Nothing of ours takes part: with the tests alone they fail, with the fix as well they pass, and so do all."""
    for at, row in enumerate(made[0]):
        without = tree_with(history, tmp_path / f"{at}-without", row, "test_patch")
        assert pytest_says(without, row["FAIL_TO_PASS"]) == 1
        assert pytest_says(without, row["PASS_TO_PASS"]) == 0
        fixed = tree_with(history, tmp_path / f"{at}-with", row, "test_patch", "patch")
        assert pytest_says(fixed, [*row["FAIL_TO_PASS"], *row["PASS_TO_PASS"]]) == 0


@pytest.mark.parametrize("subject", REASONS)
def test_each_reason_is_counted(made: tuple[Any, Path, Run], history: History, subject: str) -> None:
    """Every commit that gives no row is counted under the reason that is its own."""
    reporter: Any = made[2].reporter
    told = next(line for line in reporter.lines if "rows from" in line)
    assert told.startswith(f"3 rows from {len(history.names) + 1} commits")
    reason = REASONS[subject]
    assert f" {reason}" in told
    verdicts = read_journal(next(made[2].cache.glob("history/*/journal.jsonl")))
    if (verdict := verdicts.get(history.names.get(subject, ""))) is not None:
        assert verdict.reason == reason


def test_a_merge_is_one_change_where_it_is_squashed(history: History, tmp_path: Path) -> None:
    """Followed by first parents alone, the merge is the fix that its branch was."""
    run = run_in(tmp_path)
    source = SweHistorySource(str(history.folder), merges="squash", commits="HEAD~2..HEAD~1", timeout=20.0)
    rows = list(source.rows(run))
    merge = history.git("rev-parse", "HEAD~1")
    assert [row["instance_id"] for row in rows] == [f"local__sums-{merge[:12]}"]
    assert rows[0]["FAIL_TO_PASS"] == ["tests/test_text.py::test_text"]


def test_killed_and_started_again_it_ends_the_same(
    made: tuple[Any, Path, Run], history: History, tmp_path: Path
) -> None:
    """What was decided is kept; what the kill cut short is decided again; the rows are the same."""
    tip = history.names["never right"]
    code = (
        "from pathlib import Path; from loraplug import Run;"
        "from loraplug_swe.history.source import SweHistorySource;"
        f"run = Run('t', outputs=Path({str(tmp_path)!r}) / 'outputs', cache=Path({str(tmp_path)!r}) / 'cache');"
        f"print(len(list(SweHistorySource({str(history.folder)!r}, {tip!r}, timeout=20.0, workers=1).rows(run))))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        journals = list(tmp_path.glob("cache/history/*/journal.jsonl"))
        if journals and journals[0].read_bytes().count(b"\n") >= 1:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with journals[0].open("ab") as file:
        file.write(b'{"key": "cut sho')
    before = read_journal(journals[0])
    again = SweHistorySource(str(history.folder), tip, timeout=20.0)
    assert list(again.rows(run_in(tmp_path))) == made[0][-1:]
    after = read_journal(journals[0])
    assert 1 <= len(before) < len(after) and before.items() <= after.items()
    assert not list(tmp_path.glob("cache/history/work-*"))


def test_from_history_to_conversation_to_verdict(
    made: tuple[Any, Path, Run], history: History, tmp_path: Path, loraplug: Cli
) -> None:
    """`swe` makes proved conversations of the rows; `eval` says that their own patches resolve, and others do not."""
    rows, out, _ = made
    swe = load_registry().find("dataset", "swe")
    talks = list(swe(tasks=str(out), mode="code-context", clone_url=str(history.folder)).rows(run_in(tmp_path)))
    assert [talk["instance_id"] for talk in talks] == [row["instance_id"] for row in rows]
    assert "+        return high" in talks[-1]["messages"][-1]["content"]
    answers = tmp_path / "answers.jsonl"
    told = [{"task_id": row["instance_id"], "answer": row["patch"]} for row in rows]
    told[-1]["answer"] = told[-1]["answer"].replace("+        return high\n", "+        return low\n")
    answers.write_text("".join(json.dumps(one) + "\n" for one in told))
    done = loraplug("eval", "--tasks", str(out), "--repo", str(history.folder), "--answers", str(answers), "--json",
                    "--out", str(tmp_path / "eval"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    cases = {one["task"]: one["status"] for one in json.loads(done.stdout)["cases"]}
    assert [cases[row["instance_id"]] for row in rows] == ["resolved", "resolved", "applied"]


def test_an_old_fix_is_taken_back_today(history: History, tmp_path: Path, loraplug: Cli) -> None:
    """Where it still applies and the newest tests notice it; as tasks of a bug, which `eval` and `swe` take."""
    run = run_in(tmp_path)
    source = SweHistorySource(str(history.folder), on="today", timeout=20.0, statement="message")
    rows = list(source.rows(run))
    tasks = [json.loads(path.read_text()) for path in sorted((run.folder / "tasks").iterdir())]
    assert {task["generation"]["commit"] for task in tasks} >= {history.names[MESSAGE.split("\n")[0]]}
    assert all(task["source"]["base_commit"] == history.git("rev-parse", "HEAD") for task in tasks)
    assert list(rows[0]) == ["instruction", "response", "task_id", "group"]
    assert "Clamp forgets its upper bound" in rows[-1]["instruction"] and "if value >" not in rows[-1]["instruction"]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = loraplug("eval", "--tasks", str(run.folder / "tasks"), "--repo", str(history.folder), "--answers",
                    str(answers), "--json", "--edit", "diff", "--out", str(tmp_path / "eval"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in json.loads(done.stdout)["cases"]] == ["resolved"] * len(rows)
    swe = load_registry().find("dataset", "swe")
    assert len(list(swe(tasks=str(run.folder / "tasks")).rows(run_in(tmp_path / "swe")))) == len(rows)


# bad input


def test_a_folder_without_history_is_refused(tmp_path: Path, history: History) -> None:
    """No repository, one commit alone, a range that is none, a name that would be an option."""
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="no git repository"):
        list(SweHistorySource(str(tmp_path / "plain")).rows(run_in(tmp_path)))
    one = History(tmp_path / "one")
    one.commit("first", {"sums.py": CODE, "test_sums.py": LOW})
    with pytest.raises(InputError, match="has no history: no commit in the range has a parent"):
        list(SweHistorySource(str(one.folder)).rows(run_in(tmp_path)))
    for strange in ("--output=x", "nowhere", "HEAD..nowhere", "..", "HEAD...HEAD~1", "^HEAD"):
        with pytest.raises(InputError):
            list_commits(history.folder, strange, "", "", False)
    assert not list(history.folder.glob("x*"))


def test_a_suite_that_is_red_is_refused_at_once(tmp_path: Path) -> None:
    """Where no test of the newest commit passes there is nothing to tell a fix by."""
    red = History(tmp_path / "red")
    red.commit("first", {"sums.py": CODE.replace(GUARD, ""), "test_sums.py": "import nothing_of_the_kind\n" + LOW})
    red.commit("fix", {"sums.py": CODE, "test_sums.py": "import nothing_of_the_kind\n" + LOW + MEAN})
    with pytest.raises(LoraplugError, match=r"no test of .* passes"):
        list(SweHistorySource(str(red.folder)).rows(run_in(tmp_path)))
    assert not [path for path in tmp_path.glob("cache/history/*/journal.jsonl") if path.read_bytes()]


def test_days_and_limits_choose(history: History) -> None:
    """`since` and `until` are whole days; what is no day is refused by the options."""
    assert len(list_commits(history.folder, "HEAD", "2024-05-06", "2024-05-06", False)) == len(history.names) + 1
    with pytest.raises(InputError, match="has no history: no commit in the range has a parent"):
        list_commits(history.folder, "HEAD", "2024-05-07", "", False)
    for strange in ("yesterday", "2022-02-30", "2022-1-31"):
        with pytest.raises(ValueError, match=f"since is a day such as 2022-01-31, got '{strange}'"):
            SweHistorySource("x", since=strange)


def test_a_clone_that_lacks_objects_fetches_nothing(history: History, tmp_path: Path) -> None:
    """What a partial clone has not got is a reason like any other."""
    shutil.copytree(history.folder, tmp_path / "partial")
    blob = history.git("rev-parse", f"{history.names[MESSAGE.split(chr(10))[0]]}:sums.py")
    (tmp_path / "partial" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    wanted = history.names[MESSAGE.split("\n")[0]]
    found = next(one for one in list_commits(tmp_path / "partial", "HEAD", "", "", False) if one.name == wanted)
    with pytest.raises(NoFix, match="its objects are not here"):
        read_fix(tmp_path / "partial", found, Python(), False)
    assert read_fix(history.folder, found, Python(), False).code == ("sums.py",)


def test_a_copy_for_other_machines_has_the_commits_that_are_asked_for(history: History, tmp_path: Path) -> None:
    """Their trees and no others; what is not here is left out, and told there as here; a worker verifies in it."""
    name = history.names[MESSAGE.split("\n")[0]]
    copy_commits(history.folder, [name, history.names["first"]], tmp_path / "copy")
    (found,) = [one for one in list_commits(history.folder, name, "", "", False) if one.name == name]
    fix = read_fix(history.folder, found, Python(), False)
    assert read_fix(tmp_path / "copy", found, Python(), False) == fix
    with pytest.raises(InputError):
        find_commit(tmp_path / "copy", history.names["only code"])
    source = SweHistorySource(str(history.folder), timeout=20.0)
    job = VerifyJob(source, box_limits(source), name, (), None, tmp_path / "copy")
    with job.start(tmp_path / "copy") as verified:
        assert verified(fix)[0].fail_to_pass == ("tests/test_sums.py::test_high",)
        assert verified("a merge")[0].reason == "a merge"

    shutil.copytree(history.folder, tmp_path / "partial")
    blob = history.git("rev-parse", f"{name}:sums.py")
    (tmp_path / "partial" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    copy_commits(tmp_path / "partial", [name, history.names["first"], "f" * 40], tmp_path / "less")
    with pytest.raises(NoFix, match="its objects are not here"):
        read_fix(tmp_path / "less", found, Python(), False)


# messages


def test_a_message_tells_nothing_of_the_fix() -> None:
    """Fenced code, lines of the fix, names that only it has, files that only it makes, trailers: none is told."""
    patch = ("diff --git a/s.py b/s.py\n--- a/s.py\n+++ b/s.py\n@@ -1,2 +1,3 @@\n def clamp(value):\n"
             "+    value = bounded_value(value)\n     return value\n")  # fmt: skip
    before = ["def clamp(value):\n    return value\n", "def test_clamp():\n    assert clamp(3) == 2\n"]
    said = [
        "clamp() lets large values through", "", "Seen with clamp(3), see #12.", "Now calls bounded_value first.",
        "value = bounded_value(value)", "Adds limits.py for it", "see `bounded_value`", "+    return low(value)",
        "```", "anything here", "```", "Co-authored-by: Ada <a@example.org>",
    ]  # fmt: skip
    told = told_message("\n".join(said), patch, before, ["lib/limits.py"])
    assert told == "clamp() lets large values through\n\nSeen with clamp(3), see #12."
    assert told_message("Call bounded_value() in clamp\n\nclamp was wrong", patch, before, []) == ""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("sums.py", "code"), ("tests/data/a.txt", "test"), ("test_x.py", "test"), ("docs/conf.py", "other"),
     ("setup.py", "other"), ("README.md", "other"), ("src/testing_tools.py", "code"), ("conftest.py", "test")],
)  # fmt: skip
def test_kinds_of_files(path: str, kind: str) -> None:
    """Code and tests go into the patches, documents and what builds the package into neither."""
    assert kind_of(path, Python()) == kind


# dependencies


def wheel_of(name: str, folder: Path) -> None:
    """A wheel of a distribution that is installed here."""
    found = metadata.distribution(name)
    with zipfile.ZipFile(folder / f"{found.metadata['Name']}-{found.version}-py3-none-any.whl", "w") as file:
        for one in found.files or ():
            if ".." not in one.parts and "__pycache__" not in one.parts:
                file.write(str(found.locate_file(one)), str(one))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only ones that pip may take: pytest's, and a package `answers` of two releases."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        wheel_of(name, folder)
    for release in (1, 2):
        info = f"answers-{release}.dist-info"
        with zipfile.ZipFile(folder / f"answers-{release}-py3-none-any.whl", "w") as file:
            file.writestr("answers.py", f"VALUE = {release}\n")
            file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: answers\nVersion: {release}\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
                                           "Tag: py3-none-any\n")  # fmt: skip
            file.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def project(need: str, python: str = ">=3.9") -> str:
    """A pyproject.toml."""
    return f'[project]\nname = "sums"\nversion = "1"\nrequires-python = "{python}"\ndependencies = ["{need}"]\n'


@pytest.mark.usefixtures("wheels")
def test_each_commit_is_tested_with_what_it_declares(tmp_path: Path) -> None:
    """One release for one commit, another for the next; what no index has, or another Python, is counted."""
    made = History(tmp_path / "needs")
    tests = "import answers\n\nimport sums\n\n\ndef test_value():\n    assert sums.value() == answers.VALUE == {}\n"
    made.commit("first", {"sums.py": "def value():\n    return 0\n", "test_sums.py": LOW.split("\n\n\n")[0] + "\n",
                          "pyproject.toml": project("answers==1")})  # fmt: skip
    made.commit("one", {"sums.py": "def value():\n    return 1\n", "test_sums.py": tests.format(1)})
    made.commit("next", {"pyproject.toml": project("answers==2")})
    made.commit("two", {"sums.py": "def value():\n    return 2\n", "test_sums.py": tests.format(2)})
    made.commit("other", {"pyproject.toml": project("nobody-has-this")})
    made.commit("nobody", {"sums.py": "def value():\n    return 2.0\n", "test_sums.py": tests.format(2.0)})
    made.commit("newer", {"pyproject.toml": project("answers==2", ">=4")})
    made.commit("fourth", {"sums.py": "def value():\n    return 2\n", "test_sums.py": tests.format(2)})
    made.commit("last", {"pyproject.toml": project("answers==2")})
    run = run_in(tmp_path)
    rows = list(SweHistorySource(str(made.folder), dependencies="install", timeout=20.0).rows(run))
    assert [row["instance_id"][-12:] for row in rows] == [made.names["two"][:12], made.names["one"][:12]]
    reporter: Any = run.reporter
    told = "".join(reporter.lines)
    assert "its dependencies cannot be installed 1" in told and "is for another Python 1" in told
    with pytest.raises(LoraplugError, match=r"no test of .* passes"):
        list(SweHistorySource(str(made.folder), timeout=20.0).rows(run_in(tmp_path)))  # this Python has no `answers`
    shutil.rmtree(tmp_path / "cache")


def test_requirements_are_read_as_text(tmp_path: Path) -> None:
    """From every usual place; addresses, options and what is none are left aside."""
    made = History(tmp_path / "needs")
    name = made.commit("first", {
        "pyproject.toml": project("alpha>=1") + '[project.optional-dependencies]\ntest = ["beta"]\ndocs = ["sphinx"]\n'
                          '[dependency-groups]\ndev = ["gamma", {include-group = "x"}]\n',
        "setup.cfg": "[options]\ninstall_requires =\n    delta<3\n[options.extras_require]\ntesting = epsilon\n",
        "requirements-test.txt": "# tests\nzeta==1 # why\n-r other.txt\n--index-url https://example.org\n"
                                 "evil @ https://example.org/evil.whl\n./local\n",
    })  # fmt: skip
    needs, pythons = declared(made.folder, name)
    assert needs == ["alpha>=1", "beta", "delta<3", "epsilon", "gamma", "zeta==1"] and pythons == ">=3.9"
