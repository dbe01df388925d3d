"""Judged answers as plain text: the prompt as it stands, and each answer behind it, without a chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, labelled, preference, row_id
from loraplug_chat.judged import side_columns
from loraplug_chat.overlong import LONGER, cut_behind, too_long
from loraplug_chat.plain import PlainText
from loraplug_chat.report import Report

if TYPE_CHECKING:
    from loraplug_chat.mask import Encoded
    from loraplug_chat.option_types import TextPolicy
    from loraplug_chat.parity_check import Sample

ANSWERS = {"pairs": ("chosen", "rejected"), "labelled": ("completion",)}
_TEMPLATE = 'conversations go through the chat template: [formatter] use = "chat-template"'


@frozen
class JudgedText:
    """Encodes rows of the schemas `pairs` and `labelled` whose prompts and answers are text.

    Attributes:
        schema: one of the two.
        limit: the most tokens that a prompt and an answer may have together.
        policy: what becomes of longer ones; a prompt is never cut.
    """

    schema: str
    plain: PlainText
    limit: int
    policy: TextPolicy

    def lines(
        self,
        row: Mapping[str, Any],
        index: int,
        report: Report,
        samples: list[Sample],  # noqa: ARG002
    ) -> Iterator[dict[str, Any]]:
        """The row in the columns of its schema; nothing where it is left out, which `report` counts."""
        name, counts = row_id(row, index), Counter[str]()
        try:
            label = self._checked(row, index)
            whole = [self.plain.encode(row["prompt"], row[key]) for key in ANSWERS[self.schema]]
            longest = max(whole, key=lambda one: len(one.ids))
            stops = self.policy == "error" and len(longest.ids) > self.limit
            made = [] if stops else [self._fitted(one, counts) for one in whole]
            line = {} if stops else self._line(made)
        except InputError as error:
            report.lose(name, error.what, error.todo)
            return
        if stops:
            raise too_long(longest, name, self.limit)
        for one in made:
            report.take(one)
        report.counts["kept"] -= len(made) - 1
        if counts:
            report.shorten(name, Counter({**counts, "truncated": 1}))
        yield {"row": [name], **line, **({} if label is None else {"label": label})}

    def _checked(self, row: Mapping[str, Any], index: int) -> bool | None:
        """The label, if there is one; InputError where the row is not of the schema, or holds more than texts."""
        read = preference(row, index) if self.schema == "pairs" else labelled(row, index)
        if not all(isinstance(row[key], str) for key in ("prompt", *ANSWERS[self.schema])):
            raise InputError("prompt and answers are not all text", todo=_TEMPLATE)
        for key in ("system", "tools"):
            if row.get(key):
                raise InputError(f"has {key}, for which plain text has no place", todo=_TEMPLATE)
        return getattr(read, "label", None)

    def _fitted(self, row: Encoded, counts: Counter[str]) -> Encoded:
        over = len(row.ids) - self.limit
        if over <= 0:
            return row
        cut = cut_behind(row, self.limit, cut_tokens=over) if self.policy == "truncate-right" else None
        if cut is None or not any(cut.rows[0].trained):
            raise InputError(f"more than {self.limit} tokens, and a prompt is never cut", todo=LONGER)
        counts.update(cut.counts)
        return cut.rows[0]

    def _line(self, rows: list[Encoded]) -> dict[str, Any]:
        firsts = [next((at for at, weight in enumerate(row.trained) if weight), 0) for row in rows]
        prompt = rows[0].ids[: firsts[0]]
        if not prompt:
            raise InputError("the prompt is empty")
        if any(row.ids[:first] != prompt for row, first in zip(rows, firsts, strict=True)):
            raise InputError("the prompt is read otherwise before chosen than before rejected",
                             todo="end the prompt where no control token goes on into an answer")  # fmt: skip
        if len(rows) == 2 and rows[0].ids == rows[1].ids:
            raise InputError("chosen and rejected are the same tokens", todo="leave the row out of the data")
        columns: dict[str, Any] = {"prompt_ids": prompt}
        for key, row in zip(ANSWERS[self.schema], rows, strict=True):
            columns |= side_columns(key, row, len(prompt))
        return columns
