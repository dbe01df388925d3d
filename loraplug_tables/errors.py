"""One family of errors: every one says what was wrong, where, and what to do next."""

from __future__ import annotations

from attrs import frozen


class LoraplugError(Exception):
    """Something failed while working. Shown as one block: `where: what`, then `next: todo`.

    Args:
        what: what was wrong, one sentence without a full stop.
        where: a file, recipe key or row id.
        todo: what the user can do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, todo: str | None = None) -> None:
        super().__init__(what)
        self.what, self.todo = what, todo
        self.where = None if where is None else str(where)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  next: {self.todo}" if self.todo else head


class InputError(LoraplugError):
    """What the user gave was wrong: a recipe, a file, a row, an option."""

    exit_code = 2


@frozen
class Problem:
    """One thing wrong in a recipe, at a dotted path such as `trainer.lora.r`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
