"""What `swe-bugs` says of its tests is what they did: all that fail are named, and what was not seen is not told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from loraplug import InputError, Run
from loraplug_swe.mutation.language import BaselineRun
from loraplug_swe.mutation.python import PytestSuite
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

CODE = '''\
def double(n):
    """Twice as much."""
    more = n
    return n + more


def shout(text):
    """In capitals."""
    if not text:
        return ""
    return text.upper()
'''
SUBTESTS = """\
import unittest

import pytest

import twice as code


class Cases(unittest.TestCase):
    def test_many(self):
        for n in range(1, 31):
            with self.subTest(n=n):
                self.assertEqual(code.double(n), 2 * n)


def test_more(subtests):
    for n in range(1, 31):
        with subtests.test(n=n):
            assert code.double(n) == 2 * n


def test_skipping(subtests):
    with subtests.test(n=0):
        pytest.skip("not today")
    with subtests.test(n=1):
        assert code.double(1) == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one(n):
    assert code.double(n) == n * 2


def test_zero():
    assert code.double(0) == 0
"""
SHOUTED = """\


def test_shout():
    assert code.shout("a") == "A"
"""
NEITHER = """\
import unittest

import twice as code


def capitals(text):
    return "".join(map(str.upper, text))


def test_neither():
    assert capitals("ab") == code.shout("ab")


class Cases(unittest.TestCase):
    def test_also_neither(self):
        self.assertEqual(capitals("cd"), code.shout("cd"))

    def test_written(self):
        self.assertEqual("EF", code.shout("ef"))
"""
FAILING = {"Cases::test_many", "test_more", "test_skipping", "test_one[1]", "test_one[2]", "test_one[3]"}


def code_in(folder: Path, tests: str) -> Path:
    (folder / "code").mkdir()
    (folder / "code" / "twice.py").write_text(CODE)
    (folder / "code" / "test_code.py").write_text(tests)
    return folder / "code"


def tasks_of(folder: Path, tests: str, **options: Any) -> list[dict[str, Any]]:
    """The tasks made of the code with these tests, in order."""
    run = Run("bugs", seed=1, outputs=folder / "outputs", cache=folder / "cache")
    source = SweBugsSource(str(code_in(folder, tests)), tasks_out=folder / "tasks", workers=1, **options)
    list(source.rows(run))
    files = sorted((folder / "tasks").glob("*.json"), key=lambda path: int(path.stem.split("_")[1]))
    return [json.loads(path.read_text()) for path in files]


def fails_by_itself(folder: Path, task: dict[str, Any]) -> tuple[set[str], int]:
    """Names of the tests that plain pytest says fail with the task's bug in, and how many ran."""
    subprocess.run(["git", "apply", "-"], input=task["bug"]["patch"].encode(), cwd=folder, check=True)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--junitxml=out.xml", "-p", "no:cacheprovider"],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    subprocess.run(["git", "apply", "-R", "-"], input=task["bug"]["patch"].encode(), cwd=folder, check=True)
    cases = ElementTree.parse(folder / "out.xml").iter("testcase")  # noqa: S314 - our own
    names: dict[str, bool] = {}
    for case in cases:
        at = "::".join([*case.attrib["classname"].split(".")[1:], case.attrib["name"]])
        names[at] = names.get(at, False) or case.find("failure") is not None
    assert done.returncode == 1
    return {name for name, failed in names.items() if failed}, len(names)


