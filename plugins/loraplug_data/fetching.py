"""The local copies of what a recipe's addresses mean, and errors that name the address rather than the copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from loraplug import InputError, LoraplugError, Problem, Run
from loraplug_data.paths import Paths, check_kind
from loraplug_data.remote import ask, check_end, fetched, is_remote, kept, shown


def remotes(path: Paths) -> list[str]:
    """The addresses among what a `path` names."""
    return [str(one) for one in (path if isinstance(path, tuple) else (path,)) if is_remote(one)]


@define
class Fetcher:
    """Gives local copies of addresses for a source, and remembers which is whose: `copies`, by the copy's path."""

    run: Run
    source: str
    limit: int | None
    copies: dict[Path, str] = field(factory=dict)

    def __call__(self, address: str) -> list[Path]:
        """The copies of the files that an address means, made where they are not there."""
        check_kind(address, self.source)
        made = []
        for one in ask(address):
            made.append(fetched(one, self.run, self.source, self.limit))
            self.copies[made[-1]] = one.shown
        return made

    def problems(self, addresses: list[str]) -> Iterator[Problem]:
        """What would keep these addresses from being read; copies of those that are in the cache are remembered."""
        for address in addresses:
            try:
                check_kind(address, self.source)
                for one in ask(address):
                    check_end(one, self.source, self.limit)
                    if (copy := kept(one, self.run, self.limit)) is not None:
                        self.copies[copy] = one.shown
            except LoraplugError as error:
                yield Problem.of(error, "dataset.path")


@contextmanager
def naming(copies: Mapping[Path, str]) -> Iterator[None]:
    """Errors inside name the address of a copy in place of its path in the cache."""
    try:
        yield
    except InputError as error:
        where, what = error.where or "", error.what
        for copy, address in copies.items():
            where, what = where.replace(str(copy), address), what.replace(str(copy), address)
        raise InputError(what, where=shown(where) or None, todo=error.todo) from None
