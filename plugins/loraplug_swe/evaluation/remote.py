"""A model on a server that answers many prompts through the chat API."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import Formatter, InputError, Run, conversation, shape_of
from loraplug_serve.remote import RefusedError, RemoteModel
from loraplug_serve.remote import Sampling as Drawn
from loraplug_swe.evaluation.generator import Completion, Sampling

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_swe.evaluation.plan import EvalOptions

_TODO = "leave it out, or give the model itself in place of the URL"


@frozen
class Conversations:
    """Messages before the answer, by task id."""

    messages: Mapping[str, Sequence[Mapping[str, Any]]]


@frozen
class ServerGenerator:
    """A model on a server; like `AnswerGenerator`, but the server applies the chat template."""

    model: RemoteModel

    @classmethod
    def at(cls, url: str) -> ServerGenerator:
        """The model of a URL.

        Raises:
            InputError: as `RemoteModel.at`.
        """
        return cls(RemoteModel.at(url))

    def prompts(self, rows: Dataset, formatter: Formatter, run: Run) -> Conversations:  # noqa: ARG002
        """The messages before the last turn of each row.

        Raises:
            InputError: the rows do not use a chat template.
        """
        if formatter.name != "chat-template":
            raise InputError(f"a server takes conversations, and the recipe formats rows with {formatter.name}",
                             where="formatter", todo=_TODO)  # fmt: skip
        shape = shape_of(rows.column_names)
        found = {}
        for at, row in enumerate(rows):
            told = conversation(row, shape, at)
            if told.tools:
                raise InputError(f"row {told.id} has tools, and an answer that calls a tool is not text", where="tools",
                                 todo=_TODO)  # fmt: skip
            found[str(row["task_id"])] = [_message(one) for one in told.messages[:-1]]
        return Conversations(found)

    def answers(
        self, asked: Conversations, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling,
        _usable: Callable[[str, str], bool] | None = None,
    ) -> Iterator[tuple[str, int, Completion]]:  # fmt: skip
        """As `AnswerGenerator.answers`, `sampling.batch` at a time; there is no beam search, so `usable` is ignored.

        Whether the same seed gives the same answers depends on the server.

        Raises:
            LoraplugError: the server breaks off.
        """
        wanted = [(name, sample) for name in names for sample in range(sampling.samples) if (name, sample) not in done]
        with ThreadPoolExecutor(sampling.batch) as pool:
            try:
                made = pool.map(lambda one: self._answer(asked, one[0], one[1], sampling), wanted)
                for (name, sample), said in zip(wanted, made, strict=True):
                    yield name, sample, said
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, asked: Conversations, name: str, sample: int, sampling: Sampling) -> Completion:
        drawn = Drawn(sampling.temperature, sampling.top_p, sampling.max_tokens, _seed(sampling.seed, name, sample))
        try:
            made = self.model.whole(asked.messages[name], drawn)
        except RefusedError as refusal:
            if not refusal.too_long:
                raise
            return Completion("", "prompt-too-long", 0, 0, 0.0)
        return Completion(made.text, made.finish, made.prompt_tokens, made.tokens, made.seconds)


def _message(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": one["role"], "content": one["content"]}


def _seed(seed: int, name: str, sample: int) -> int:
    """One for each answer, whatever else is asked."""
    told = hashlib.blake2b(f"{seed} {sample} {name}".encode(), digest_size=4).digest()
    return int.from_bytes(told, "big") % 2**31


def server_generator(wanted: EvalOptions, url: str) -> ServerGenerator:
    """The model at a URL.

    Raises:
        InputError: the server is not there or has no such model; the options need features that servers do not have.
    """
    if wanted.beams > 1:
        raise InputError("servers do not offer beam search", where="--beams", todo=_TODO)
    if wanted.harness is not None:
        raise InputError("lm-eval has its own client for servers; this runs it on models in memory", where="--harness",
                         todo=f"run lm_eval --model local-chat-completions --model_args base_url={url}")  # fmt: skip
    return ServerGenerator.at(url)
