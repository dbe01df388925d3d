"""Where parallel work of a run is done: the recipe's `[workers]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug.config.options import Doc
from loraplug.errors import InputError, LoraplugError, Problem
from loraplug.workers.crew import Crew
from loraplug.workers.job import In, Job, Out
from loraplug.workers.local import hire_process, hire_thread, usable_cpus

_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}")


@frozen
class Workers:
    """Threads and processes of this machine, or those of a Ray cluster. What is made is the same."""

    use: Annotated[
        Literal["local", "ray"], Doc("local: threads and processes of this machine; ray: the machines of a cluster")
    ] = "local"
    address: Annotated[
        str, Doc("for ray: auto (the cluster that this machine is a node of), or host:port of the head")
    ] = "auto"
    count: Annotated[int, Doc("maximum number of workers on the cluster; 0: one per processor")] = field(
        default=0, validator=validators.ge(0)
    )

    def __attrs_post_init__(self) -> None:
        if self.use == "local" and (self.address, self.count) != ("auto", 0):
            raise InputError('address and count apply to a cluster: set use = "ray", or remove them')
        if self.address != "auto" and not _ADDRESS.fullmatch(self.address):
            raise InputError(f'address {self.address!r} is neither "auto" nor host:port, such as "10.0.0.5:6379"')

    def preflight(self, *lacking: Callable[[], str | None]) -> Iterator[Problem]:
        """What keeps the cluster from being used; nothing of this machine, whose sandboxes tell for themselves.

        Args:
            lacking: `Job.lacking` of what is to be done, asked on each machine.
        """
        if self.use == "local":
            return
        try:
            from loraplug.workers.cluster import connect

            cluster = connect(self.address)
            yield from (Problem("workers", told) for told in cluster.problems(lacking))
        except LoraplugError as error:
            yield Problem.of(error, error.where or "workers")

    def map(
        self,
        job: Job[In, Out],
        items: Iterable[In],
        how: Literal["threads", "processes"] = "threads",
        *,
        count: int = 0,
        recall: Callable[[In], Out | None] | None = None,
        record: Callable[[In, Out], None] | None = None,
    ) -> Generator[tuple[In, Out]]:
        """Every item with its result, in the order of the items, which are read a little ahead.

        Close the iterator (`contextlib.closing`) to have the workers end before all items are done.

        Args:
            how: what works on this machine.
            count: workers at most; 0 for as many as there are processors.
            recall: gives the result of an item that is known; None where it has to be worked on.
            record: called with each item and its result as soon as it is there, in any order, one at a time.

        Raises:
            LoraplugError: a worker cannot be made ready, or several died over one item.
        """
        with self.crew(job, how, count=count, record=record) as crew:
            yield from crew.in_order(items, recall)

    def crew(
        self,
        job: Job[In, Out],
        how: Literal["threads", "processes"] = "threads",
        *,
        count: int = 0,
        spare: int = 0,
        record: Callable[[In, Out], None] | None = None,
    ) -> Crew[In, Out]:
        """Workers that items are submitted to one by one; a context manager. For options see `map`.

        Args:
            spare: processors of this machine that are left to others where `count` is 0.
        """
        if self.use == "ray":
            from loraplug.workers.cluster import connect

            cluster = connect(self.address)
            return cluster.crew(job, min(filter(None, (count, self.count, cluster.cpus))), record)
        hire: Any = hire_thread if how == "threads" else hire_process
        return Crew(count or max(1, usable_cpus() - spare), partial(hire, job), record)
