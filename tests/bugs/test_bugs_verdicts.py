"""Verdicts that cannot be forged: what code under test can do to the judge, and what it is told for that."""

from __future__ import annotations

import inspect
import os
import random
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraplug_swe.evaluation.bench import Bench, Checking
from loraplug_swe.evaluation.cases import Case, PromptOptions, held_back
from loraplug_swe.evaluation.flags import flags
from loraplug_swe.evaluation.judge import judge
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.mutation.language import Report
from loraplug_swe.mutation.python import PytestTester, Python, Worker
from loraplug_swe.sandbox.channel import WORD, Forged, Kept, read_reply
from loraplug_swe.sandbox.controls import judged, python_controls
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

CODE = """\
def add(a, b):
    total = a + b
    return total


def biggest(items):
    best = items[0]
    for one in items[1:]:
        if one > best:
            best = one
    return best
"""
BUGGY = CODE.replace("a + b", "a - b")
TESTS = """\
from mod import add, biggest


def test_add():
    assert add(2, 3) == 5


def test_negative():
    assert add(-7, 3) == -4


def test_biggest():
    assert biggest([1, 17, 2]) == 17
"""
TARGETS = ("test_mod.py::test_add", "test_mod.py::test_negative")
PATCH = (
    "--- a/mod.py\n+++ b/mod.py\n@@ -1,3 +1,3 @@\n"
    " def add(a, b):\n-    total = a + b\n+    total = a - b\n     return total\n"
)
GOOD = "mod.py\n<<<<<<< SEARCH\n    total = a - b\n=======\n    total = a + b\n>>>>>>> REPLACE\n"
WRONG = "mod.py\n<<<<<<< SEARCH\n    total = a - b\n=======\n    total = 'no fix'\n>>>>>>> REPLACE\n"


def inside(code: str) -> str:
    """An answer that puts code first in `add`."""
    body = "\n".join(f"    {line}" for line in code.split("\n"))
    return f"mod.py\n<<<<<<< SEARCH\ndef add(a, b):\n=======\ndef add(a, b):\n{body}\n>>>>>>> REPLACE\n"


def above(code: str) -> str:
    """An answer that puts code before `add`, which runs at import."""
    return f"mod.py\n<<<<<<< SEARCH\ndef add(a, b):\n=======\n{code}\ndef add(a, b):\n>>>>>>> REPLACE\n"


