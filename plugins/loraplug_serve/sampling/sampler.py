"""The sampler: answers to prompts, generated in batches, token by token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from attrs import define, field, frozen

from loraplug_serve.sampling.compat import cache_of
from loraplug_serve.sampling.drawing import Drawing, choose, stream

_ENDLESS = 1 << 30
_DENSE = 0.75  # a batch with fewer of its answers unended is made smaller
ONE_AT_A_TIME = threading.RLock()
"""Only one caller at a time may replace a model's attention by the shared one."""


@frozen
class Prompt:
    """A prompt's token ids, and the numbers of the answers wanted: 0 to 7 and 8 to 15 are sixteen different ones."""

    ids: Sequence[int]
    samples: Sequence[int] = (0,)


@frozen
class Completion:
    """One answer.

    Attributes:
        prompt: index of its prompt.
        sample: its number.
        ids: what was said, without the token that ended it.
        logprobs: of each token of `ids` and, if there was one, of the token that ended it, in nats, by the model at
            temperature 1.
        margins: how far each of them was from being another token, see `choose`.
        finish: "stop"; "length"; or "prompt-too-long", where the model reads no more.
        seconds: its share of what the answers made with it took.
        stop: the token that ended it, if one did.
    """

    prompt: int
    sample: int
    ids: list[int]
    logprobs: list[float]
    margins: list[float]
    finish: str
    seconds: float = 0.0
    stop: int | None = None


@define
class _Answer:
    prompt: int
    sample: int
    start: int
    most: int
    key: np.ndarray
    ids: list[int] = field(factory=list)
    logprobs: list[float] = field(factory=list)
    margins: list[float] = field(factory=list)
    finish: str = ""
    stop: int | None = None

    def take(self, token: int, logprob: float, margin: float, stops: Collection[int]) -> None:
        self.logprobs.append(logprob)
        self.margins.append(margin)
        if token in stops:
            self.finish, self.stop = "stop", token
            return
        self.ids.append(token)
        if len(self.ids) == self.most:
            self.finish = "length"

    def done(self, seconds: float) -> Completion:
        return Completion(
            self.prompt, self.sample, self.ids, self.logprobs, self.margins, self.finish, seconds, self.stop
        )


@define
class Sampler:
    """Answers of one model.

    A prompt is computed once for all its answers. Answers to several prompts are generated together if the model's
    attention allows it (see `shared`), which the first of them verifies; otherwise prompt by prompt.
    The random numbers of an answer follow from seed, prompt and its own number, whatever is made beside it: other
    batches give other answers only where rounding decides, which `Completion.margins` tells.

    Attributes:
        model: a causal language model of transformers, or a `PeftModel` of one, in evaluation mode.
        stops: ids of tokens that end an answer.
        batch: answers made at once.
        adapter_context: entered during each forward pass, for instance to disable the adapter.
        shared: whether answers to several prompts are made together; None until it is known.
    """

    model: Any
    stops: Collection[int]
    batch: int = 16
    adapter_context: Callable[[], AbstractContextManager[Any]] = nullcontext
    shared: bool | None = None

    @property
    def context(self) -> int:
        """The model's context, in tokens."""
        return context_of(self.model)

    def completions(
        self, prompts: Sequence[Prompt], drawing: Drawing, done: Collection[tuple[int, int]] = ()
    ) -> Iterator[Completion]:
        """Yield every requested answer when it is complete, short prompts first.

        Args:
            done: (place among the prompts, number of the sample) of answers that are not wanted again. What is made
                together is the same whatever is done, so that what was interrupted comes to the same end bit for bit.
        """
        waiting = []
        for at, prompt in enumerate(prompts):
            for sample in prompt.samples:
                room = self.context - len(prompt.ids)
                if room <= 0:
                    if (at, sample) not in done:
                        yield Completion(at, sample, [], [], [], "prompt-too-long")
                else:
                    key = stream(drawing.seed, prompt.ids, sample)
                    waiting.append(_Answer(at, sample, len(prompt.ids), min(drawing.max_tokens, room), key))
        waiting.sort(key=lambda one: (one.start, one.prompt))
        while waiting:
            group = waiting[: max(1, self.batch)]
            if self.shared is False:
                group = [one for one in group if one.prompt == group[0].prompt]
            wanted = [one for one in group if (one.prompt, one.sample) not in done]
            begun = time.perf_counter()
            with ONE_AT_A_TIME:
                if wanted and not self._make(group, prompts, drawing):  # not together: again, prompt by prompt
                    self.shared = False
                    continue
            waiting = waiting[len(group) :]
            share = (time.perf_counter() - begun) / len(group)
            yield from (one.done(share) for one in wanted)

    def _make(self, group: list[_Answer], prompts: Sequence[Prompt], drawing: Drawing) -> bool:
        """Generate the answers of a group; False, without any, if several prompts cannot be handled together."""
        import torch

        from loraplug_serve.sampling.steps import Alone, Together

        own = list(dict.fromkeys(one.prompt for one in group))
        with torch.inference_mode(), self.adapter_context():
            read = [self._read(prompts[at].ids) for at in own]
            counts = [sum(one.prompt == at for one in group) for at in own]
            if self.shared is False:
                step: Alone | Together = Alone(self.model, read[0][0], list(prompts[own[0]].ids), counts[0])
            else:
                shared = Together.of(
                    self.model, [cache for cache, _ in read], counts, [len(prompts[at].ids) for at in own]
                )
                if shared is None or (self.shared is None and not shared.proved([logits for _, logits in read])):
                    return False
                self.shared, step = True, shared
            logits = torch.cat([one.expand(count, -1) for (_, one), count in zip(read, counts, strict=True)])
            self._speak(group, logits, step, drawing)
        return True

    def _read(self, ids: Sequence[int]) -> tuple[Any, Any]:
        """A prompt's cache (None if the model has none), and the logits after its last token, shape (1, vocabulary)."""
        import torch

        given = torch.tensor([list(ids)], device=self.model.device)
        out = self.model(input_ids=given, use_cache=True, logits_to_keep=1)
        return cache_of(out), out.logits[:, -1]

    def _speak(self, group: list[_Answer], logits: Any, step: Any, drawing: Drawing) -> None:
        import torch

        rows, position = list(group), 0
        while True:
            tokens, logprobs, margins = choose(logits, [one.key for one in rows], position, drawing)
            said = zip(rows, tokens.tolist(), logprobs.tolist(), margins.tolist(), strict=True)
            for one, token, logprob, margin in said:
                if not one.finish:
                    one.take(token, logprob, margin, self.stops)
            left = [at for at, one in enumerate(rows) if not one.finish]
            if not left:
                return
            if len(left) <= _DENSE * len(rows):
                step.keep(torch.tensor(left, device=tokens.device))
                rows, tokens = [rows[at] for at in left], tokens[left]
            logits = step.next(tokens)
            position += 1


def context_of(model: Any) -> int:
    """A model's context, in tokens."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or _ENDLESS
