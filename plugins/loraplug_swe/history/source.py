"""The dataset source `swe-history`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, Problem, Run
from loraplug_swe.mutation.options import BoxLimits

if TYPE_CHECKING:
    from datasets import Dataset


def _is_day(_: object, option: Any, value: str | None) -> None:
    if value is None:
        return
    try:
        day = datetime.strptime(value, "%Y-%m-%d").strftime("%Y-%m-%d")
    except ValueError:
        day = ""
    if day != value:
        raise ValueError(f"{option.name} is a day such as 2022-01-31, got {value!r}")


@frozen
class SweHistorySource(DatasetSource):
    """Real bugs from your repository's history: commits whose tests fail without them, as SWE-bench rows."""

    name: ClassVar[str] = "swe-history"

    path: Annotated[str, Doc("a git repository with its history", is_path=True)]
    commits: Annotated[
        str, Doc('the commits to search: a branch or tag with all its ancestors, or a range such as "v1.0..main"')
    ] = "HEAD"
    since: Annotated[str | None, Doc("only commits from this day on (YYYY-MM-DD)")] = field(
        default=None, validator=_is_day
    )
    until: Annotated[str | None, Doc("only commits up to this day (YYYY-MM-DD)")] = field(
        default=None, validator=_is_day
    )
    limit: Annotated[int | None, Doc("stop after this many rows, newest commits first")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    merges: Annotated[
        Literal["skip", "squash"],
        Doc("skip: every commit except merges; squash: first parents only, each merge as one change"),
    ] = "skip"
    on: Annotated[
        Literal["then", "today"],
        Doc("then: the code of the parent commit; today: the fix reverted on the newest commit, where that applies"),
    ] = "then"
    statement: Annotated[
        Literal["failure", "message"],
        Doc("failure: the task shows how the tests fail; message: first the commit message, without its fix"),
    ] = "failure"
    repo: Annotated[str | None, Doc("owner/name for the rows; default: local/ and the folder's name")] = field(
        default=None, validator=validators.optional(validators.matches_re(r"[A-Za-z0-9][\w.-]*/[\w.-]+"))
    )
    tests: Annotated[tuple[str, ...], Doc("files or folders of tests, relative to the code; empty: all")] = ()
    roots: Annotated[tuple[str, ...], Doc("folders, relative to the code, that the tests import from")] = ("src", ".")
    test_args: Annotated[tuple[str, ...], Doc('options for pytest, such as ["-k", "not slow"]')] = ()
    python: Annotated[
        str, Doc("Python interpreter with pytest and the dependencies of the tests; default: this one")
    ] = ""
    dependencies: Annotated[
        Literal["given", "install"],
        Doc("given: what `python` has; install: what each commit declares, as wheels, in environments in the cache"),
    ] = "given"
    language: Annotated[str, Doc("python, or one that another package brings")] = "python"
    workers: Annotated[int, Doc("commits tested in parallel; 0: one per processor")] = field(
        default=0, validator=validators.ge(0)
    )
    timeout: Annotated[
        float, Doc("seconds added to the time limit of single tests, six times the duration of the suite")
    ] = field(default=10.0, validator=validators.gt(0))
    limits: Annotated[BoxLimits, Doc("limits for the code under test")] = field(factory=BoxLimits)
    readable: Annotated[tuple[str, ...], Doc("files and folders outside the code that the tests may read")] = ()
    sandbox: Annotated[
        Literal["strict", "weak"],
        Doc("strict: refuse to run where the system cannot isolate the code; weak: run anyway, for code you trust"),
    ] = "strict"
    tasks_out: Annotated[
        Path | None,
        Doc("where the tasks go, as swe and eval read them: a .jsonl file, or on = today a folder; by default in the "
            "run's"),
    ] = None  # fmt: skip

    def load(self, run: Run) -> Dataset:
        """SWE-bench's columns, plus {instruction, response, task_id, group}; with `today` only these four.

        Raises:
            InputError: there is no history, or no commit gives a row.
            LoraplugError: the tests cannot be run.
        """
        from datasets import Dataset, Features, List, Value

        texts, lists = ["instruction", "response", "task_id"], ["group"]
        if self.on == "then":
            texts += ["instance_id", "repo", "base_commit", "problem_statement", "patch", "test_patch", "created_at"]
            lists += ["FAIL_TO_PASS", "PASS_TO_PASS"]
        columns = {name: Value("string") for name in texts} | {name: List(Value("string")) for name in lists}
        return Dataset.from_list(list(self.rows(run)), features=Features(columns))

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:  # noqa: ARG002
        """Report a missing repository, one without history, and remote workers that cannot run its tests."""
        from loraplug_swe.sandbox.checkout import is_repository

        yield from self.unfit_machines(run)
        if not Path(self.path).is_dir() or not is_repository(Path(self.path)):
            todo = "name a clone with its history; swe-bugs takes a folder without one"
            yield Problem("dataset.path", f"{self.path}: no git repository; {todo}")

    def unfit_machines(self, run: Run) -> Iterator[Problem]:
        """Problems that keep remote workers from running the tests; empty without remote workers."""
        from loraplug_swe.sandbox.machine import Needs

        yield from run.workers.preflight(Needs(self.python, self.limits.network, self.sandbox == "weak"))

    def rows(self, run: Run) -> Iterator[dict[str, object]]:
        """Yield the rows of `load`; the tasks are written before the first."""
        from loraplug_swe.history.make import make

        return make(self, run)
