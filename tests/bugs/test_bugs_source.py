"""The source `swe-bugs` on real code: bugs that tests prove, the same each time, also after a kill."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
from bugs_helpers import CLAMP_AND_MEAN

from loraplug import InputError, LoraplugError, Reporter, Run, load_registry
from loraplug_swe.edits import Applied, apply
from loraplug_swe.mutation.hunt import read_journal
from loraplug_swe.mutation.language import GROUP, BaselineRun, Failure, Mutation, Outcome
from loraplug_swe.mutation.problem_statement import problem_statement
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.sandbox import pytest_reporter as telling
from loraplug_swe.sandbox.checkout import stage
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

SAMPLE = Path(__file__).parents[2] / "data" / "sample_package"
CODE = f'''\
"""Small sums."""

_seen = []


{CLAMP_AND_MEAN}

def remember(value):
    """All that was said."""
    _seen.append(value)
    return list(_seen)


def never():
    """Not tested."""
    return 1 + 1
'''
TESTS = """\
import sys
import unittest

import pytest

import sums


def test_clamp():
    assert sums.clamp(-1) == 0
    assert sums.clamp(11) == 10
    assert sums.clamp(5, 1, 3) == 3


@pytest.mark.parametrize("values, wanted", [([], 0), ([1, 2, 3], 2), ([2, 2], 2)])
def test_mean(values, wanted):
    assert sums.mean(values) == wanted


class Cases(unittest.TestCase):
    def test_mean_of_one(self):
        self.assertEqual(sums.mean([7]), 7)


def test_remember_first():
    sums.remember(1)


def test_remember_second():
    assert sums.remember(2) == [1, 2]


def test_flaky():
    assert sys.gettrace() is None  # so it is in one of the two runs


def test_failing():
    assert sums.mean([1]) == 99


def test_writes_where_it_stands(tmp_path):
    with open("left_behind.txt", "a") as file:
        file.write("x")
    assert len(open("left_behind.txt").read()) == 1
"""


def git(folder: Path, *arguments: str) -> str:
    """Run git with a fixed author."""
    env = os.environ | {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER")
                        for what, text in (("NAME", "Ada"), ("EMAIL", "a@example.org"))}  # fmt: skip
    return subprocess.run(["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a module, its tests (one failing, some that lean on each other), and an unsaved change."""
    folder = tmp_path_factory.mktemp("repo") / "sums"
    folder.mkdir()
    (folder / "sums.py").write_text(CODE)
    (folder / "test_sums.py").write_text(TESTS)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    (folder / "sums.py").write_text(CODE.replace("total = 0", "total = 0.0"))
    return folder


def run_in(folder: Path) -> Run:
    """A run with folders of its own."""
    return Run("t", outputs=folder / "outputs", cache=folder / "cache", reporter=Reporter())


def tree_hash(folder: Path) -> str:
    """Names, bytes and times of a tree."""
    told = "".join(
        f"{path}{path.stat().st_mtime_ns}{path.read_bytes()!r}" for path in sorted(folder.rglob("*")) if path.is_file()
    )
    return hashlib.sha256(told.encode()).hexdigest()


@pytest.fixture(scope="module")
def made(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, Run]:
    """All bugs of the repository: rows, folder of tasks, run."""
    place = tmp_path_factory.mktemp("made")
    run = run_in(place)
    before = tree_hash(repository)
    source = SweBugsSource(str(repository), count=500, per_function=12, tasks_out=place / "tasks", workers=2)
    rows = list(source.rows(run))
    assert tree_hash(repository) == before  # the original is never touched
    return rows, place / "tasks", run


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    """Tasks in the order of their numbers."""
    files = sorted(folder.glob("task_*.json"), key=lambda path: int(path.stem[5:]))
    return [json.loads(path.read_text()) for path in files]