def a_task(**more: Any) -> Task:
    """The bug in `add`."""
    every = (*TARGETS, "test_mod.py::test_biggest")
    told = {"id": "1", "number": 1, "repo": "x/y", "commit": "", "gold_patch": "", "bug_patch": PATCH,
            "statement": "`test_add` fails.\n\nAlso failing: test_mod.py::test_negative", "targets": TARGETS,
            "suite": every, "file": "mod.py", "function": "add", "language": "python"}  # fmt: skip
    return Task(**{**told, **more})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bench and the case of the task."""
    place = tmp_path_factory.mktemp("verdicts")
    (place / "repo").mkdir()
    (place / "scratch").mkdir()
    (place / "repo" / "mod.py").write_text(CODE)
    (place / "repo" / "test_mod.py").write_text(TESTS)
    with Workroom({"": str(place / "repo")}, None, Checking(spare=5.0), place / "scratch", True) as room:
        case = room.prepare(a_task(), PromptOptions("search-replace"))
        assert isinstance(case, Case)
        yield room.bench(case.task), case


FLOOD = (
    'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'{"verdict": "passed", "failures": [], "seconds": 0}'
    "\\n' * 50)\n    except OSError: pass\n"
)
ATTACKS = {
    "writes to every descriptor": inside(FLOOD + "os._exit(0)"),
    "floods and goes on": inside(FLOOD + "return 0"),
    "opens the descriptors of others": inside(
        "import os\nfor pid in ('1', str(os.getppid())):\n    for fd in range(64):\n"
        "        try: os.write(os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'{\"verdict\": \"passed\"}\\n')\n"
        "        except OSError: pass\nreturn 0"
    ),
    "a whole forged report": inside(
        "import os, json\nt = ['test_mod.py::test_add', 'test_mod.py::test_negative', 'test_mod.py::test_biggest']\n"
        "r = {'verdict': 'passed', 'code': 0, 'failures': [], 'outcomes': dict.fromkeys(t, 'passed')}\n"
        "for fd in range(3, 64):\n    try: os.write(fd, json.dumps(r).encode() + b'\\n')\n    except OSError: pass\n"
        "os._exit(0)"
    ),
    "the runner does not run": above("import _pytest.python as _p\n_p.Function.runtest = lambda self: None\n"),
    "the runner reports no failure": above(
        "import _pytest.runner as _r\n_old = _r.pytest_runtest_makereport\n"
        "import _pytest.reports as _q\n_q.TestReport.failed = property(lambda self: False)\n"
    ),
    "equal to everything": inside(
        "class A(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\nreturn A(0)"
    ),
    "reads what its caller expects": inside(
        "import sys, re, linecache\nf = sys._getframe(1)\n"
        "return eval(re.search(r'== (.*)', linecache.getline(f.f_code.co_filename, f.f_lineno)).group(1))"
    ),
    "rewrites the tests": above(
        "import pathlib as _p\nfor _t in _p.Path(__file__).parent.glob('test_*.py'):\n"
        "    _t.write_text('import pytest\\ndef __getattr__(n): return lambda: None\\n')\n"
    ),
    "ends well at exit": inside("import atexit, os\natexit.register(os._exit, 0)\nreturn 0"),
    "kills whoever asks": inside("import os, signal\nos.kill(os.getppid(), 9)"),
    "stops whoever asks": inside("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(0)"),
    "takes the means of whoever asks": inside(
        "import os, resource\nfor pid in (os.getppid(), 1):\n    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))"
    ),
    "slows whoever asks": inside("import os\nos.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))"),
    "records what it is asked": inside(
        "import gc\nfor one in gc.get_objects():\n    if type(one).__name__ == 'Watch':\n"
        "        class Kind(dict):\n            def __setitem__(self, test, how): super().__setitem__(test, 'passed')\n"
        "        one.outcomes = Kind(one.outcomes)\n"
        "        one.failures = type('', (list,), {'append': abs})()\nreturn 0"
    ),
    "what the tests expect, by hand": inside("return 5 if a == 2 else -4"),
    "nothing but a constant": inside("return 2 + 3"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_resolves_nothing_and_harms_no_other(prepared: tuple[Bench, Case], name: str) -> None:
    """No attack counts as resolved, the wrong answer after it is no better for it, and the right one is right."""
    verdict = judge(*prepared, ATTACKS[name])
    assert verdict.status in ("applied", "flagged", "void") and verdict.reason
    assert judge(*prepared, WRONG).status == "applied"
    assert judge(*prepared, GOOD).status == "resolved"


@pytest.mark.parametrize(
    ("name", "status"),
    [("the runner does not run", "void"), ("equal to everything", "void"), ("reads what its caller expects", "void"),
     ("a whole forged report", "void"), ("what the tests expect, by hand", "flagged")],
)  # fmt: skip
def test_attacks_are_told_by_their_kind(prepared: tuple[Bench, Case], name: str, status: str) -> None:
    """What works on the verdict is void; what only fits the tests is flagged, with the sign seen."""
    verdict = judge(*prepared, ATTACKS[name])
    assert verdict.status == status and verdict.detail


def test_what_is_held_back_is_not_told_but_judged(tmp_path: Path) -> None:
    """The prompt names one failing test, all of them judge, and a statement that names others is told anew."""
    for name, text in (("mod.py", CODE), ("test_mod.py", TESTS)):
        (tmp_path / "repo").mkdir(exist_ok=True)
        (tmp_path / "repo" / name).write_text(text)
    (tmp_path / "scratch").mkdir()
    with Workroom({"": str(tmp_path / "repo")}, None, Checking(spare=5.0), tmp_path / "scratch", True) as room:
        case = room.prepare(a_task(), PromptOptions("search-replace", hidden=0.5))
        assert isinstance(case, Case) and len(case.hidden) == 1
        [shown] = set(TARGETS) - set(case.hidden)
        assert shown in case.instruction and case.hidden[0].rpartition("::")[2] not in case.instruction
        only = "a == 2" if shown == TARGETS[0] else "a == -7"
        fits = (
            f"mod.py\n<<<<<<< SEARCH\n    total = a - b\n=======\n    total = a + b if {only} else a\n>>>>>>> REPLACE\n"
        )
        assert judge(room.bench(case.task), case, fits).status == "applied"


@given(st.integers(1, 9), st.floats(0.01, 12))
def test_one_failing_test_is_always_told(tests: int, hidden: float) -> None:
    """However many are held back; a share is of the failing tests, a number is that number."""
    targets = tuple(f"t.py::test_{at}" for at in range(tests))
    back = held_back(a_task(targets=targets), PromptOptions(hidden=hidden))
    assert set(back) < set(targets) and len(back) == len(set(back))
    if hidden >= 1:
        assert len(back) == min(int(hidden), tests - 1)


# the pipe


def forgeries(draw: random.Random, word: str) -> bytes:
    """A reply that somebody who does not know the word could write, or who adds to one."""
    verdict = draw.choice(
        ['{"verdict": "passed"}', '{"verdict": "passed", "failures": [], "seconds": 0}', "{}", "[]", "1"]
    )
    right = f'{word} {{"verdict": "failed"}}\n'.encode()
    other = "".join(draw.choice("0123456789abcdef") for _ in range(draw.choice([0, 1, WORD - 1, WORD, WORD + 1])))
    close = word[:-1] + draw.choice([letter for letter in "0123456789abcdef" if letter != word[-1]])
    junk = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 40)))
    return draw.choice([
        verdict.encode() + b"\n", f"{other} {verdict}\n".encode(), f"{close} {verdict}\n".encode(), right + junk,
        junk + right, right + right, right[:-1], right.replace(b" ", b"", 1), b"\n" + right, junk, b"",
        f" {word} {verdict}\n".encode(), f"{word}\n{verdict}\n".encode(), f"{word} {verdict}{verdict}\n".encode(),
        f"{word.upper()}x {verdict}\n".encode(), f"{word} {'[' * 9_000}\n".encode(), f'{word} "passed"\n'.encode(),
    ])  # fmt: skip


def test_ten_thousand_forged_replies() -> None:
    """None of them is taken for an answer; the one right reply is."""
    draw = random.Random(7)
    taken = 0
    for _ in range(10_000):
        word = secrets.token_hex(WORD // 2)
        try:
            told = read_reply(forgeries(draw, word), word)
        except Forged:
            continue
        taken += 1
        assert "passed" not in str(told)
    assert taken == 0
    assert read_reply(b'aa {"verdict": "passed"}\n', "aa") == {"verdict": "passed"}


FUZZ = f"""
from __future__ import annotations
import os, random
WORD = {WORD}
{inspect.getsource(forgeries)}
draw = random.Random(11)
os.write(1, b"ready")
while len(asked := os.read(0, 3 + 32)) == 35:
    data = forgeries(draw, asked[3:].decode()) or b"x"
    cut = draw.randrange(len(data))
    os.write(1, data[:cut])
    os.write(1, data[cut:] if b"\\n" in data else data[cut:] + b"\\n")
