"""Tasks and answers spread over workers: the same verdicts in the same order, equal changes tested once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bugs_helpers import CLAMP_AND_MEAN
from history_repository import History

from loraplug import InputError, Workers
from loraplug.workers import workers as local_workers
from loraplug_swe.edits import unified_diff
from loraplug_swe.evaluation import judging as module
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.cases import Case, PromptOptions, Unfit
from loraplug_swe.evaluation.generator import Completion
from loraplug_swe.evaluation.judge import Verdict
from loraplug_swe.evaluation.judging import Given, Known, RoomJob, open_judging
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.evaluation.sending import send_code
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.sandbox.checkout import digest

TESTS = """\
import sums


def test_high():
    assert sums.clamp(11) == 10


def test_none():
    assert sums.mean([]) == 0
"""
HIGH, NONE = "tests/test_sums.py::test_high", "tests/test_sums.py::test_none"
WRONG_HIGH = CLAMP_AND_MEAN.replace("value > high", "value < high")
WRONG_NONE = CLAMP_AND_MEAN.replace("return 0", "return 1")


def a_task(name: str, buggy: str, target: str, commit: str = "") -> Task:
    """One about sums.py."""
    patch = unified_diff("sums.py", CLAMP_AND_MEAN, buggy)
    return Task(name, int(name), "local/sums", commit, "", patch, f"{target} fails.", (target,), suite=(HIGH, NONE))


TASKS = [a_task("1", WRONG_HIGH, HIGH), a_task("2", WRONG_NONE, NONE),
         a_task("3", CLAMP_AND_MEAN.replace("Keep", "Hold"), HIGH)]  # fmt: skip


def answers() -> Iterator[Given]:
    """Right, equal to the first but for a fault in its form, wrong, none, without room; of both tasks."""
    for name, buggy in (("1", WRONG_HIGH), ("2", WRONG_NONE)):
        right = unified_diff("sums.py", buggy, CLAMP_AND_MEAN)
        wrong = unified_diff("sums.py", buggy, buggy.replace("total = 0", "total = 1"))
        loose = "".join(f"{line} \n" if line[:2] == "- " else f"{line}\n" for line in right.splitlines())
        for sample, text in enumerate([right, loose, wrong, "no", right, wrong]):
            yield name, sample, Completion(text, "stop", 1, 1, 0.0)
        yield name, 6, Completion("", "prompt-too-long", 0, 0, 0.0)


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """The code, in a folder that is no repository."""
    (tmp_path / "sums" / "tests").mkdir(parents=True)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "sums" / "sums.py").write_text(CLAMP_AND_MEAN)
    (tmp_path / "sums" / "tests" / "test_sums.py").write_text(TESTS)
    return tmp_path / "sums"


def test_verdicts_are_the_same_whatever_the_number_of_workers(
    sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the answers, which are read no further ahead than keeps the workers busy."""
    tested: list[str] = []
    judge = module.judge

    def counted(bench: Any, case: Case, answer: str) -> Verdict:
        tested.append(answer)
        return judge(bench, case, answer)

    monkeypatch.setattr(module, "judge", counted)
    found = []
    for processors in (1, 4):
        monkeypatch.setattr(local_workers, "usable_cpus", lambda count=processors: count)
        tested.clear()
        known: Known = {}
        scratch = tmp_path / "scratch" / str(processors)
        scratch.mkdir()
        with (
            Workroom({"": str(sums)}, None, Checking(), scratch, True) as room,
            open_judging(room, Workers(), TASKS, spare=1, known=known) as judging,
        ):
            made = {one.task.id: one for one, _ in judging.prepared(TASKS, PromptOptions())}
            assert isinstance(made["3"], Unfit) and made["3"].reason == "its tests pass with the bug in"
            cases = {name: one for name, one in made.items() if isinstance(one, Case)}
            read: list[Given] = []
            verdicts = judging.verdicts((read.append(one) or one for one in answers()), cases.__getitem__)  # type: ignore[func-returns-value]
            told = []
            for each in verdicts:
                told.append(each)
                assert len(read) - len(told) <= 4 * max(1, processors - 1)
            assert len(tested) == len(known) == 4
            again = list(judging.verdicts(answers(), cases.__getitem__))
            assert again == told and len(tested) == 4
            assert judging.usable(cases["1"], next(answers())[2].text) and not judging.usable(cases["1"], "no")
            assert room.texts(TASKS[0]) == room.bench(TASKS[0]).texts
        found.append(told)
    assert found[0] == found[1]
    assert [(name, sample) for name, sample, *_ in found[0]] == [(name, sample) for name, sample, _ in answers()]
    assert [(one.status, one.exact) for *_, one in found[0]] == [
        ("resolved", True), ("resolved", False), ("applied", True), ("invalid", True), ("resolved", True),
        ("applied", True), ("invalid", True),
    ] * 2  # fmt: skip
    assert not list((tmp_path / "scratch").rglob("loraplug-box-*"))