def test_bugs_are_real(made: tuple[Any, Path, Run], repository: Path, tmp_path: Path) -> None:
    """In a fresh checkout the patch applies, the target tests fail, and with the patch taken back they pass."""
    tasks = tasks_of(made[1])
    assert len(tasks) >= 12
    commit = git(repository, "rev-parse", "HEAD").strip()
    git(tmp_path, "clone", "-q", str(repository), "copy")
    copy = tmp_path / "copy"
    for task in (tasks[0], tasks[-1]):
        assert task["source"]["base_commit"] == commit and task["verification"]["verified"] is True
        (tmp_path / "bug.patch").write_text(task["bug"]["patch"])
        targets = task["bug"]["target_tests"]
        for flags, code in (([], 1), (["-R"], 0)):
            git(copy, "apply", *flags, str(tmp_path / "bug.patch"))
            with Sandbox(copy, Limits(seconds=60)) as box:
                done = box.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *targets])
                assert done.returncode == code, done.output
                assert f"{len(targets)} {'failed' if code else 'passed'}" in done.output
        assert git(copy, "status", "--porcelain") == ""


def test_rows_lead_back(made: tuple[Any, Path, Run]) -> None:
    """The answer of each row, applied to the tree with the bug, gives the committed text; groups are functions."""
    rows, folder, _ = made
    tasks = tasks_of(folder)
    assert len(rows) == len(tasks)
    for row, task in zip(rows, tasks, strict=True):
        old = buggy(task)
        done = apply(row["response"], {"sums.py": old}, target=("sums.py", task["generation"]["function"]))
        assert done == Applied({"sums.py": CODE})
        assert row["group"] == ["local/sums", f"sums.py::{task['generation']['function']}"]
        assert task["bug"]["problem_statement"] in row["instruction"]
        assert f"`{task['generation']['function']}` in `sums.py`" in row["instruction"]
    groups = {row["group"][1] for row in rows}  # append for extend breaks remember at once, whatever came before
    assert groups == {f"sums.py::{name}" for name in ("clamp", "mean", "remember")}


def buggy(task: dict[str, Any]) -> str:
    """The file with the bug: its patch applied by our own code."""
    done = apply(task["bug"]["patch"], {"sums.py": CODE}, "diff")
    assert isinstance(done, Applied)
    return done.files["sums.py"]


def test_what_is_no_bug(made: tuple[Any, Path, Run], repository: Path) -> None:
    """Failing tests and those that need others are no target, no two tasks fail alike, statements name no mutation."""
    _, folder, run = made
    tasks = tasks_of(folder)
    targets = {test for task in tasks for test in task["bug"]["target_tests"]}
    assert targets <= {f"test_sums.py::{name}" for name in
                       ("test_clamp", "test_mean[values0-0]", "test_mean[values1-2]", "test_mean[values2-2]",
                        "Cases::test_mean_of_one", "test_remember_first", "test_remember_second")}  # fmt: skip
    for task in tasks:  # which leans on the first
        assert task["bug"]["target_tests"] != ["test_sums.py::test_remember_second"]
    assert "test_sums.py::test_failing" not in tasks[0]["original"]["all_tests"]
    statements = [task["bug"]["problem_statement"] for task in tasks]
    assert len(set(statements)) == len(tasks)
    for task in tasks:
        assert task["bug"]["bug_types"][0] not in task["bug"]["problem_statement"]
        assert task["bug"]["description"].split(": ")[1] not in task["bug"]["problem_statement"]
    assert any("1 tests are left out: they fail on the unchanged code" in text for text in run.reporter.warnings)
    assert any("1 tests are left out: their results differ between runs" in text for text in run.reporter.warnings)
    (journal,) = run.cache.glob("bugs/*/journal.jsonl")
    reasons = {verdict.reason for verdict in read_journal(journal).values()}
    assert {"bug", "tests depend on others"} <= reasons