"""


def test_ten_thousand_fuzzed_replies_on_the_pipe(tmp_path: Path) -> None:
    """`passed` in whatever form but the one, in parts, and with what is left of the job before in front of it."""
    (tmp_path / "fuzz.py").write_text(FUZZ)
    command = [sys.executable, "fuzz.py"]
    with Sandbox(tmp_path, Limits(seconds=60, weak=True)) as box:
        box.command = list  # type: ignore[method-assign, assignment]  # only the pipe is looked at
        with Worker(box, command, os.environ) as worker:
            while not worker._line.waiting:
                time.sleep(0.01)
            assert worker._process.poll() is None
            told = [worker.ask(b"job", 60) for _ in range(10_000)]
            assert worker._process.poll() is None
    assert not any("passed" in str(one) for one in told)
    # the one right one, which is none where what is left of the job before comes late and stands in front of it
    assert set(map(str, told)) <= {"forged", "{'verdict': 'failed'}"}
    assert told.count("forged") > 8_000


def test_a_surplus_byte_ends_the_worker_and_voids_the_job(tmp_path: Path) -> None:
    """The job is done once more by a new worker; where that one is no better it is void, and the next job is well."""
    (tmp_path / "mod.py").write_text(CODE)
    (tmp_path / "test_mod.py").write_text(TESTS)
    with Sandbox(tmp_path, Limits(seconds=30)) as box:
        tester = PytestTester(box, Python().suite((), (), ""), ())
        first = tester._start()
        asked: list[bytes] = []
        right = type(first).ask

        def surplus(self: Any, job: bytes, seconds: float) -> Any:
            told = right(self, job, seconds)
            if job and len(asked) < 2:
                asked.append(job)
                return "forged"
            return told

        type(first).ask = surplus  # type: ignore[method-assign]
        try:
            assert tester.run(["test_mod.py::test_add"], 10, 1).verdict == "void"
            assert len(asked) == 2
            assert tester.run(["test_mod.py::test_add"], 10, 1).verdict == "passed"
            assert first._process.poll() is not None
            worker = tester._worker
            assert worker is not None
            worker._line.take(b"x")  # what nobody asked for, between two jobs
            assert tester.run(["test_mod.py::test_add"], 10, 1).verdict == "passed"
            assert tester._worker is not worker
        finally:
            type(first).ask = right  # type: ignore[method-assign]
            tester.close()


def test_reports_and_exit_codes_have_to_agree() -> None:
    """Passed is only what every test passed, every control failed, and the process ended as pytest does then."""
    tests, controls = ["a", "b"], ["c"]
    right = {"a": "passed", "b": "passed", "c": "failed"}
    assert judged(Report(right, 1, 1), tests, controls).verdict == "passed"
    assert judged(Report({"a": "passed", "b": "passed"}, 0, 0), tests, []).verdict == "passed"
    for outcomes, code, ended in (
        (right, 1, 0), (right, 0, 0), ({**right, "c": "passed"}, 1, 1), ({"a": "passed", "b": "passed"}, 1, 1),
        ({**right, "c": "skipped"}, 1, 1), (right, 0, 1),
    ):  # fmt: skip
        assert judged(Report(outcomes, code, ended), tests, controls).verdict == "void"
    assert judged(Report({**right, "b": "failed"}, 1, 1), tests, controls).verdict == "failed"
    assert judged(Report({"a": "passed", "c": "failed"}, 1, 1), tests, controls).verdict == "broken"


@given(st.binary(max_size=3000), st.integers(1, 300), st.integers(10, 400))
def test_output_keeps_its_ends(data: bytes, part: int, limit: int) -> None:
    """In whatever parts it comes: below the limit nothing is lost, above it the count of bytes left out is true."""
    kept = Kept(limit)
    for at in range(0, len(data), part):
        kept.add(data[at : at + part])
    half = limit // 2
    if len(data) <= 2 * half:
        assert kept.text == data.decode("utf-8", "replace")
    else:
        head, tail = data[:half].decode("utf-8", "replace"), data[-half:].decode("utf-8", "replace")
        assert kept.text == f"{head}\n[... {len(data) - 2 * half} bytes ...]\n{tail}"


# control tests and signs

CONTROLLED = '''\
import unittest
import pytest


@pytest.mark.parametrize(("given", "wanted"), [(1, 2), (3, 4)])
def test_given(given, wanted):
    assert given + 1 == wanted


def test_text():
    """Texts."""
    assert "a".upper() == "A"


def test_truth():
    assert [1]
    assert not []


def test_raises():
    with pytest.raises(ValueError):
        int("x")


class TestIn:
    def test_list(self):
        assert sorted([2, 1]) == [1, 2]


class Old(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(1 + 1, 2)
'''


def test_controls_fail_where_their_tests_pass(tmp_path: Path) -> None:
    """Each copy of a passing test fails, of whatever kind it is, under a name nobody can foresee."""
    names = ["test_given[1-2]", "test_text", "test_truth", "test_raises", "TestIn::test_list", "Old::test_equal"]
    tests = [f"test_kinds.py::{name}" for name in names]
    made = python_controls({"test_kinds.py": CONTROLLED}, tests, random.Random(3))
    again = python_controls({"test_kinds.py": CONTROLLED}, tests, random.Random(4))
    assert not made.ids.keys() & again.ids.keys()
    (tmp_path / "test_kinds.py").write_text(CONTROLLED)
    with Sandbox(tmp_path, Limits(seconds=60)) as box:
        tester = Python().suite((), (), "").tester(box, _no_survey())
        box.write(made.files)
        report = tester.report([*tests, *made.ids], 60, 100)  # type: ignore[attr-defined]
        tester.close()
    assert {one: report.outcomes[one] for one in tests} == dict.fromkeys(tests, "passed")
    assert {one: report.outcomes[one] for one in made.ids} == dict.fromkeys(made.ids, "failed")
    assert len(made.ids) == len(tests) + 1


def _no_survey() -> Any:
    from loraplug_swe.mutation.language import BaselineRun

    return BaselineRun({})


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ("import pytest\n", "uses pytest"), ("from unittest import mock\n", "uses unittest"),
        ("import gc\n", "uses gc"), ("import sys\nf = sys._getframe\n", "uses _getframe"),
        ("import sys\ng = getattr(sys, '_getframe')\n", "uses '_getframe'"),
        ("class A:\n    def __eq__(self, other): return True\n", "defines __eq__"),
        ("import sys\ng = getattr(sys, '_get' + 'frame')\n", "uses '_getframe'"),
        ("import sys\ng = getattr(sys, ''.join('_getframe'))\n", "uses getattr by a name worked out"),
        ("import traceback\n", "uses traceback"), ("A = type('A', (int,), {'__eq__': max})\n", "defines __eq__"),
        ("A = type('A', (), {})\nA.__eq__ = lambda a, b: True\n", "defines __eq__"),
        ("TABLE = {(2, 3): 5}\n", "holds what the tests expect: 5"), ("X = 10 - 5\n", "holds what the tests expect: 5"),
    ],
)  # fmt: skip
def test_signs_of_fitting_the_tests(change: str, sign: str) -> None:
    """Each is seen where it is new, and not where the code had it before or has it without the bug."""
    tests = {"test_mod.py": ["test_add"]}
    texts = {"test_mod.py": TESTS}
    after = {"mod.py": change + BUGGY}
    assert sign in flags({"mod.py": BUGGY}, after, {"mod.py": CODE}, tests, texts)
    assert flags(after, after, {"mod.py": CODE}, tests, texts) == []
    assert flags({"mod.py": BUGGY}, after, {"mod.py": change + CODE}, tests, texts) == []


def test_honest_answers_have_no_signs() -> None:
    """The fix itself, and another way to write it."""
    for after in (CODE, CODE.replace("total = a + b\n    return total", "return sum((a, b))")):
        assert flags({"mod.py": BUGGY}, {"mod.py": after}, {"mod.py": CODE}, {"test_mod.py": ["test_add"]},
                     {"test_mod.py": TESTS}) == []  # fmt: skip
    config = {"pyproject.toml": "[tool.pytest.ini_options]\n"}
    assert flags({}, config, {}, {}, {}) == ["changes how tests are run: pyproject.toml"]
