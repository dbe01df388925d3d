"""Measures how far an engine's answers are from the reference, and judges the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from loraplug_export.certificate.engines import Engine, Listed
from loraplug_export.certificate.reference import ANSWER, COMPARED, Asked, Reference

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 4.0
"""A greedy token may differ if the reference's two tokens are no further apart (nats) than this many times the root of
the limit: noise of that divergence changes log-probabilities by about its square root.
"""
_ON, _UNSURE = 0.5, 0.15
_SPOKEN = 2  # conversations that are also answered through the chat interface, for engines that have another one


@frozen
class Difference:
    """The first token at which two greedy answers differ.

    Attributes:
        margin: log-probability of the reference's token minus that of the other, by the reference (nats).
        explained: the margin is small enough for rounding to reverse it.
    """

    position: int
    here: str
    there: str
    margin: float
    explained: bool


@frozen
class PromptReport:
    """The comparison for one prompt.

    Attributes:
        kl: divergence of each answer token, nats; empty if the engine returns no probabilities.
        compared: number of the answer's tokens that are equal.
    """

    prompt: int
    prompt_tokens: int
    prompt_equal: bool | None
    kl: Sequence[float]
    compared: int
    difference: Difference | None = None


@frozen
class EngineReport:
    """The comparison for one engine.

    Attributes:
        limit: of the mean divergence, nats a token.
        adapter: share of the adapter's effect in the reference that is found here: 1 all, 0 none; None if rounding
            hides it.
        ends: whether an answer ends at the end-of-turn token; None if that cannot be tested.
        problems: why it does not agree; empty if it does.
    """

    name: str
    limit: float
    prompts: Sequence[PromptReport] = ()
    adapter: float | None = None
    ends: bool | None = None
    problems: Sequence[str] = field(factory=list)

    @property
    def mean(self) -> float | None:
        """Mean divergence, nats per token."""
        values = [value for one in self.prompts for value in one.kl]
        return sum(values) / len(values) if values else None

    @property
    def largest(self) -> float | None:
        """The largest divergence of a token, nats."""
        return max((value for one in self.prompts for value in one.kl), default=None)


def divergence(logs: Tensor, listed: Listed) -> float:
    """KL(reference || engine) of one token, nats, over the reference's 100 most likely tokens and all others together.

    A token that the engine does not list is one of the others; so this is a lower bound of the full divergence.

    Args:
        logs: the reference's log-probabilities, (vocabulary,).
    """
    top = logs.topk(min(COMPARED, len(logs)))
    pairs = [
        (value, listed[number])
        for number, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        if number in listed
    ]
    found = sum(math.exp(value) * (value - other) for value, other in pairs)
    rest, others = (max(1 - sum(math.exp(pair[side]) for pair in pairs), 1e-9) for side in (0, 1))
    return float(max(found + rest * math.log(rest / others), 0.0))


def adapter_share(asked: Sequence[Asked], listed: Sequence[Sequence[Listed]]) -> tuple[float, float] | None:
    """Share of the adapter's effect that an engine shows, by least squares, and its standard error.

    The effect is the change of log-probabilities from base to base + adapter; tokens are weighted by probability.

    Returns:
        None if the adapter changes nothing.
    """
    change, shown, weights = [], [], []
    for one, rows in zip(asked, listed, strict=True):
        for at, row in enumerate(rows):
            top = one.logs[at].topk(min(COMPARED, one.logs.shape[1])).indices.tolist()
            for number in top:
                if number in row:
                    plain = float(one.base[at, number])
                    change.append(float(one.logs[at, number]) - plain)
                    shown.append(row[number] - plain)
                    weights.append(math.exp(float(one.logs[at, number])))
    size = sum(w * x * x for w, x in zip(weights, change, strict=True))
    if size < 1e-9 * sum(weights):
        return None
    slope = sum(w * x * y for w, x, y in zip(weights, change, shown, strict=True)) / size
    rest = zip(weights, change, shown, strict=True)
    noise = sum((w * x * (y - slope * x)) ** 2 for w, x, y in rest)
    return slope, math.sqrt(noise) / size


def compare(reference: Reference, engine: Engine, limit: float) -> EngineReport:
    """Ask an engine the reference's prompts; failures become problems of its report."""
    problems: list[str] = []
    prompts: list[PromptReport] = []
    probabilities: list[Sequence[Listed]] = []
    ends: bool | None = None
    try:
        for number, one in enumerate(reference.asked, 1):
            report, listed = _prompt(reference, engine, number, one, limit, problems)
            prompts.append(report)
            probabilities.append(listed)
        first = reference.asked[0]
        if reference.end is not None and first.messages is not None:
            ends = engine.ends_at(first.messages, first.ids, reference.end)
    except Exception as error:  # an error of a library, of any kind, means that the artefact does not agree
        what = getattr(error, "what", None) or str(error)
        problems.append(f"fails with {type(error).__name__}: {' '.join(str(what).split())[:300]}")
    if ends is False and reference.end is not None:
        problems.append(
            f"an answer does not end at {reference.shown(reference.end)}, the end-of-turn token of training"
        )
    asked = reference.asked[: len(probabilities)]
    told = adapter_share(asked, probabilities) if any(probabilities) else (1.0, math.inf)
    share: float | None = None
    if told is None:
        problems.append("the adapter has no effect: base + adapter gives the same answers as the base")
    elif told[1] < _UNSURE:
        share = told[0]
        if share < _ON:
            problems.append(f"the adapter is not applied: only {share:.0%} of its effect is found")
    whole = EngineReport(engine.name, limit, prompts, share, ends, problems)
    if whole.mean is not None and not whole.mean <= limit:
        problems.append(_divergent(reference, whole))
    return whole


