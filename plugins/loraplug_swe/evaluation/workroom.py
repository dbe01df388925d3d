"""Preparing tasks: injecting the bug, checking that its tests fail, writing the prompt."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve

from loraplug import InputError
from loraplug_swe.evaluation.bench import Bench, Checking, Files, read_texts
from loraplug_swe.evaluation.cases import Case, PromptOptions, Unfit, held_back, question, tongue_of, without_hidden
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.mutation.language import Environment, environment
from loraplug_swe.sandbox.checkout import stage

_OPEN = 3  # commits whose copies are kept at once


class Workroom:
    """Opens benches by commit, a few at a time for each thread.

    Args:
        repos: paths of code by owner/name in lower case; "" is for all others.
        tests_path: a folder of tests outside the code.
        scratch: a private folder; the caller removes it.
        whole: a fix must pass all tests that pass without the bug, not only the related ones.
        needs: what tests need beside the code, by its path and language, where that is known.
    """

    def __init__(
        self, repos: Mapping[str, str], tests_path: Path | None, checking: Checking, scratch: Path, whole: bool,
        needs: Mapping[tuple[str, str], Environment] | None = None,
    ) -> None:  # fmt: skip
        self.repos, self.tests_path, self.checking, self.scratch = repos, tests_path, checking, scratch
        self.whole = whole
        self._needs = dict(needs or {})
        self._benches: dict[int, dict[tuple[str, str, str], Bench]] = {}  # by thread
        self._trees: dict[tuple[str, str], Path] = {}
        self._texts: dict[tuple[str, str, str], dict[str, str]] = {}
        self._lock = threading.Lock()
        self.gaps: tuple[str, ...] = ()

    def __enter__(self) -> Workroom:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in list(self._benches):
            self._close(thread)

    def leave(self) -> None:
        """Close the benches of the calling thread."""
        self._close(threading.get_ident())

    def end_tests(self) -> None:
        """End what runs in the benches of all threads."""
        for benches in list(self._benches.values()):
            for bench in list(benches.values()):
                bench.box.end_inside()

    def _close(self, thread: int) -> None:
        for bench in self._benches.pop(thread, {}).values():
            bench.close()

    def place(self, task: Task) -> str:
        """Where the code of a task is.

        Raises:
            InputError: that is not known.
        """
        place = self.repos.get(task.repo.lower()) or self.repos.get("")
        if place is None:
            todo = f"give the path of its code: --repo {task.repo}=PATH"
            raise InputError(f"no repository {task.repo} was named", where=f"task {task.id}", todo=todo)
        return place

    def needs(self, task: Task) -> Environment:
        """What the tests of a task need beside its code.

        Raises:
            InputError: it is not on this machine, or no plugin supports the language.
        """
        key = self.place(task), task.language
        if key not in self._needs:
            self._needs[key] = environment(tongue_of(task), key[0], self.checking.python)
        return self._needs[key]

    def bench(self, task: Task) -> Bench:
        """The bench of a task's commit, for the calling thread alone.

        Raises:
            InputError: the code or commit is missing, or no plugin supports the language.
            LoraplugError: the tests cannot be run.
        """
        key = (self.place(task), task.commit, task.language)
        benches = self._benches.setdefault(threading.get_ident(), {})
        if key in benches:
            benches[key] = benches.pop(key)  # the latest is last
            return benches[key]
        while len(benches) >= _OPEN:
            benches.pop(next(iter(benches))).close()
        checking = evolve(self.checking, limits=self.needs(task).added(self.checking.limits))
        benches[key] = Bench(self._tree(task), self.scratch, checking, tongue_of(task), _suffixes(task))
        return benches[key]

    def texts(self, task: Task) -> Mapping[str, str]:
        """`Bench.texts` of a task's commit, without a bench; raises as `bench`."""
        key = (self.place(task), task.commit, task.language)
        if key not in self._texts:
            while len(self._texts) >= _OPEN:
                self._texts.pop(next(iter(self._texts)))
            self._texts[key] = read_texts(self._tree(task), tongue_of(task), _suffixes(task))[0]
        return self._texts[key]

    def _tree(self, task: Task) -> Path:
        place, commit = key = self.place(task), task.commit
        with self._lock:
            if key not in self._trees:
                out = self.scratch / f"tree-{len(self._trees)}"
                self._trees[key] = stage(place, commit or "HEAD", None, self.tests_path, out).tree
            return self._trees[key]

    def prepare(self, task: Task, asked: PromptOptions) -> Case | Unfit:
        """Inject the bug, check that the expected tests fail, and write the prompt."""
        bench = self.bench(task)
        clean = bench.patched(task.clean)
        if isinstance(clean, str):
            return Unfit(task, "the gold patch does not apply", clean)
        broken = bench.patched(task.broken)
        if isinstance(broken, str):
            return Unfit(task, "the bug patch does not apply", broken)
        most = bench.box.limits.seconds
        without, controlled, may_change = bench.without_bug(clean, task.targets, most)
        self.gaps = bench.box.gaps
        if without.verdict != "passed":
            return Unfit(task, "its tests do not pass without the bug", _told(without))
        with_bug = bench.run(broken, task.targets, bench.seconds(without.seconds), stop_after=len(task.targets))
        if with_bug.verdict == "passed":
            return Unfit(task, "its tests pass with the bug in")
        hidden = held_back(task, asked)
        wanted = task.suite if self.whole or not task.related else task.related
        suite = bench.suite(clean, wanted)
        target = (task.file, task.function) if task.file and task.function else None
        try:
            told = evolve(task, statement=without_hidden(task, with_bug.failures, hidden))
            instruction, edit = question(told, bench.texts | _there(broken), tongue_of(task), asked)
        except InputError as error:
            return Unfit(task, "its prompt cannot be written", error.what)
        return Case(
            task, instruction, edit, broken, target, without.seconds, suite, clean, controlled, may_change, hidden
        )


def _suffixes(task: Task) -> Sequence[str]:
    return tongue_of(task).suffixes if task.language else ()


def _there(files: Files) -> dict[str, str]:
    return {path: text for path, text in files.items() if text is not None}


def _told(outcome: object) -> str:
    failures = getattr(outcome, "failures", ())
    return f"{failures[0].test} {failures[0].error} {failures[0].message}"[:300] if failures else str(
        getattr(outcome, "verdict", ""))  # fmt: skip
