"""Continuous batching: answers join and leave at any time, and those in progress are computed together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from attrs import define, field, frozen

from loraplug_serve.sampling.compat import cache_of, with_cache
from loraplug_serve.sampling.drawing import Drawing, choose, stream
from loraplug_serve.sampling.interrupt import interrupt_after
from loraplug_serve.sampling.prefixes import Prefixes
from loraplug_serve.sampling.sampler import ONE_AT_A_TIME, context_of


@frozen
class Token:
    """One token of an answer.

    Attributes:
        id: its id.
        logprob: in nats, by the model at temperature 1.
        top: the likeliest ids in its place and their log-probabilities, as many as were asked for.
        finish: "stop" if it ends the answer and is not part of it; "length" if it is the last one allowed; else empty.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    finish: str = ""


@define(eq=False)
class Answer:
    """An answer in progress; `finish` is as in `Token`."""

    prompt: Sequence[int]
    sample: int
    drawing: Drawing
    most: int
    top: int
    key: np.ndarray
    ids: list[int] = field(factory=list)
    finish: str = ""


@define(eq=False)
class _Part:
    """Answers that are computed together, and their logits."""

    step: Any
    answers: list[Answer]
    logits: Any = None


@define
class Running:
    """The answers in progress of one model, with one adapter or none.

    An answer's random numbers follow from seed, prompt and sample number, as in `Sampler`. If the model's attention
    cannot be shared (see `shared`), the answers to each prompt are computed separately.

    Attributes:
        model: as in `Sampler`.
        stops: ids of tokens that end an answer.
        adapter_context: entered while the model computes.
        shared: whether answers to several prompts are computed together; None until this is known.
        prefixes: a prefix cache; None: without.
    """

    model: Any
    stops: Collection[int]
    adapter_context: Callable[[], AbstractContextManager[Any]] = nullcontext
    shared: bool | None = None
    prefixes: Prefixes | None = None
    _parts: list[_Part] = field(factory=list, init=False)
    _new: list[_Part] = field(factory=list, init=False)

    def __len__(self) -> int:
        """Number of answers in progress."""
        return sum(len(part.answers) for part in (*self._parts, *self._new))

    def join(self, ids: Sequence[int], drawing: Drawing, samples: Sequence[int] = (0,), top: int = 0) -> list[Answer]:
        """Compute a prompt; its answers get their first tokens at the next `step`.

        Args:
            ids: the prompt, shorter than the model's context.
            samples: the numbers of the answers.
            top: number of most probable tokens to report at each position.
        """
        import torch

        from loraplug_serve.sampling.steps import Alone, Together

        ids = list(ids)
        most = min(drawing.max_tokens, context_of(self.model) - len(ids))
        made = [Answer(ids, at, drawing, most, top, stream(drawing.seed, ids, at)) for at in samples]
        with ONE_AT_A_TIME, torch.inference_mode(), self.adapter_context():
            cache, logits = self._read(ids)
            step: Any = None
            if self.shared is not False:
                step = Together.of(self.model, [cache], [len(made)], [len(ids)])
                if self.shared is None:
                    self.shared = step is not None and step.proved([logits])
            if not self.shared or step is None:
                step = Alone(self.model, cache, ids, len(made))
        self._new.append(_Part(step, made, logits.expand(len(made), -1)))
        return made

    def step(self) -> list[tuple[Answer, Token]]:
        """The next token of each answer; answers that it ends are removed.

        An interrupt (SIGINT) takes effect when all of them have it.
        """
        import torch

        found: list[tuple[Answer, Token]] = []
        with ONE_AT_A_TIME, interrupt_after(), torch.inference_mode(), self.adapter_context():
            for part in self._parts:
                last = torch.tensor([one.ids[-1] for one in part.answers], device=self.model.device)
                part.logits = part.step.next(last)
            for part in self._new:
                self._take_in(part)
            self._new = []
            for part in self._parts:
                found += self._choose(part)
                self._drop(part)
        return found

    def leave(self, answers: Collection[Answer]) -> None:
        """Abandon answers."""
        import torch

        gone = set(map(id, answers))
        for part in (*self._parts, *self._new):
            for one in part.answers:
                if id(one) in gone:
                    one.finish = "left"
        with ONE_AT_A_TIME, interrupt_after(), torch.inference_mode():
            for part in (*self._parts, *self._new):
                self._drop(part)

    def clear(self) -> None:
        """Abandon all answers."""
        self._parts, self._new = [], []

    def _take_in(self, part: _Part) -> None:
        import torch

        if self.shared and self._parts:
            mine = self._parts[0]
            mine.step.add(part.step)
            mine.answers += part.answers
            mine.logits = torch.cat([mine.logits, part.logits])
        else:
            self._parts.append(part)

    def _read(self, ids: list[int]) -> tuple[Any, Any]:
        """A prompt's cache (None if the model has none), and the logits after its last token, shape (1, vocabulary)."""
        import torch

        done, cache = (0, None) if self.prefixes is None else self.prefixes.cache(ids)
        given = torch.tensor([ids[done:]], device=self.model.device)
        known = {"use_cache": True, "logits_to_keep": 1} if cache is None else with_cache(self.model, cache)
        out = self.model(input_ids=given, **known)
        return cache_of(out), out.logits[:, -1]

    def _choose(self, part: _Part) -> list[tuple[Answer, Token]]:
        import torch

        alike: dict[tuple[float, ...], list[int]] = {}
        for at, one in enumerate(part.answers):
            how = one.drawing
            same = (how.temperature, how.top_p, how.top_k, how.min_p, how.repetition_penalty)
            alike.setdefault(same, []).append(at)
        found: dict[int, Token] = {}
        for rows in alike.values():
            mine = [part.answers[at] for at in rows]
            logits = part.logits[torch.tensor(rows, device=part.logits.device)].float()
            tokens, logprobs, _ = choose(
                logits, [one.key for one in mine], [len(one.ids) for one in mine], mine[0].drawing,
                [[*one.prompt, *one.ids] for one in mine] if mine[0].drawing.repetition_penalty != 1 else (),
            )  # fmt: skip
            tops = _tops(logits, max(one.top for one in mine))
            for at, one, token, logprob, top in zip(
                rows, mine, tokens.tolist(), logprobs.tolist(), tops or [[] for _ in mine], strict=True
            ):
                found[at] = self._said(one, token, logprob, top[: one.top])
        return [(part.answers[at], found[at]) for at in range(len(part.answers))]

    def _said(self, answer: Answer, token: int, logprob: float, top: Any) -> Token:
        if token in self.stops:
            answer.finish = "stop"
        else:
            answer.ids.append(token)
            if len(answer.ids) >= answer.most:
                answer.finish = "length"
        return Token(token, logprob, tuple(top), answer.finish)

    def _drop(self, part: _Part) -> None:
        """Remove finished answers."""
        import torch

        left = [at for at, one in enumerate(part.answers) if not one.finish]
        if len(left) == len(part.answers):
            return
        self._remember(part)
        part.answers = [part.answers[at] for at in left]
        if left:
            rows = torch.tensor(left, device=self.model.device)
            part.step.keep(rows)
            part.logits = None if part.logits is None else part.logits[rows]
        else:
            self._parts = [one for one in self._parts if one is not part]
            self._new = [one for one in self._new if one is not part]

    def _remember(self, part: _Part) -> None:
        """Put the first answer to each prompt into the prefix cache when it ends."""
        if self.prefixes is None:
            return
        for at, one in enumerate(part.answers):
            if one.finish and one.sample == 0 and (state := part.step.states(at)):
                self.prefixes.keep([*one.prompt, *one.ids][: state[0][0].shape[1]], state)


def _tops(logits: Any, count: int) -> list[list[tuple[int, float]]]:
    if not count:
        return []
    best = logits.log_softmax(-1).topk(min(count, logits.shape[-1]))
    return [
        list(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