def _divergent(reference: Reference, report: EngineReport) -> str:
    worst = max((one for one in report.prompts if one.kl), key=lambda one: max(one.kl))
    at = max(range(len(worst.kl)), key=lambda position: worst.kl[position])
    token = reference.shown(reference.asked[worst.prompt - 1].answer[at])
    return (
        f"next-token probabilities differ from base + adapter's by a KL divergence of {report.mean:.2g} nats per token "
        f"(limit {report.limit:g}), most at prompt {worst.prompt}, "
        f"token {at + 1}, {token}: {worst.kl[at]:.2g}"
    )


def _prompt(
    reference: Reference, engine: Engine, number: int, asked: Asked, limit: float, problems: list[str]
) -> tuple[PromptReport, Sequence[Listed]]:
    equal: bool | None = None
    if asked.messages is not None and (got := engine.prompt(asked.messages)) is not None:
        equal = list(got) == list(asked.ids)
        if not equal:
            problems.append(f"prompt {number}: {_other_prompt(reference, asked.ids, got)}")
    listed: Sequence[Listed] | None = engine.continued(asked.ids, asked.answer)
    spoken = listed is None or number <= _SPOKEN  # its chat must give the same text, where its token ids are known
    chat = engine.chat(asked.messages, ANSWER) if asked.messages is not None and spoken else None
    if listed is None:
        listed = chat.listed if chat is not None else ()
        answer = _likeliest(listed)
        listed = _while_equal(asked.answer, answer, listed)
    else:
        answer = _likeliest(listed)
    if chat is not None:
        if chat.prompt_tokens is not None and equal is not False:
            equal = chat.prompt_tokens == len(asked.ids)
            if not equal:
                more = chat.prompt_tokens - len(asked.ids)
                what = f"has {chat.prompt_tokens} tokens in this engine and {len(asked.ids)} in training{_first(more)}"
                problems.append(f"prompt {number}: {what}")
        if equal and answer == list(asked.answer) and not _says(reference, answer, chat.text):
            problems.append(
                f"prompt {number}: its chat answers {chat.text[:60]!r}, which is not the text of its token ids"
            )
    kl = [divergence(asked.logs[at], row) for at, row in enumerate(listed)]
    difference = None
    if answer:
        difference = _difference(reference, asked, answer, limit)
        if difference is not None and not difference.explained:
            problems.append(
                f"prompt {number}, token {difference.position}: has {difference.there} in place of {difference.here}, "
                f"to which base + adapter gives {difference.margin:.2g} nats more log-probability"
            )
    compared = 0 if not answer else len(asked.answer) if difference is None else difference.position - 1
    return PromptReport(number, len(asked.ids), equal, kl, compared, difference), listed


def _first(more: int) -> str:
    return {
        1: ": the first token is doubled, or one was added that training did not have",
        -1: ": the first token is missing",
    }.get(more, "")


def _other_prompt(reference: Reference, wanted: Sequence[int], got: Sequence[int]) -> str:
    if list(got[1:]) == list(wanted):
        twice = "twice" if got[0] == wanted[0] else "that training did not have"
        return f"begins with {reference.shown(got[0])} {twice}"
    if list(wanted[1:]) == list(got):
        return f"lacks its first token {reference.shown(wanted[0])}"
    shorter = min(len(wanted), len(got))
    at = next((at for at in range(shorter) if wanted[at] != got[at]), shorter)
    here = reference.shown(wanted[at]) if at < len(wanted) else "its end"
    there = reference.shown(got[at]) if at < len(got) else "its end"
    return f"token {at + 1} is {there} in this engine and {here} in training"


def _likeliest(listed: Sequence[Listed]) -> list[int]:
    return [max(row, key=lambda key: row[key]) if row else -1 for row in listed]


def _while_equal(wanted: Sequence[int], got: Sequence[int], listed: Sequence[Listed]) -> Sequence[Listed]:
    """The engine's probabilities up to the first token that differs."""
    pairs = zip(wanted, got, strict=False)
    same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(got)))
    return listed[: min(same + 1, len(wanted))]


def _says(reference: Reference, answer: Sequence[int], text: str) -> bool:
    """Whether a text decodes from these tokens; assumed if they contain partial characters, which decoders render
    differently.
    """
    said = str(reference.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
    return "\ufffd" in said or text.strip() == said


def _difference(reference: Reference, asked: Asked, got: Sequence[int], limit: float) -> Difference | None:
    """The first position where the answers differ; an end token that the engine does not return does not count."""
    for at, wanted in enumerate(asked.answer):
        if at >= len(got):
            if wanted == reference.end or wanted == reference.tokenizer.eos_token_id:
                return None
            return Difference(at + 1, reference.shown(wanted), "its end", math.inf, False)
        if got[at] != wanted:
            known = 0 <= got[at] < asked.logs.shape[1]
            margin = float(asked.logs[at, wanted] - asked.logs[at, got[at]]) if known else math.inf
            there = reference.shown(got[at]) if known else "another token"
            explained = margin <= MARGIN * math.sqrt(limit)
            return Difference(at + 1, reference.shown(wanted), there, margin, explained)
    return None
