"""Rollouts: answers that a model gave, with the token ids they were drawn as; nothing is tokenised again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, row_id
from loraplug_chat.overlong import LONGER, too_long

if TYPE_CHECKING:
    from loraplug_chat.option_types import Policy
    from loraplug_chat.parity_check import Sample
    from loraplug_chat.report import Report

_IDS = ("prompt_ids", "completion_ids")


@frozen
class Rollouts:
    """Passes rows of the schema `rollouts` on as they are; all tokens of a completion are trained.

    Attributes:
        limit: the most tokens that prompt and completion may have together.
        policy: whether a longer one stops the run or is left out. It is never cut, as the log-probabilities of its
            tokens are those behind its whole prompt.
    """

    limit: int
    policy: Policy

    def lines(
        self,
        row: Mapping[str, Any],
        index: int,
        report: Report,
        samples: list[Sample],  # noqa: ARG002 - nothing was rendered that could be proved
    ) -> Iterator[dict[str, Any]]:
        """The row in the columns of its schema; nothing where it is left out, which `report` counts."""
        name = row_id(row, index)
        try:
            made = _checked(row)
        except InputError as error:
            report.lose(name, error.what, error.todo)
            return
        tokens = sum(len(made[side]) for side in _IDS)
        if tokens > self.limit:
            if self.policy == "error":
                raise too_long(None, name, self.limit)
            report.lose(name, f"more than {self.limit} tokens, and a rollout is never cut", LONGER)
            return
        report.counts["kept"] += 1
        report.counts["tokens"] += tokens
        report.counts["trained"] += len(made["completion_ids"])
        yield {"row": [name], **made}


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row.

    Raises:
        InputError: one of them is not what it is said to be.
    """
    todo = "write token ids, numbers and a name, as they were drawn from the model"
    for side in _IDS:
        if not isinstance(row[side], list) or not row[side] or not all(_is_id(one) for one in row[side]):
            raise InputError(f"{side} is no list of token ids", todo=todo)
    known = row["old_log_probs"]
    if not isinstance(known, list) or len(known) != len(row["completion_ids"]) or not all(map(_is_number, known)):
        raise InputError("old_log_probs is no list of a number for each token of the completion", todo=todo)
    if not _is_number(row["advantage"]) or not isinstance(row["group"], str):
        what = "group is no name" if _is_number(row["advantage"]) else "advantage is no number"
        raise InputError(what, todo=todo)
    return {name: row[name] for name in (*_IDS, "old_log_probs", "advantage", "group")}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
