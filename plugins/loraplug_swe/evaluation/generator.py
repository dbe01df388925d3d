"""Generation: a model answers many prompts, encoded as in training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, fields_dict, frozen

from loraplug import Formatter, InputError, ModelReference, Run
from loraplug_serve.sampling import Drawing, Prompt, Sampler

if TYPE_CHECKING:
    from datasets import Dataset

NOT_TRAINED = -100
_ENDLESS = 1 << 30


@frozen
class Sampling:
    """Sampling parameters.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling: the most likely tokens with this total probability.
        max_tokens: maximum number of new tokens.
        samples: answers per prompt.
        batch: answers per batch.
        seed: makes answers reproducible, independent of their order.
        beams: width of the beam search; the most likely usable answer is returned.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    samples: int = 1
    batch: int = 1
    seed: int = 42
    beams: int = 1


@frozen
class Drawn:
    """The tokens of an answer.

    Attributes:
        prompt_ids: the prompt.
        completion_ids: the completion, with the token that ended it, if any.
        log_probs: of each of `completion_ids`, in nats, by the model at temperature 1.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    log_probs: Sequence[float]


@frozen
class Completion:
    """One answer.

    Attributes:
        finish: "stop", "length" or "prompt-too-long".
        seconds: its share of the batch's duration.
        drawn: its tokens; None after beam search, or if nothing was generated.
    """

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    seconds: float
    drawn: Drawn | None = None


@frozen
class Prompts:
    """Token ids of prompts by task id, and the ids of tokens that end an answer."""

    ids: Mapping[str, Sequence[int]]
    stops: frozenset[int]


def prompts(rows: Dataset, formatter: Formatter, model: Any, tokenizer: Any, run: Run) -> Prompts:
    """Everything before the last trained turn of each row, as the formatter encodes it for training.

    Prompts are thus the same as in training. The trained control tokens after an answer are the stop tokens.

    Args:
        rows: of any shape; their answers are ignored.
    """
    wanted = {"packing": False, "max_length": _ENDLESS, "train_on": "assistant"}
    made: Any = formatter  # an attrs class by its kind's contract
    own = fields_dict(type(made))
    formatter = evolve(made, **{name: value for name, value in wanted.items() if name in own})
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    stops = {tokenizer.eos_token_id, *_several(model.generation_config.eos_token_id)} - {None}
    found: dict[str, Sequence[int]] = {}
    for row in formatter.encode(rows=rows, tokenizer=tokenizer, run=run, schema="tokens").dataset:
        labels = row["labels"]
        last = len(labels) - 1
        while last > 0 and labels[last] == NOT_TRAINED:
            last -= 1
        first = last
        while first > 0 and labels[first - 1] != NOT_TRAINED:
            first -= 1
        stops |= control & {labels[last]} | control & {labels[max(first, last - 1)]}
        found[str(row["row"][0])] = row["input_ids"][:first]
    return Prompts(found, frozenset(stops))


class Answering(Protocol):
    """An answer generator: a model in memory, or on a server."""

    def prompts(self, rows: Dataset, formatter: Formatter, run: Run, /) -> Any:
        """The prompts for `answers`."""

    def answers(
        self, asked: Any, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling,
        usable: Callable[[str, str], bool] = ..., /,
    ) -> Iterator[tuple[str, int, Completion]]:  # fmt: skip
        """See `AnswerGenerator.answers`."""


@frozen
class AnswerGenerator:
    """A loaded model. `around` is a context for generation, for example without the adapter."""

    model: Any
    tokenizer: Any
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def context(self) -> int:
        """Maximum context length in tokens."""
        return Sampler(self.model, ()).context

    def prompts(self, rows: Dataset, formatter: Formatter, run: Run) -> Prompts:
        """See the function `prompts`."""
        return prompts(rows, formatter, self.model, self.tokenizer, run)

    def answers(
        self,
        asked: Prompts,
        names: Sequence[str],
        done: set[tuple[str, int]],
        sampling: Sampling,
        usable: Callable[[str, str], bool] = lambda name, text: True,  # noqa: ARG005 - names are part of the type
    ) -> Iterator[tuple[str, int, Completion]]:
        """Answers to the prompts called `names`, each with its sample's number, but those that are `done`.

        The random state depends on the prompt and the sample's number only, so a resumed evaluation gives the same
        answers. With `sampling.beams`, `usable` decides from a prompt's name and an answer whether the answer counts.
        """
        if sampling.beams > 1:
            yield from self._searched(asked, names, done, sampling, usable)
            return
        sampler = Sampler(self.model, asked.stops, sampling.batch, self.around)
        wanted = [Prompt(asked.ids[name], range(sampling.samples)) for name in names]
        known = {(at, sample) for at, name in enumerate(names) for sample in range(sampling.samples)
                 if (name, sample) in done}  # fmt: skip
        drawing = Drawing(sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed)
        for found in sampler.completions(wanted, drawing, known):
            name, prompt = names[found.prompt], wanted[found.prompt].ids
            if found.finish == "prompt-too-long":
                yield name, found.sample, Completion("", found.finish, 0, 0, 0.0)
                continue
            text = self._decoded(prompt, found.ids)
            ended = [] if found.stop is None else [found.stop]
            drawn = Drawn(list(prompt), [*found.ids, *ended], found.logprobs)
            yield name, found.sample, Completion(text, found.finish, len(prompt), len(found.ids), found.seconds, drawn)

    def _searched(
        self, asked: Prompts, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling,
        usable: Callable[[str, str], bool],
    ) -> Iterator[tuple[str, int, Completion]]:  # fmt: skip
        """Answers by beam search, a batch at a time; batches are the same whatever is done."""
        long = [name for name in names if len(asked.ids[name]) >= self.context]
        yield from ((name, 0, Completion("", "prompt-too-long", 0, 0, 0.0)) for name in long if (name, 0) not in done)
        order = sorted(set(names) - set(long), key=lambda name: (len(asked.ids[name]), name))
        for at in range(0, len(order), sampling.batch):
            batch = order[at : at + sampling.batch]
            if {(name, 0) for name in batch} <= done:
                continue
            made = self._batch([asked.ids[name] for name in batch], asked.stops, sampling)
            for name, found in zip(batch, made, strict=True):
                if (name, 0) not in done:
                    yield name, 0, next((said for said in found if usable(name, said.text)), found[0])

    def _batch(
        self, prompts: Sequence[Sequence[int]], stops: frozenset[int], sampling: Sampling
    ) -> list[list[Completion]]:
        """For each prompt its answers, the likeliest first."""
        import torch

        begun = time.perf_counter()
        longest = max(map(len, prompts))
        pad = next(iter(sorted(stops)), 0)
        ids = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=self.model.device)
        with torch.inference_mode(), self.around():
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=_plain(sampling, stops, pad),
                max_new_tokens=max(1, min(sampling.max_tokens, self.context - longest)),
            )  # fmt: skip
        taken = (time.perf_counter() - begun) / len(prompts)
        made = [out[at : at + sampling.beams, longest:].tolist() for at in range(0, len(out), sampling.beams)]
        return [
            [self._said(list(one), new, stops, taken) for new in found]
            for one, found in zip(prompts, made, strict=True)
        ]

    def _said(self, prompt: Sequence[int], new: list[int], stops: frozenset[int], seconds: float) -> Completion:
        end = next((at for at, token in enumerate(new) if token in stops), None)
        kept = new if end is None else new[:end]
        return Completion(
            self._decoded(prompt, kept), "length" if end is None else "stop", len(prompt), len(kept), seconds
        )

    def _decoded(self, prompt: Sequence[int], said: Sequence[int]) -> str:
        """The text of an answer: behind a few tokens of its prompt, as decoders treat the first of a text apart."""
        before = list(prompt[-4:])
        return self._text([*before, *said])[len(self._text(before)) :]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _plain(sampling: Sampling, stops: frozenset[int], pad: int) -> Any:
    """Nothing but what was asked for: no penalties or cuts of the model's own generation config."""
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, repetition_penalty=1.0, no_repeat_ngram_size=0, num_beams=sampling.beams,
                            num_return_sequences=sampling.beams, length_penalty=0.0, use_cache=True,
                            eos_token_id=sorted(stops), pad_token_id=pad)  # fmt: skip


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def load(opened: ModelReference, run: Run, where: object, both: bool) -> list[AnswerGenerator]:
    """The model, and with `both` also its base: the same model in memory with the adapter disabled.

    Raises:
        InputError: as `ModelReference.load`, or there is no chat template.
    """
    model, tokenizer = opened.load(run, where)
    if not tokenizer.chat_template:
        raise InputError("has no chat template", where=where, todo="give a model that was trained on chats")
    bare = [AnswerGenerator(model, tokenizer, model.disable_adapter)] if both and opened.adapter is not None else []
    return [AnswerGenerator(model, tokenizer), *bare]