def test_code_is_sent_whole_and_no_more(sums: Path, tmp_path: Path) -> None:
    """Commits of a repository, a folder, a package, tests from elsewhere: what a worker has there is what is here."""
    history = History(tmp_path / "history")
    first = history.commit("first", {"sums.py": CLAMP_AND_MEAN, "tests/test_sums.py": TESTS})
    other = history.commit("other", {"sums.py": WRONG_HIGH})
    history.commit("last", {"sums.py": WRONG_NONE})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "test_more.py").write_text(TESTS)
    repos = {"a/history": str(history.folder), "a/package": "package:json", "": str(sums), "a/unused": "nowhere"}
    tasks = [Task(str(at), at, repo, commit, "", "x", "", (HIGH,))
             for at, (repo, commit) in enumerate([("A/history", first), ("a/history", ""), ("a/package", ""),
                                                  ("b/sums", first)])]  # fmt: skip
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = Workroom(repos, tmp_path / "more", Checking(), tmp_path / "here", True)
    code = send_code(here, tasks, tmp_path / "there" / "tree")
    assert "a/unused" not in code.repos and str(tmp_path) not in str(code)
    there = code.room(tmp_path / "there" / "tree")
    for task in tasks:
        assert there.texts(task) == here.texts(task) != {}
    trees = [sorted(digest(tree) for tree in tmp_path.glob(f"{name}/tree-*/tree")) for name in ("here", "there")]
    assert trees[0] == trees[1] and len(trees[0]) == 4
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["git", "cat-file", "-e", other], cwd=tmp_path / "there" / "tree" / "0", check=True)
    with pytest.raises(InputError, match=r"no repository b/none was named"):
        send_code(Workroom({"a/b": str(sums)}, None, Checking(), tmp_path / "here", True),
                  [Task("1", 1, "b/none", "", "", "x", "", (HIGH,))], tmp_path / "none")  # fmt: skip
    with pytest.raises(InputError):  # a commit that is not here is told before the work
        send_code(here, [Task("1", 1, "a/history", "f" * 40, "", "x", "", (HIGH,))], tmp_path / "strange")


def test_a_worker_elsewhere_says_what_one_here_does(sums: Path, tmp_path: Path) -> None:
    """With nothing but what is sent, the case and the verdicts are those of this machine, but for seconds."""
    (tmp_path / "there").mkdir()
    folder = tmp_path / "there" / "tree"
    told = []
    with Workroom({"": str(sums)}, None, Checking(), tmp_path / "scratch", True) as room:
        for job in (RoomJob(room), RoomJob(None, send_code(room, TASKS, folder), folder)):
            with job.start(job.folder) as work:
                case, gaps = work(module._ToPrepare(TASKS[0], PromptOptions()))
                told.append((case.instruction, case.broken, case.controlled, case.suite[0], gaps,
                             work(module._ToJudge(case, next(answers())[2].text))))  # fmt: skip
    assert told[0] == told[1] and told[0][-1].status == "resolved"


def test_an_interrupt_does_not_wait_for_tests_that_hang(sums: Path, tmp_path: Path) -> None:
    """Those in work are ended, those that wait are not begun."""
    scratch = tmp_path / "scratch"
    hangs = WRONG_HIGH.replace("return low", "open('begun', 'w').close()\n        while True: pass")
    hangs = hangs.replace("value < low", "value")

    def interrupted() -> Iterator[Given]:
        for sample in range(2):
            text = unified_diff("sums.py", WRONG_HIGH, hangs.replace("total = 0", f"total = {sample}"))
            yield "1", sample, Completion(text, "stop", 1, 1, 0.0)
        deadline = time.monotonic() + 60
        while not list(scratch.rglob("begun")) and time.monotonic() < deadline:
            time.sleep(0.05)
        begun.append(time.monotonic())
        raise KeyboardInterrupt

    begun: list[float] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Workroom({"": str(sums)}, None, Checking(spare=100.0), scratch, True) as room,
        open_judging(room, Workers(), TASKS) as judging,
    ):
        ((case, _),) = judging.prepared(TASKS[:1], PromptOptions())
        assert isinstance(case, Case)
        list(judging.verdicts(interrupted(), {"1": case}.__getitem__))
    assert time.monotonic() - begun[0] < 60
    assert not list(scratch.rglob("loraplug-box-*"))