@pytest.mark.slow
def test_same_again_and_after_a_kill(made: tuple[Any, Path, Run], repository: Path, tmp_path: Path) -> None:
    """Killed and started again, in another cache and with one worker, it ends with the same rows and tasks."""
    rows, folder, _ = made
    code = (
        "from pathlib import Path; from loraplug import Run; from loraplug_swe.mutation.source import SweBugsSource;"
        f"run = Run('t', outputs=Path({str(tmp_path)!r}) / 'outputs', cache=Path({str(tmp_path)!r}) / 'cache');"
        f"print(len(list(SweBugsSource({str(repository)!r}, count=500, per_function=12, workers=1).rows(run))))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        journals = list(tmp_path.glob("cache/bugs/*/journal.jsonl"))
        if journals and journals[0].read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with journals[0].open("ab") as file:
        file.write(b'{"key": "cut sho')
    before = len(read_journal(journals[0]))
    run = run_in(tmp_path)
    again = list(SweBugsSource(str(repository), count=500, per_function=12, workers=1).rows(run))
    assert again == rows
    assert tasks_of(run.folder / "tasks") == tasks_of(folder)
    assert 5 <= before < len(read_journal(journals[0]))
    assert not list(tmp_path.glob("cache/bugs/work-*"))  # what the killed one left is swept
    few = list(SweBugsSource(str(repository), count=3, per_function=12, seed=7).rows(run))
    other = list(SweBugsSource(str(repository), count=3, per_function=12, seed=8).rows(run))
    assert len(few) == len(other) == 3 and few != other


def test_formats_and_contexts(made: tuple[Any, Path, Run], repository: Path) -> None:
    """Each edit format leads back, and each context shows what it says; all from the cache."""
    _, _, run = made
    for edit, context in (("diff", "none"), ("function", "file"), ("search-replace", "function")):
        source = SweBugsSource(str(repository), count=4, per_function=12, edit=edit, context=context)
        rows = list(source.rows(run))
        for row, task in zip(rows, tasks_of(run.folder / "tasks"), strict=True):
            target = ("sums.py", task["generation"]["function"])
            assert apply(row["response"], {"sums.py": buggy(task)}, edit, target) == Applied({"sums.py": CODE})
            assert ("def never" in row["instruction"]) == (context == "file")
            assert ("```python\ndef " in row["instruction"]) == (context == "function")


def test_other_sources_read_the_tasks(made: tuple[Any, Path, Run], repository: Path, tmp_path: Path) -> None:
    """`swe-synth` makes rows of the same tasks, with the bug patch taken back; our own table has its columns."""
    rows, folder, _run = made
    source = load_registry().find("dataset", "swe-synth")
    done = source(tasks=str(folder)).load(run_in(tmp_path))
    assert len(done) == len(rows)
    table = SweBugsSource(str(repository), count=2, per_function=12).load(made[2])
    assert table.column_names == ["instruction", "response", "task_id", "group"] and table[0] == rows[0]
    for row, task in zip(done, tasks_of(folder), strict=True):
        assert apply(row["response"], {"sums.py": buggy(task)}, "diff") == Applied({"sums.py": CODE})


def test_our_modules_hide_none_of_the_code(tmp_path: Path) -> None:
    """Code under test that has modules named as our own files are finds its own, in every way its tests are run."""
    code = tmp_path / "own"
    (code / "tests").mkdir(parents=True)
    names = ("options", "telling", "worker")
    for number, name in enumerate(names):
        (code / f"{name}.py").write_text(f"def add(n):\n    if n < 0:\n        return 0\n    return n + {number}\n")
    tests = [f"import {name}\n\n\ndef test_{name}():\n    assert {name}.add(2) == {number + 2}\n"
             for number, name in enumerate(names)]  # fmt: skip
    (code / "tests" / "test_own.py").write_text("\n\n".join(tests))
    made = list(SweBugsSource(str(code), count=50, per_function=5, workers=1).rows(run_in(tmp_path)))
    assert {row["group"][1] for row in made} == {f"{name}.py::add" for name in names}


def test_where_nothing_can_be_shut_in_nothing_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system refuses namespaces, the run says what is missing and runs nothing, unless `weak` is written."""
    from loraplug_swe.sandbox import sandbox

    refusing = tmp_path / "jail"
    shutil.copytree(sandbox._JAIL, refusing, ignore=shutil.ignore_patterns("__pycache__"))
    kernel = refusing / "kernel.py"
    kernel.write_text(kernel.read_text().replace('self._call("unshare", flags)', 'raise OSError(1, "not here")'))
    monkeypatch.setattr(sandbox, "_JAIL", refusing)
    sandbox.probe.cache_clear()
    try:
        with pytest.raises(LoraplugError, match=r"cannot isolate other people's code .*not here") as told:
            list(SweBugsSource(str(repository), count=2, workers=1).rows(run_in(tmp_path)))
        assert 'sandbox = "weak"' in str(told.value)
        run = run_in(tmp_path)
        assert len(list(SweBugsSource(str(repository), count=2, workers=1, sandbox="weak").rows(run))) == 2
        assert any("files, network" in text for text in run.reporter.warnings)
    finally:
        sandbox.probe.cache_clear()


def test_bad_input(repository: Path, tmp_path: Path) -> None:
    """Wrong places, revisions, kinds, languages and folders are told, not tripped over."""
    run = run_in(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "--quiet")
    venv.create(tmp_path / "venv", symlinks=True)
    bare = tmp_path / "venv" / "bin" / "python"  # without pytest
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": str(tmp_path / "missing")}, "no such folder"),
        ({"path": str(repository), "revision": "nowhere"}, "git: there is no commit nowhere"),
        ({"path": str(tmp_path / "new")}, f"{tmp_path / 'new'}: git: there is no commit yet"),
        ({"path": str(repository), "revision": "--help"}, "is not a revision"),
        ({"path": str(repository), "kinds": ("typo",)}, "no kind of bug 'typo'"),
        ({"path": str(repository), "language": "cobol"}, "no language 'cobol'"),
        ({"path": "package:no_such_package"}, "no package no_such_package"),
        ({"path": "package:os;rm"}, "is not the import name of a package"),
        ({"path": str(repository), "tests_path": tmp_path / "none"}, "no such folder"),
        (
            {"path": str(repository), "python": str(bare)},
            "the tests cannot be run: ModuleNotFoundError: No module named",
        ),
        ({"path": str(tmp_path / "empty")}, f"{tmp_path / 'empty'}: pytest finds no tests in it"),
    ]
    for options, told in cases:
        with pytest.raises(LoraplugError, match=told):
            list(SweBugsSource(**options).rows(run))
    with pytest.raises(ValueError, match="count"):
        SweBugsSource("x", count=0)


def test_stage_is_the_commit(repository: Path, tmp_path: Path) -> None:
    """A repository gives its commit as stored, a plain folder its files; both have one digest, installed code too."""
    first = stage(str(repository), "HEAD", None, None, tmp_path / "a")
    assert (first.tree / "sums.py").read_text() == CODE  # not the work tree's
    assert first.repo == "local/sums" and len(first.commit) == 40
    git(repository, "config", "remote.origin.url", "git@example.org:ada/adder.git")
    assert stage(str(repository), "main", None, None, tmp_path / "b").repo == "ada/adder"
    git(repository, "config", "--unset", "remote.origin.url")
    plain = stage(str(first.tree), "HEAD", "ada/sums", None, tmp_path / "c")
    assert (plain.commit, plain.repo, plain.digest) == ("", "ada/sums", first.digest)
    package = stage("package:iniconfig", "HEAD", None, repository, tmp_path / "d")
    assert (package.tree / "iniconfig" / "__init__.py").exists()
    assert (package.tree / "tests" / "test_sums.py").exists()


def test_statements() -> None:
    """What was checked, expected and got, the way there, and the other tests; long things are cut."""
    trace = [(f"f{n}.py", n, "f", "x" * 300) for n in range(1, 12)]
    first = Failure("t.py::test_a[1]", "KeyError", "k" * 900, trace, "f(1)", "", "KeyError: k")
    told = problem_statement([first, *(Failure(f"t.py::b{n}", "E", "") for n in range(5))])
    assert told.startswith(
        "`test_a[1]` fails with KeyError.\n\n```python\nf(1)\n```\n\nActual: KeyError: k\n\nTraceback:\n  f1.py:1"
    )
    assert "  ... 5 more\n" in told and "t.py::b0, t.py::b1, t.py::b2 and 2 more" in told
    assert told.endswith("Test: t.py::test_a[1]") and len(told) < 2500
    assert "Traceback" not in problem_statement([Failure("t", "AssertionError", "no", trace[:1], "assert 0")])


@pytest.mark.parametrize(
    ("check", "expected"),
    [("m[1] == frozenset([2])", "right"), ("frozenset([2]) == m.of(1)", "left"), ("m.of(1) == [2]", "right"),
     ("[2] == m.of(1)", "left"), ("m.of(1) == -2", "right"), ("approx(0.3) == m.of(1)", "left"),
     ("m.of(1) == (1, {'a': [2]})", "right"), ("m.of(1) == wanted", "right"), ("EXPECTED['a'] == m.of(1)", "left"),
     ("got == self.expected", "right"), ("expected_1 == got", "left"), ("m.of(1) == m.other", ""), ("a == b", ""),
     ("[a] == m.of(1)", ""), ("m.of(1) == f'{a}'", ""), ("m.of(1) == int(a)", ""), ("want(1) == unexpected", ""),
     ("expected == wanted", ""), ("1 == 2", ""), ("m.of(1) == date(2024, 1, 1)", "")],
)  # fmt: skip
def test_what_is_written_out_is_expected(check: str, expected: str) -> None:
    """Also where a call of a builtin type writes it, or its name says so; where neither side is, nothing is told."""
    compare: Any = ast.parse(check, mode="eval").body
    told = telling.ordered([compare.left, *compare.comparators], ("left", "right"))
    assert told.get("expected", "") == expected
    assert expected or told == {"left": "left", "right": "right"}


def test_a_with_of_one_statement_is_shown_whole(tmp_path: Path) -> None:
    """Without its body nobody knows what should have raised."""
    (tmp_path / "t.py").write_text("with raises(E):\n    f(1)\nwith a:\n    b\n    c\nif a:\n    b\n")
    shown = [telling.statement_at(str(tmp_path / "t.py"), line) for line in (1, 2, 3, 4, 6)]
    told = [None if node is None else ast.unparse(node) for node in shown]
    assert told == ["with raises(E):\n    f(1)", "f(1)", None, "b", None]


def test_a_statement_says_a_thing_once() -> None:
    """The traceback ends with the error, which is not told before it; no frame only for a comprehension."""
    trace = [("t.py", 1, "test_a", "f(1)"), ("f.py", 2, "f", "return [g(x) for x in y]"),
             ("f.py", 2, "<listcomp>", "return [g(x) for x in y]"), ("f.py", 5, "g", "return z")]  # fmt: skip
    told = problem_statement([Failure("t.py::test_a", "KeyError", "'k'", trace, "f(1)", "", "KeyError: 'k'")])
    assert told.count("KeyError: 'k'") == 1 and "\nKeyError: 'k'\n\nTest:" in told
    assert "listcomp" not in told and told.count("f.py:2") == 1 and "f.py:5 in g" in told
    own = problem_statement([Failure("t.py::test_a", "AssertionError", "no z", trace, "f(1)")])
    assert own.count("no z") == 1
    raises = problem_statement([Failure("t", "Failed", "DID NOT RAISE E", trace[:1], "f(1)", "E", "no exception")])
    assert raises.startswith("`t` fails.\n") and "Expected: E\nActual: no exception" in raises


def test_a_statement_shows_where_long_values_differ() -> None:
    """Two values alike for long are told from shortly before the difference; alike to the end, the message is told."""
    left, right = "[" + "1, " * 120 + "2]", "[" + "1, " * 120 + "3]"
    told = problem_statement([Failure("t", "AssertionError", "m", [], "assert a == b", left, right)])
    assert "Expected: ...1, 1" in told.replace("... ", "...") and "1, 2]\nActual: ..." in told and "1, 3]\n" in told
    neither = problem_statement([Failure("t", "AssertionError", "m", [], "assert a == b", left=left, right=right)])
    assert "Left side: ...1, 1" in neither.replace("... ", "...") and "2]\nRight side: ..." in neither
    assert "Expected" not in neither and "Actual" not in neither
    same = problem_statement([Failure("t", "AssertionError", "assert 1 == 1.0", [], "assert a == b", "x", "x")])
    assert "Expected" not in same and "assert 1 == 1.0" in same


def test_a_statement_names_functions_by_their_expression() -> None:
    """What pytest says of an assert keeps values and calls, without addresses wherever there is no doubt."""
    message = (
        "assert not True\n +  where True = <function is_email at 0x...>('ann')\n"
        " +    where <function is_email at 0x...> = validation.is_email"
    )
    told = problem_statement([Failure("t", "AssertionError", message, [], "assert not validation.is_email(text)")])
    assert "assert not True\n +  where True = validation.is_email('ann')\n" in told and "0x" not in told
    came, deeper = (f" +{blank}where <C object at 0x...> = C()" for blank in ("    ", "      "))
    method = f"assert None\n +  where None = get('a')\n +    where get = <C object at 0x...>.get\n{deeper}"
    assert "where None = C().get('a')" in problem_statement([Failure("t", "AssertionError", method, [], "assert x")])
    twice = f"assert False\n +  where False = eq(<C object at 0x...>, <C object at 0x...>)\n{came}"
    assert twice in problem_statement([Failure("t", "AssertionError", twice, [], "assert x")])
    values = "assert (False or False)\n +  where False = f(1)\n +  and   False = f(2)"
    assert values in problem_statement([Failure("t", "AssertionError", values, [], "assert x")])


class Lists:
    """A toy language: files of numbers, one function each; a test is a file that wants a sum."""

    # ruff: noqa: D102

    name, suffixes, kinds = "lists", (".lst",), ("lost_line",)

    def is_test(self, path: str) -> bool:
        return path.endswith(".want")

    def functions(self, text: str) -> list[Any]:
        from loraplug_swe.mutation.functions import Span

        return [Span("all", 0, text.count("\n"), "", 0)]

    def mutations(self, text: str) -> list[Mutation]:
        spots = [at for at, char in enumerate(text) if char == "\n"]
        return [Mutation("lost_line", "all", start, at + 1, "", (n + 1, n + 1), "a line is gone")
                for n, (start, at) in enumerate(zip([0, *(at + 1 for at in spots)], spots, strict=False))]  # fmt: skip

    def suite(self, tests: Any, arguments: Any, command: str) -> Any:
        return self

    def survey(self, box: Sandbox) -> BaselineRun:
        lines = (box.tree / "a.lst").read_text().count("\n")
        return BaselineRun({"a.want": 0.01}, lines={"a.lst": {n + 1: (0,) for n in range(lines)}})

    def tester(self, box: Sandbox, survey: BaselineRun) -> Any:
        self_box = box

        class Sum:
            def run(self, tests: Any, seconds: float, stop_after: int) -> Outcome:
                done = self_box.run(["awk", "{ n += $1 } END { print n }", "a.lst"], seconds)
                wanted, got = (self_box.tree / "a.want").read_text().strip(), done.output.strip()
                failure = Failure("a.want", "WrongSum", f"{got} is not {wanted}", (), "sum", wanted, got)
                return Outcome("passed") if got == wanted else Outcome("failed", [failure])

            def close(self) -> None: ...

        return Sum()


def test_another_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin package brings a language by an entry point; all the rest works on it."""
    package = tmp_path / "site" / "lists_language-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lists-language\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{GROUP}]\nlists = lists_language:LISTS\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(sys.modules, "lists_language", type(sys)("lists_language"))
    sys.modules["lists_language"].LISTS = Lists()  # type: ignore[attr-defined]
    code = tmp_path / "numbers"
    code.mkdir()
    (code / "a.lst").write_text("1\n2\n3\n0\n2\n")
    (code / "a.want").write_text("8\n")
    run = run_in(tmp_path)
    rows = list(SweBugsSource(str(code), language="lists", edit="diff", count=9, per_function=9).rows(run))
    assert len(rows) == 3  # 1, 2 (once: the other one fails alike), 3; without the 0 nothing fails
    assert all("WrongSum" in row["instruction"] and "```lists\n" in row["instruction"] for row in rows)


def test_hub_of_errors_is_ours() -> None:
    """The options of the source are checked by attrs with messages for users."""
    for options in ({"workers": -1}, {"timeout": 0}, {"per_function": 0}, {"max_failing": 0}, {"repo": "no slash"}):
        with pytest.raises(ValueError):
            SweBugsSource("x", **options)
    assert issubclass(InputError, LoraplugError)
