"""The dataset source `swe`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from attrs import evolve, field, frozen, validators

from loraplug import Doc, InputError, LoraplugError, Run
from loraplug_swe.clones import Workshop, get_clone, open_workshop
from loraplug_swe.conversation import Messages, agent_turns, single_turn
from loraplug_swe.git import GitLimits, transport
from loraplug_swe.proof import Proof, prove
from loraplug_swe.rejects import Reject, Rejects
from loraplug_swe.selection import Chosen
from loraplug_swe.sources import TaskSource, refuse
from loraplug_swe.tasks import Answered
from loraplug_swe.templates import Templates, Turns, default_templates, read_templates
from loraplug_swe.views import look_at_files, look_at_tree

_WINDOW = 128  # tasks proved together, and held in memory at once
_OPEN = 8  # repositories kept open


def _valid_clone_url(_: object, __: Any, value: str) -> None:
    try:
        transport(value)
    except InputError as error:
        raise ValueError(error.what) from None


@frozen
class SweSource(TaskSource):
    """Bug-fix conversations, from the task alone (simple) or with the repository's real code (code-context)."""

    name: ClassVar[str] = "swe"

    mode: Annotated[
        Literal["simple", "code-context"],
        Doc("simple: the task alone; code-context: with listings, files and output of the real tree, patches proved"),
    ] = "simple"
    turns: Annotated[Turns, Doc("agent: one bash command a turn, each answered; single: question and diff")] = "agent"
    templates: Annotated[
        Path | None,
        Doc("TOML or YAML file with agent.system_template and agent.instance_template ({{task}} is the issue)"),
    ] = None
    clone_url: Annotated[
        str,
        Doc("address of a repository, with {repo}, {owner} or {name} in it; a URL or a local path", is_path=True),
    ] = field(default="https://github.com/{repo}.git", validator=_valid_clone_url)
    max_file_lines: Annotated[int, Doc("files with more lines are shown in pages of so many, round the change")] = (
        field(default=500, validator=validators.ge(10))
    )
    max_tree_lines: Annotated[int, Doc("of a larger tree only the upper folders are listed")] = field(
        default=200, validator=validators.ge(10)
    )
    git: Annotated[GitLimits, Doc("what git may take")] = field(factory=GitLimits)

    def rows_of(self, chosen: Iterator[Chosen], rejects: Rejects, run: Run) -> Iterator[dict[str, Any] | None]:
        """See `TaskSource.rows_of`."""
        templates = read_templates(self.templates, self.turns) if self.templates else default_templates(self.turns)
        if foreign := templates.foreign():
            run.warn(f"{self.templates}: {', '.join(foreign[:5])} stay as they are; only {{{{task}}}} is filled in")
        with _Shops(self, run) as shops:
            while window := list(islice(chosen, _WINDOW if self.mode == "code-context" else 1)):
                for one, messages in zip(window, self._converse(window, templates, shops), strict=True):
                    if isinstance(messages, Reject):
                        refuse(rejects, evolve(one, fault=messages))
                        yield None
                    elif one.task is not None:
                        yield {
                            "instance_id": one.task.instance_id,
                            "task_id": one.task.task_id,
                            "messages": messages,
                            "group": one.task.group,
                        }

    def _converse(self, window: list[Chosen], templates: Templates, shops: _Shops) -> Iterator[Messages | Reject]:
        """The messages of each task in the window, in order; tasks of one repository are proved together."""
        if self.mode == "simple":
            for one in window:
                yield (
                    _fault(one)
                    if one.answered is None
                    else (
                        agent_turns(templates, one.answered, None)
                        if self.turns == "agent"
                        else single_turn(templates, one.answered)
                    )
                )
            return
        by_repo: dict[str, list[int]] = {}
        for at, one in enumerate(window):
            if one.answered is not None:
                by_repo.setdefault(one.answered.task.repo.lower(), []).append(at)
        done: dict[int, Messages | Reject] = {}
        for places in by_repo.values():
            tasks = [answered for at in places if (answered := window[at].answered) is not None]
            done |= zip(places, self._of_one_repo(tasks, templates, shops), strict=True)
        for at, one in enumerate(window):
            yield done[at] if at in done else _fault(one)

    def _of_one_repo(self, tasks: list[Answered], templates: Templates, shops: _Shops) -> list[Messages | Reject]:
        try:
            shop = shops.of(tasks[0].task.repo)
        except Reject as fault:
            return [fault] * len(tasks)
        proofs = prove(shop, tasks)
        with shop.objects.limited():
            done = [
                proof if isinstance(proof, Reject) else self._messages(shop, task, proof, templates)
                for task, proof in zip(tasks, proofs, strict=True)
            ]
        shop.sweep()
        return done

    def _messages(self, shop: Workshop, task: Answered, proof: Proof, templates: Templates) -> Messages | Reject:
        try:
            looks = [
                look_at_tree(shop.objects, proof, self.max_tree_lines),
                *look_at_files(shop.objects, proof, self.max_file_lines),
            ]
        except Reject as fault:
            return fault
        if self.turns == "agent":
            return agent_turns(templates, task, proof, looks)
        return single_turn(templates, task, looks)


def _fault(one: Chosen) -> Reject:
    return one.fault or Reject("no-answer", "the task has no answer")


class _Shops:
    """The repositories at hand: a few kept open, and for those that cannot be had the reason, asked for only once."""

    def __init__(self, source: SweSource, run: Run) -> None:
        self._source, self._run = source, run
        self._open: OrderedDict[str, Workshop] = OrderedDict()
        self._faults: dict[str, Reject] = {}

    def __enter__(self) -> _Shops:
        return self

    def __exit__(self, *_: object) -> None:
        for shop in self._open.values():
            shop.close()

    def of(self, repo: str) -> Workshop:
        """The workshop on the clone of `repo`.

        Raises:
            Reject: `no-clone`.
        """
        key = repo.lower()
        if key in self._faults:
            raise self._faults[key]
        if key not in self._open:
            try:
                clone = get_clone(self._run, self._source.clone_url, repo, self._source.git)
            except Reject as fault:
                self._faults[key] = fault
                raise
            except LoraplugError as error:  # one clone that takes too long must not end the others
                self._faults[key] = Reject("no-clone", str(error))
                raise self._faults[key] from None
            if len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[key] = open_workshop(clone)
        self._open.move_to_end(key)
        return self._open[key]
