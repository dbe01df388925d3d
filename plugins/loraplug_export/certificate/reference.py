"""The reference answers: base + adapter in transformers, with the tokenizer and chat template of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import ExportContext, InputError, end_of_turn, load_adapter
from loraplug_export.certificate.conversations import Message, conversations, prompt_ids
from loraplug_export.certificate.engines import TorchEngine, stop_ids

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ANSWER = 16  # tokens
COMPARED = 100  # the most likely tokens, compared singly; all others together
_SAMPLES, _SAMPLE_LENGTH = 4, 384


@frozen
class Asked:
    """A prompt and the answer of base + adapter.

    Attributes:
        messages: the conversation; None if the prompt is one of the run's samples, as text.
        ids: its token ids.
        answer: greedy token ids, including the end token if it was reached.
        logs: log-probabilities of all tokens at the answer's positions, fp32, (answer, vocabulary).
        base: those of the base without the adapter, for the same answer.
    """

    messages: Sequence[Message] | None
    ids: Sequence[int]
    answer: Sequence[int]
    logs: Tensor
    base: Tensor


@frozen
class Reference:
    """The prompts and answers that engines are compared with.

    Attributes:
        end: the end-of-turn token of the template; None if there is none.
        dtype: the dtype in which base + adapter was computed.
    """

    tokenizer: Any
    asked: Sequence[Asked]
    end: int | None
    dtype: str

    @property
    def context(self) -> int:
        """The largest number of tokens of a prompt with its answer."""
        return max(len(one.ids) for one in self.asked) + ANSWER

    def shown(self, token: int) -> str:
        """A token's text, for messages."""
        return f"{self.tokenizer.convert_ids_to_tokens(int(token))!r} ({token})"


def ask_reference(result: ExportContext) -> Reference:
    """Load base + adapter, compute the answers, and free the memory.

    Raises:
        InputError: there is no chat template; the adapter does not fit the base.
    """
    from transformers import AutoTokenizer

    from loraplug_export.folders import has_tokenizer

    folder = result.adapter if has_tokenizer(result.adapter) else result.base
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        todo = 'export without --prove (prove = "never")'
        raise InputError("has no chat template, which a certificate needs", where=folder, todo=todo)
    dtype = _dtype(result)
    model = load_adapter(load_local(result.base, dtype), result.adapter).eval()
    end = end_of_turn(tokenizer)
    stops = stop_ids(model, tokenizer) | ({end} if end is not None else set())
    tuned = TorchEngine("base + adapter", model, tokenizer, stops)
    plain = TorchEngine("base", model, tokenizer, stops, model.disable_adapter)
    with result.run.progress("answers of base + adapter", 1) as bar:
        asked = [_ask(messages, ids, tuned, plain) for messages, ids in _prompts(result, tokenizer)]
        bar.advance()
    return Reference(tokenizer, asked, end, dtype)


def load_local(folder: Path, dtype: str, **options: Any) -> Any:
    """A model folder in torch's `dtype`, without a progress bar; `options` are of `from_pretrained`."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, **options
    )


def _ask(messages: Sequence[Message] | None, ids: Sequence[int], tuned: TorchEngine, plain: TorchEngine) -> Asked:
    answer = tuned.answer(ids, ANSWER)
    return Asked(messages, ids, answer, tuned.logs(ids, answer), plain.logs(ids, answer))


def _prompts(result: ExportContext, tokenizer: Any) -> list[tuple[Sequence[Message] | None, list[int]]]:
    talks = conversations(tokenizer)
    if not talks:
        raise InputError("the chat template accepts none of the conversations of the certificate", where="exporter")
    rows = [tokenizer(one.prompt, add_special_tokens=False)["input_ids"] for one in result.samples[:_SAMPLES]]
    found: list[tuple[Sequence[Message] | None, list[int]]] = [(one, prompt_ids(tokenizer, one)) for one in talks]
    return found + [(None, row[-_SAMPLE_LENGTH:]) for row in rows if row]


def parameters(result: ExportContext) -> int:
    """The number of parameters of the base."""
    from loraplug_export.tensors import open_checkpoint

    tensors: Mapping[str, Any] = open_checkpoint(result.base).tensors
    return sum(prod(tensor.shape) for tensor in tensors.values())


def _dtype(result: ExportContext) -> str:
    """float32 if that leaves half of the memory free, else the dtype that the base is stored in."""
    import psutil

    from loraplug_export.tensors import FLOATS, open_checkpoint

    if 4 * parameters(result) < psutil.virtual_memory().available / 2:
        return "float32"
    kinds = [tensor.dtype for tensor in open_checkpoint(result.base).tensors.values()]
    return str(FLOATS[max(set(kinds), key=kinds.count)])
