"""The code of tasks, for machines that do not have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

from loraplug import InputError
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.reading import Task
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.mutation.language import Environment
from loraplug_swe.sandbox.checkout import copy_commits, find_commit, is_repository, run_git, stage
from loraplug_swe.sandbox.copies import copy_tree


@frozen
class SentCode:
    """What a workroom is made of elsewhere. Attributes are those of `Workroom`; paths are relative to the folder."""

    repos: Mapping[str, str]
    tests_path: str | None
    checking: Checking
    whole: bool
    needs: Mapping[tuple[str, str], Environment]

    def room(self, folder: Path) -> Workroom:
        """A workroom of this code, in a folder that holds it; works beside it."""
        needs = {(str(folder / path), language): one for (path, language), one in self.needs.items()}
        return Workroom(
            {name: str(folder / path) for name, path in self.repos.items()},
            None if self.tests_path is None else folder / self.tests_path,
            self.checking, folder.parent, self.whole, needs,
        )  # fmt: skip


def send_code(room: Workroom, tasks: Iterable[Task], folder: Path) -> SentCode:
    """Put the code of these tasks into a new folder: of repositories their commits alone.

    Raises:
        InputError: the code of a task is missing.
    """
    folder.mkdir(parents=True)
    commits: dict[str, dict[str, None]] = {}
    needs: dict[tuple[str, str], Environment] = {}
    for task in tasks:
        place = room.place(task)
        commits.setdefault(place, {})[task.commit] = None
        needs[place, task.language] = room.needs(task)
    paths = {
        place: _copy(place, list(wanted), folder, str(number)) for number, (place, wanted) in enumerate(commits.items())
    }
    tests = room.tests_path
    if tests is not None:
        if not tests.is_dir():
            raise InputError("no such folder", where=tests, todo="name the folder of the tests")
        copy_tree(tests.resolve(), folder / "tests" / tests.name)
    return SentCode(
        {name: paths[place] for name, place in room.repos.items() if place in paths},
        None if tests is None else f"tests/{tests.name}", room.checking, room.whole,
        {(paths[place], language): one for (place, language), one in needs.items()},
    )  # fmt: skip


def _copy(place: str, commits: list[str], folder: Path, name: str) -> str:
    """Copy some commits of a repository, or a whole folder or package; its path in the folder."""
    source, out = Path(place), folder / name
    if place.startswith("package:") or not source.is_dir() or not is_repository(source):
        stage(place, "HEAD", None, None, out)
        return f"{name}/tree"
    found = {commit: find_commit(source, commit or "HEAD") for commit in commits}
    copy_commits(source, found.values(), out)
    if "" in found:
        run_git(out, "update-ref", "--no-deref", "HEAD", found[""])
    return name
