"""`redact`: removes secrets and e-mail addresses from rows."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attrs import frozen

from loraplug import Doc, InputError, Run, Transform, iter_rows, kinds_of_secrets, own_secrets, redact
from loraplug_data.caching import Fallen, changed, texts, without_fallen
from loraplug_data.rewriting import rewritten

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_EMAIL = re.compile(
    r"(?<![\w.+/-])(?!git@)[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w(])"
)
"""No `git@host`, no decorator behind an operand, no call such as `a@b.run(`."""
_PUT = "REDACTED"


@frozen
class Redact(Transform):
    """Removes secrets (those that `run` warns of) and e-mail addresses from the texts of rows."""

    name = "redact"
    secrets: Annotated[bool, Doc("remove keys, tokens and passwords, recognised by their format")] = True
    emails: Annotated[bool, Doc("e-mail addresses")] = True
    action: Annotated[
        Literal["replace", "drop"], Doc("replace: REDACTED takes their place; drop: the row is left out")
    ] = "replace"
    report: Annotated[Path | None, Doc("a .jsonl file that lists every dropped row")] = None

    def __attrs_post_init__(self) -> None:
        if not (self.secrets or self.emails):
            raise InputError("has nothing to do: both secrets and emails are false")
        if self.report is not None and self.action == "replace":
            raise InputError('report lists dropped rows, but action is "replace"')

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows without them; in how many there was one is told by kind."""
        own = own_secrets()
        if self.action == "drop":
            return without_fallen(rows, self, run, lambda: self._found(rows, own), self.report, _beside(own))
        made, counts = changed(
            rows, self, run, lambda table, counts: self._clean(table, counts, rows, own), beside=_beside(own)
        )
        for kind, count in sorted(counts.items()):
            run.say(f"redact: {kind} removed from {count} rows")
        return made

    def _kinds(self, text: str, own: list[str]) -> set[str]:
        found = kinds_of_secrets(text, own) if self.secrets else set()
        return found | ({"e-mail address"} if self.emails and "@" in text and _EMAIL.search(text) else set())

    def _found(self, rows: Dataset, own: list[str]) -> Iterator[Fallen]:
        for index, row in enumerate(iter_rows(rows)):
            if found := {kind for text in texts(row) for kind in self._kinds(text, own)}:
                yield Fallen(index, f"holds {', '.join(sorted(found))}")

    def _clean(self, table: pa.Table, counts: Counter[str], rows: Dataset, own: list[str]) -> pa.Table:
        kinds: dict[int, set[str]] = {}

        def change(text: str, row: int) -> str:
            if not (found := self._kinds(text, own)):
                return text
            kinds.setdefault(row, set()).update(found)
            text = redact(text, own, row=True) if self.secrets else text
            return _EMAIL.sub(_PUT, text) if self.emails else text

        for place, name in enumerate(table.column_names):
            column = table.column(name).combine_chunks()
            table = table.set_column(place, table.schema.field(name), rewritten(column, rows.features[name], change))
        counts.update(kind for found in kinds.values() for kind in found)
        return table


def _beside(own: list[str]) -> str:
    """The environment's own secrets, by a hash: others would take out other texts."""
    return hashlib.sha256("\0".join(sorted(own)).encode("utf-8", "surrogatepass")).hexdigest()
