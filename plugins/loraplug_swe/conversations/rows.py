"""Rows of the `swe` source: tasks are processed in windows, and the patches of one repository are verified together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug import LoraplugError, Run
from loraplug_swe.conversations.conversation import BASH_TOOL, Messages, agent_turns, single_turn
from loraplug_swe.conversations.observations import look_at_files, look_at_tree
from loraplug_swe.conversations.templates import Templates, default_templates, read_templates
from loraplug_swe.patches.proof import Proof, prove
from loraplug_swe.repositories.clones import Workshop, get_clone, open_workshop
from loraplug_swe.tasks.rejects import Reject, Rejects
from loraplug_swe.tasks.selection import Chosen, refuse
from loraplug_swe.tasks.task import Answered

if TYPE_CHECKING:
    from loraplug_swe.conversations.swe import SweSource

Rows = Iterator[dict[str, Any] | None]
_WINDOW = 128  # tasks proved together, and held in memory at once
Made = Messages | Reject
_OPEN = 8  # repositories kept open


def make_rows(
    source: SweSource, chosen: Iterator[Chosen], rejects: Rejects, run: Run
) -> Iterator[dict[str, Any] | None]:
    """Yield a row for every selected task, or None if it was rejected."""
    templates = read_templates(source.templates, source.turns) if source.templates else default_templates(source.turns)
    if foreign := templates.foreign():
        run.warn(f"{source.templates}: {', '.join(foreign[:5])} stay as they are; only {{{{task}}}} is filled in")
    with _Shops(source, run) as shops:
        while window := list(islice(chosen, _WINDOW if source.mode == "code-context" else 1)):
            for one, messages in zip(window, _converse(source, window, templates, shops), strict=True):
                if isinstance(messages, Reject):
                    refuse(rejects, evolve(one, fault=messages))
                    yield None
                elif one.task is not None:
                    yield {
                        "instance_id": one.task.instance_id,
                        "task_id": one.task.task_id,
                        "messages": messages,
                        "group": one.task.group,
                        **({"tools": [BASH_TOOL]} if source.turns == "tools" else {}),
                    }


def _converse(source: SweSource, window: list[Chosen], templates: Templates, shops: _Shops) -> Iterator[Made]:
    """The messages of each task in the window, in order; tasks of one repository are verified together."""
    if source.mode == "simple":
        for one in window:
            yield (
                _fault(one)
                if one.answered is None
                else (
                    single_turn(templates, one.answered)
                    if source.turns == "single"
                    else agent_turns(templates, one.answered, None, tools=source.turns == "tools")
                )
            )
        return
    by_repo: dict[str, list[int]] = {}
    for at, one in enumerate(window):
        if one.answered is not None:
            by_repo.setdefault(one.answered.task.repo.lower(), []).append(at)
    done: dict[int, Made] = {}
    for places in by_repo.values():
        tasks = [answered for at in places if (answered := window[at].answered) is not None]
        done |= zip(places, _of_one_repo(source, tasks, templates, shops), strict=True)
    for at, one in enumerate(window):
        yield done[at] if at in done else _fault(one)


def _of_one_repo(source: SweSource, tasks: list[Answered], templates: Templates, shops: _Shops) -> list[Made]:
    try:
        shop = shops.of(tasks[0].task.repo)
    except Reject as fault:
        return [fault] * len(tasks)
    proofs = prove(shop, tasks)
    with shop.objects.limited():
        done = [
            proof if isinstance(proof, Reject) else _messages(source, shop, task, proof, templates)
            for task, proof in zip(tasks, proofs, strict=True)
        ]
    shop.sweep()
    return done


def _messages(source: SweSource, shop: Workshop, task: Answered, proof: Proof, templates: Templates) -> Made:
    try:
        looks = [
            look_at_tree(shop.objects, proof, source.max_tree_lines),
            *look_at_files(shop.objects, proof, source.max_file_lines),
        ]
    except Reject as fault:
        return fault
    if source.turns == "single":
        return single_turn(templates, task, looks)
    return agent_turns(templates, task, proof, looks, tools=source.turns == "tools")


def _fault(one: Chosen) -> Reject:
    return one.fault or Reject("no-answer", "the task has no answer")


class _Shops:
    """Open repositories: keeps a few open, and remembers why others could not be cloned."""

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
