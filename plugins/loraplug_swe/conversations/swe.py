"""The dataset source `swe`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Run
from loraplug_swe.conversations.common import TaskSource
from loraplug_swe.tasks.options import GitLimits, Turns, valid_clone_url

if TYPE_CHECKING:
    from loraplug_swe.tasks.rejects import Rejects
    from loraplug_swe.tasks.selection import Chosen


@frozen
class SweSource(TaskSource):
    """Bug-fix conversations, from the task alone (simple) or with the repository's real code (code-context)."""

    name: ClassVar[str] = "swe"

    mode: Annotated[
        Literal["simple", "code-context"],
        Doc("simple: the task alone; code-context: with real listings, files and command output; patches are verified"),
    ] = "simple"
    turns: Annotated[
        Turns,
        Doc("agent: one bash command per turn, with its output; tools: the same, as calls of a tool `bash`; "
            "single: question and diff"),
    ] = "agent"  # fmt: skip
    templates: Annotated[
        Path | None,
        Doc("TOML or YAML file with agent.system_template and agent.instance_template ({{task}} is the issue)"),
    ] = None
    clone_url: Annotated[
        str,
        Doc("URL or local path of the repositories, with the placeholder {repo}, {owner} or {name}", is_path=True),
    ] = field(default="https://github.com/{repo}.git", validator=valid_clone_url)
    max_file_lines: Annotated[int, Doc("longer files are shown in pages of this many lines, around the change")] = (
        field(default=500, validator=validators.ge(10))
    )
    max_tree_lines: Annotated[int, Doc("for trees with more files, only the top folders are listed")] = field(
        default=200, validator=validators.ge(10)
    )
    git: Annotated[GitLimits, Doc("limits for git")] = field(factory=GitLimits)

    def rows_of(self, chosen: Iterator[Chosen], rejects: Rejects, run: Run) -> Iterator[dict[str, Any] | None]:
        """See `TaskSource.rows_of`."""
        from loraplug_swe.conversations.rows import make_rows

        return make_rows(self, chosen, rejects, run)