def test_all_tests_that_fail_are_named_whatever_their_subtests(tmp_path: Path) -> None:
    """30 subtests fail in each of two tests; all six tests are named, and `verification` counts as pytest does."""
    tasks = tasks_of(tmp_path, SUBTESTS, count=4, per_function=4, max_failing=6)
    assert tasks
    for task in tasks:
        names = {test.removeprefix("test_code.py::") for test in task["bug"]["target_tests"]}
        failed, ran = fails_by_itself(tmp_path / "code", task)
        assert names == failed
        seen = task["verification"]
        assert seen["buggy_tree"] == {"passed": ran - len(failed), "failed": len(failed)} or len(failed) == ran
        assert seen["buggy_tree_alone"] == {"failed": len(failed)}
        assert seen["fixed_tree"] == {"passed": len(failed)}
        assert seen["suite"] == {"passed": ran, "failed": 0, "flaky": 0}
    assert any(len(task["bug"]["target_tests"]) == len(FAILING) for task in tasks)


def test_more_failing_tests_than_allowed_are_no_bug(tmp_path: Path) -> None:
    """With a limit of five, a bug that six tests notice is left out, not told with five."""
    tasks = tasks_of(tmp_path, SUBTESTS + SHOUTED, count=4, per_function=4, max_failing=5)
    for task in tasks:
        failed, _ = fails_by_itself(tmp_path / "code", task)
        assert {test.removeprefix("test_code.py::") for test in task["bug"]["target_tests"]} == failed


@pytest.mark.parametrize("arguments", [(), ("--maxfail=2", "-x")])
def test_the_session_ends_after_so_many_tests(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Tests are counted, not subtests, and what the recipe's arguments say of it does not count."""
    code = code_in(tmp_path, SUBTESTS)
    (code / "twice.py").write_text(CODE.replace("n + more", "n + more + 1"))
    tests = [f"test_code.py::{name}" for name in (*sorted(FAILING), "test_zero")]
    suite = PytestSuite((), arguments, sys.executable)
    with Sandbox(code, Limits(60.0), home=tmp_path) as box:
        tester = suite.tester(box, BaselineRun({}))
        for most, named in ((100, 7), (3, 3), (1, 1)):
            outcome = tester.run(tests, 60.0, most)
            assert (len(outcome.failures), outcome.counts["failed"]) == (named, named)
        tester.close()


def test_a_skipped_subtest_is_no_skipped_test(tmp_path: Path) -> None:
    """The test passes, so bugs that it notices are told."""
    code = code_in(tmp_path, SUBTESTS)
    with Sandbox(code, Limits(60.0), home=tmp_path) as box:
        survey = PytestSuite((), (), sys.executable).survey(box)
    assert "test_code.py::test_skipping" in survey.tests


def test_where_neither_side_is_written_out_both_are_shown(tmp_path: Path) -> None:
    """The statement never calls the code's own result what was expected."""
    tasks = tasks_of(tmp_path, NEITHER, count=4, per_function=4)
    told = "\n\n".join(task["bug"]["problem_statement"] for task in tasks)
    assert "assert capitals('ab') == code.shout('ab')" in told
    assert "Left side: 'AB'\nRight side: " in told
    for statement in told.split("Test: "):
        assert "Expected" not in statement or "Expected: 'EF'" in statement


def test_no_bug_at_all_says_what_to_do(tmp_path: Path) -> None:
    """All candidates break more tests than allowed: one message with the counts and the option."""
    with pytest.raises(InputError, match="breaks too many tests") as error:
        tasks_of(tmp_path, SUBTESTS, count=9, per_function=9, max_failing=1)
    assert "max_failing" in str(error.value)


def test_a_suite_whose_tests_always_pass_is_refused(tmp_path: Path) -> None:
    """A repository that reports all its tests as passed makes no tasks: a control test gives it away."""
    code = code_in(tmp_path, "def test_one():\n    assert __import__('twice').double(1) == 2\n")
    (code / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.hookimpl(wrapper=True, tryfirst=True)\ndef pytest_runtest_call(item):\n"
        "    try:\n        return (yield)\n    except AssertionError:\n        return None\n"
    )
    run = Run("bugs", seed=1, outputs=tmp_path / "outputs", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="passes there, and it must fail"):
        list(SweBugsSource(str(code), workers=1, count=1).rows(run))
    assert not list(tmp_path.rglob("loraplug-box-*"))
