"""Code shared by `swe-synth` and `swe`: loading tasks, selecting them, reporting rejects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Problem, Run
from loraplug_swe.tasks.options import Answer, BucketOptions, valid_ids, valid_shard

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_swe.tasks.rejects import Rejects
    from loraplug_swe.tasks.selection import Chosen
    from loraplug_swe.tasks.stores import Place

PUBLIC_BUCKET = "https://pub-4b43a94ed07d4ac38fae3f4cb5070d6c.r2.dev/bugs"


@frozen
class TaskSource(DatasetSource):
    """Base of both sources."""

    tasks: Annotated[
        str,
        Doc(
            "where tasks live: an HTTP(S) bucket prefix, a folder of task_<n>.json, a .json, .jsonl or .parquet file, "
            "or hub:owner/name",
            is_path=True,
        ),
    ] = PUBLIC_BUCKET
    ids: Annotated[
        str | None,
        Doc('numbers of the tasks to use, such as "0-99,205": n of task_<n>.json, or positions in a file from 0'),
    ] = field(default=None, validator=valid_ids)
    limit: Annotated[int | None, Doc("use at most this many tasks, counted before patches are checked")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    repos: Annotated[tuple[str, ...], Doc("use only tasks of these repositories (owner/name); empty: all")] = ()
    answer: Annotated[
        Answer,
        Doc(
            "gold: the gold patch; revert-bug: the bug patch reversed; auto: revert-bug where there is a bug patch "
            "and its statement, else gold; rows whose patch could be either are rejected"
        ),
    ] = "auto"
    shard: Annotated[str | None, Doc('"i/n": only the i-th of n equal shards of the task numbers')] = field(
        default=None, validator=valid_shard
    )
    rejects: Annotated[
        Path | None, Doc("file for rejected tasks, with reasons; default: rejects.jsonl in the run's folder")
    ] = None
    split: Annotated[str, Doc("split of a hub data set")] = "test"
    revision: Annotated[str | None, Doc("commit, tag or branch of a hub data set")] = None
    bucket: Annotated[BucketOptions, Doc("how tasks are fetched from a bucket")] = field(factory=BucketOptions)

    def load(self, run: Run) -> Dataset:
        """All rows, memory-mapped from a content-addressed file in the cache."""
        from loraplug_swe.tasks.table import load_rows

        return load_rows(self.rows(run), run.cache / "swe" / "rows")

    def rows(self, run: Run) -> Iterator[dict[str, Any]]:
        """Yield the rows; rejected tasks go to the rejects file.

        Raises:
            InputError: the tasks cannot be read, or all are rejected.
        """
        from loraplug_swe.tasks.rejects import open_rejects
        from loraplug_swe.tasks.selection import Selection, no_rows

        path = self.rejects or run.folder / "rejects.jsonl"
        selection = Selection(self._place(run), self.answer, self.ids, self.limit, self.repos, self.shard)
        kept = 0
        with open_rejects(path) as rejects, run.progress("tasks", len(selection.block())) as bar:
            for row in self.rows_of(iter(selection), rejects, run):
                if row is not None:
                    yield row
                    kept += 1
                bar.advance(1, kept=kept, rejected=rejects.total)
        for line in selection.told():
            run.say(line)
        told = f"{kept} rows from {self.tasks}"
        if rejects.total:
            run.warn(f"{told}; {rejects.total} left out ({rejects.summary()}), each with its reason in {path}")
        else:
            run.say(told)
        if not kept and not self.shard:
            raise no_rows(rejects, self.tasks)

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:  # noqa: ARG002
        """Report missing local tasks, or a bucket without `ids`. Does not contact bucket or hub."""
        try:
            if not self.tasks.startswith("hub:"):
                self._place(run)
        except InputError as error:
            yield Problem.of(error, "dataset.ids" if error.where == "ids" else "dataset.tasks")

    def _place(self, run: Run) -> Place:
        if self.tasks.startswith(("http://", "https://")):
            if self.ids is None:
                raise InputError(
                    "a bucket cannot be listed, so the recipe must name its tasks",
                    where="ids",
                    todo='give ids = "0-99", or name a folder or file in tasks',
                )
            from loraplug_swe.tasks.bucket import Bucket

            return Bucket(self.tasks, run, self.bucket)
        from loraplug_swe.tasks.stores import open_place

        return open_place(self.tasks, split=self.split, revision=self.revision)

    @abstractmethod
    def rows_of(self, chosen: Iterator[Chosen], rejects: Rejects, run: Run) -> Iterator[dict[str, Any] | None]:
        """Yield a row for every selected task, or None if it was rejected."""
