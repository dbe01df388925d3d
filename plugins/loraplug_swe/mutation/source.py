"""The dataset source `swe-bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Problem, Run
from loraplug_swe.mutation.options import BoxLimits

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class SweBugsSource(DatasetSource):
    """Bugs injected into your repository and verified by its tests: the failure as instruction, the fix as response."""

    name: ClassVar[str] = "swe-bugs"

    path: Annotated[
        str,
        Doc("a git repository, a folder with code and tests, or package:NAME, an installed package", is_path=True),
    ]
    revision: Annotated[str, Doc("commit, branch or tag of the repository; uncommitted changes are ignored")] = "HEAD"
    repo: Annotated[str | None, Doc("owner/name for the tasks; default: local/ and the folder's name")] = field(
        default=None, validator=validators.optional(validators.matches_re(r"[A-Za-z0-9][\w.-]*/[\w.-]+"))
    )
    tests_path: Annotated[Path | None, Doc("a folder of tests outside the code; copied to tests/ beside it")] = None
    tests: Annotated[tuple[str, ...], Doc("files or folders of tests, relative to the code; empty: all")] = ()
    roots: Annotated[tuple[str, ...], Doc("folders, relative to the code, that the tests import from")] = ("src", ".")
    test_args: Annotated[
        tuple[str, ...], Doc('options for pytest or another test runner, such as ["-k", "not slow"]')
    ] = ()
    python: Annotated[
        str,
        Doc("Python interpreter with pytest, coverage and the tests' dependencies, or a node; default: this one"),
    ] = ""
    language: Annotated[str, Doc("python, javascript, typescript, or one that another package brings")] = "python"
    include: Annotated[tuple[str, ...], Doc('only these files, such as ["src/*"]; empty: all except tests')] = ()
    exclude: Annotated[tuple[str, ...], Doc('not these files, such as ["*/compat.py"]')] = ()
    count: Annotated[int, Doc("bugs wanted")] = field(default=100, validator=validators.ge(1))
    per_function: Annotated[int, Doc("maximum number of bugs per function")] = field(
        default=4, validator=validators.ge(1)
    )
    max_failing: Annotated[int, Doc("discard bugs that break more tests than this")] = field(
        default=10, validator=validators.ge(1)
    )
    kinds: Annotated[
        tuple[str, ...],
        Doc("kinds of bugs, such as off_by_one; small and large name groups; empty: all small ones"),
    ] = ()
    seed: Annotated[int | None, Doc("seed of the random choice; default: the run's")] = None
    workers: Annotated[int, Doc("processes that run tests in parallel; 0: one per processor")] = field(
        default=0, validator=validators.ge(0)
    )
    timeout: Annotated[float, Doc("seconds added to the time limit of one bug's tests, six times their duration")] = (
        field(default=3.0, validator=validators.gt(0))
    )
    limits: Annotated[BoxLimits, Doc("limits for the code under test")] = field(factory=BoxLimits)
    readable: Annotated[tuple[str, ...], Doc("files and folders outside the code that the tests may read")] = ()
    sandbox: Annotated[
        Literal["strict", "weak"],
        Doc("strict: refuse to run where the system cannot isolate the code; weak: run anyway, for code you trust"),
    ] = "strict"
    context: Annotated[
        Literal["function", "file", "none"], Doc("how much code the instruction shows beside the test failure")
    ] = "function"
    edit: Annotated[
        Literal["diff", "search-replace", "lines", "function"],
        Doc("the answer: a unified diff, search/replace blocks, numbered lines, or the whole corrected function"),
    ] = "search-replace"
    tasks_out: Annotated[
        Path | None, Doc("folder for the tasks (task_<n>.json), readable by swe-synth and swe; default: in the run's")
    ] = None

    def load(self, run: Run) -> Dataset:
        """Rows {instruction, response, task_id, group}; `group` is the repository, then the function.

        Raises:
            InputError: the code is missing, or no bug was found.
            LoraplugError: the tests cannot be run.
        """
        from datasets import Dataset, Features, List, Value

        columns = {"instruction": Value("string"), "response": Value("string"), "task_id": Value("string"),
                   "group": List(Value("string"))}  # fmt: skip
        return Dataset.from_list(list(self.rows(run)), features=Features(columns))

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:  # noqa: ARG002
        """Report missing code, and remote workers that cannot run its tests."""
        yield from self.unfit_machines(run)
        if not self.path.startswith("package:") and not Path(self.path).is_dir():
            todo = "name a git repository, a folder with code and tests, or package:NAME"
            yield Problem("dataset.path", f"{self.path}: no such folder; {todo}")
            return
        from loraplug_swe.mutation.language import environment, language

        try:
            environment(language(self.language), self.path, self.python)
        except InputError as error:
            yield Problem(str(error.where or "dataset.language"), "; ".join(filter(None, (error.what, error.todo))))

    def unfit_machines(self, run: Run) -> Iterator[Problem]:
        """Problems that keep remote workers from running the tests; empty without remote workers."""
        from loraplug_swe.sandbox.machine import Needs

        yield from run.workers.preflight(Needs(self.python, self.limits.network, self.sandbox == "weak"))

    def rows(self, run: Run) -> Iterator[dict[str, object]]:
        """Yield the rows of `load`; the tasks are written before the first."""
        from loraplug_swe.mutation.make import make

        return make(self, run)
