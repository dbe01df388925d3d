"""Verifies fixes: on the tree of the parent commit, or reverted on the newest commit."""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from loraplug import InputError, LoraplugError
from loraplug_swe.edits import unified_diff
from loraplug_swe.evaluation.bench import Bench, Checking
from loraplug_swe.history.commits import Fix, NoFix
from loraplug_swe.history.environments import Environments
from loraplug_swe.history.verify import ARGUMENTS, Runs, Verdict, verify, whole
from loraplug_swe.mutation.language import Report, language
from loraplug_swe.sandbox.checkout import stage
from loraplug_swe.sandbox.limits import Limits

if TYPE_CHECKING:
    from loraplug_swe.history.source import SweHistorySource


class Judge(ABC):
    """Verifies commits, from several threads. Use as a context manager.

    Args:
        source: its `path` is the repository, or a copy of it.
        limits: of the sandbox; see `box_limits`.
        scratch: a private folder; the caller removes it.
        environments: environments with the dependencies of commits.
        tip: the newest commit.
        clean: the runs of its suite, where they are known; `check` makes them for a judge that needs them.
    """

    def __init__(
        self, source: SweHistorySource, limits: Limits, scratch: Path, environments: Path, tip: str,
        clean: Sequence[Report] = (),
    ) -> None:  # fmt: skip
        self._source, self._limits, self._scratch, self._tip = source, limits, scratch, tip
        self._tongue, self._environments = language(source.language), Environments(environments)
        self.clean = tuple(clean)
        self._number = itertools.count()
        self.gaps: tuple[str, ...] = ()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close and remove open benches."""

    @abstractmethod
    def check(self, known: Mapping[str, Verdict]) -> None:
        """Check that the suite of the newest commit can be run, unless verdicts exist already.

        Raises:
            LoraplugError: it cannot, or no test passes.
        """

    @abstractmethod
    def judge(self, fix: Fix) -> Verdict:
        """Verify that tests detect a fix."""

    def _open(self, commit: str) -> Bench:
        """A bench with the tree of a commit.

        Raises:
            NoFix: what it declares cannot be installed.
            LoraplugError: its tests cannot be run.
        """
        out = self._scratch / f"tree-{next(self._number)}"
        out.mkdir()
        try:
            tree = stage(self._source.path, commit, "local/code", None, out).tree
            return Bench(tree, out, self._checking(commit), self._tongue)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise

    def _close(self, bench: Bench) -> None:
        self.gaps = bench.box.gaps or self.gaps
        bench.close()
        shutil.rmtree(bench.box.source.parent, ignore_errors=True)

    def _checking(self, commit: str) -> Checking:
        source = self._source
        python = source.python
        if source.dependencies == "install":
            python = self._environments.python(Path(source.path), commit, source.python or sys.executable)
        arguments = ARGUMENTS if self._tongue.name == "python" else ()
        return Checking(None, (*source.test_args, *arguments), python, source.timeout, source.roots,
                        evolve(self._limits, python=python), source.tests)  # fmt: skip

    def _unfit(self, why: NoFix) -> LoraplugError:
        return LoraplugError(f"the newest commit {why}", where=self._source.path, todo="set dataset.python")

    def _red(self, bench: Bench) -> Runs:
        """Runs of the newest suite, of which some tests pass."""
        runs = whole(bench, {}, self._source.tests)
        if "passed" not in runs[0].outcomes.values():
            failed = [f"{one.test}: {one.error}: {one.message}"[:200] for one in runs[0].failures[:1]]
            raise LoraplugError(
                f"no test of {self._tip[:12]} passes ({len(runs[0].outcomes)} ran, pytest exited with {runs[0].code})"
                + "".join(f"; the first: {one}" for one in failed), where=self._source.path,
                todo="run pytest there by hand; set python to an interpreter with the dependencies of the tests",
            )  # fmt: skip
        return runs


class Then(Judge):
    """Verifies on the parent commit, with the fix's own tests."""

    def close(self) -> None:
        """See `Judge.close`; each commit's bench is closed after its verdict."""

    def check(self, known: Mapping[str, Verdict]) -> None:
        """See `Judge.check`."""
        if known:
            return
        try:
            bench = self._open(self._tip)
        except NoFix as why:
            raise self._unfit(why) from None
        try:
            self._red(bench)
        finally:
            self._close(bench)

    def judge(self, fix: Fix) -> Verdict:
        """See `Judge.judge`."""
        try:
            bench = self._open(fix.commit.parents[0])
        except NoFix as why:
            return Verdict(str(why))
        except InputError as error:
            return Verdict("its tree cannot be checked out", error.what)
        except LoraplugError as error:
            return Verdict("its tests cannot be run", error.what)
        try:
            old, new = bench.patched([fix.test_patch]), bench.patched([fix.test_patch, fix.patch])
            if isinstance(old, str) or isinstance(new, str):
                return Verdict("its patch does not apply", str(old if isinstance(old, str) else new))
            clean = whole(bench, new, self._source.tests)
            return verify(bench, old, new, fix.tests, self._source.tests, clean)
        except LoraplugError as error:
            return Verdict("its tests cannot be run", error.what)
        finally:
            self._close(bench)


class Now(Judge):
    """Verifies by reverting the fix on the newest commit, with its tests."""

    def __init__(
        self, source: SweHistorySource, limits: Limits, scratch: Path, environments: Path, tip: str,
        clean: Sequence[Report] = (),
    ) -> None:  # fmt: skip
        super().__init__(source, limits, scratch, environments, tip, clean)
        self._own = threading.local()
        self._benches: list[Bench] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """See `Judge.close`."""
        for bench in self._benches:
            self._close(bench)
        self._benches.clear()

    def check(self, known: Mapping[str, Verdict]) -> None:  # noqa: ARG002 - its runs are needed anyway
        """See `Judge.check`."""
        try:
            bench = self._bench()
        except NoFix as why:
            raise self._unfit(why) from None
        runs = self._red(bench)
        self.clean = runs[0], runs[1]
        self.gaps = bench.box.gaps

    def judge(self, fix: Fix) -> Verdict:
        """See `Judge.judge`."""
        bench = self._bench()
        old = bench.patched([fix.back])
        if isinstance(old, str):
            return Verdict("does not apply to the newest commit", old)
        if any(text is None or path not in bench.texts for path, text in old.items()):
            return Verdict("adds or removes files")
        first = [path for path in fix.tests if path in bench.tests]
        verdict = verify(bench, old, {}, first, self._source.tests, self.clean)
        self.gaps = bench.box.gaps
        pairs = [(path, bench.texts[path], text) for path, text in sorted(old.items()) if text is not None]
        bug = "".join(unified_diff(path, now, without) for path, now, without in pairs)
        mend = "".join(unified_diff(path, without, now) for path, now, without in pairs)
        return evolve(verdict, bug=bug, mend=mend)

    def _bench(self) -> Bench:
        bench: Bench | None = getattr(self._own, "bench", None)
        if bench is None:
            bench = self._own.bench = self._open(self._tip)
            with self._lock:
                self._benches.append(bench)
        return bench
