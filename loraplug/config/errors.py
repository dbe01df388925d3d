"""The errors of loraplug: each says what is wrong, where, and what to do next."""

from __future__ import annotations

import re

from attrs import field, frozen

from loraplug.config.secrets import REDACTED, is_secret_key, redact


class LoraplugError(Exception):
    """Base of all errors: something failed. Shown as one block: `where: what`, then `next: todo`, without secrets.

    Args:
        what: what was wrong, one sentence without a full stop.
        where: a file, recipe key or row id.
        todo: what the user can do next.
    """

    exit_code = 1
    told = False  # whether observers have been told

    def __init__(self, what: str, *, where: object = None, todo: str | None = None) -> None:
        self.what, self.todo = redact(what), todo and redact(todo)
        self.where = None if where is None else redact(str(where))
        super().__init__(self.what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  next: {self.todo}" if self.todo else head


class InputError(LoraplugError):
    """The user's input is invalid: a recipe, a file, a row, an option."""

    exit_code = 2


@frozen
class Problem:
    """One thing wrong in a recipe, at a dotted path such as `trainer.lora.r`.

    `exit_code` is that of wrong input, or of a failure elsewhere: a hub that does not answer.
    """

    path: str = field(converter=redact)
    message: str = field(converter=redact)
    exit_code: int = field(default=InputError.exit_code, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if is_secret_key(self.path):  # "expected int, got str 'hunter2'"
            object.__setattr__(self, "message", re.sub(r"""'[^']*'|"[^"]*\"""", REDACTED, self.message))

    @classmethod
    def of(cls, error: LoraplugError, path: str) -> Problem:
        """An error as a problem of the recipe's key `path`, which its place need not name again."""
        where = (error.where or "").removeprefix(path).lstrip()
        what = f"{where}: {error.what}" if where else error.what
        return cls(path, what + (f"; {error.todo}" if error.todo else ""), error.exit_code)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
