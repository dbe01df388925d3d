"""The dataset source `swe-synth`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from loraplug import Run
from loraplug_swe.conversations.common import TaskSource

if TYPE_CHECKING:
    from loraplug_swe.tasks.rejects import Rejects
    from loraplug_swe.tasks.selection import Chosen


@frozen
class SweSynthSource(TaskSource):
    """Issue and patch as instruction and response, from SWE-SYNTH tasks or SWE-bench rows."""

    name: ClassVar[str] = "swe-synth"

    def rows_of(
        self,
        chosen: Iterator[Chosen],
        rejects: Rejects,
        run: Run,  # noqa: ARG002 - nothing but the task is needed
    ) -> Iterator[dict[str, Any] | None]:
        """See `TaskSource.rows_of`."""
        from loraplug_swe.tasks.selection import refuse

        for one in chosen:
            if one.answered is None:
                refuse(rejects, one)
                yield None
                continue
            task = one.answered.task
            yield {
                "instruction": one.answered.statement,
                "response": one.answered.patch,
                "task_id": task.task_id,
                "group": task.group,
            }
