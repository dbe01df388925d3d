"""The `chat-template` formatter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field as option
from attrs import frozen, validators

from loraplug import Conversation, Doc, Formatter, InputError, Run, conversation, row_id, shape_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@frozen
class ChatTemplate(Formatter):
    """Conversations rendered by the tokenizer's chat template; only what the model must say is trained."""

    name = "chat-template"

    train_on: Annotated[
        Literal["assistant", "last-assistant", "all"], Doc("which turns are trained; `all` trains every token")
    ] = "assistant"
    max_length: Annotated[int | None, Doc("the most tokens a row may have; unset for no limit")] = option(
        default=8192, validator=validators.optional(validators.ge(8))
    )
    overlong: Annotated[
        Literal["truncate-left", "truncate-right", "drop", "error"], Doc("what to do with longer rows")
    ] = "drop"

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run) -> Dataset:
        """See `Formatter.encode`."""
        from datasets import Dataset

        lost: Counter[str] = Counter()
        shape = shape_of(rows.column_names)
        encoded: list[dict[str, Any]] = list(self._encoded(rows, shape, tokenizer, run, lost))
        for reason, count in lost.most_common():
            run.warn(f"left out {count} of {len(rows)} rows: {reason}")
        if not encoded:
            raise InputError("no row is left to train on", where="formatter", todo="see the reasons above")
        return Dataset.from_list(encoded)

    def _encoded(
        self, rows: Dataset, shape: str, tokenizer: Any, run: Run, lost: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        with run.progress("encoding", len(rows)) as bar:
            for index, row in enumerate(rows):
                bar.advance(1)
                talk = conversation(row, shape, index)
                try:
                    ids, trained = _prefix_mask(talk, tokenizer, self.train_on)
                except InputError as error:
                    lost[error.what] += 1
                    continue
                if self.max_length and len(ids) > self.max_length:
                    lost[f"longer than {self.max_length} tokens"] += 1
                    continue
                labels = [token if on else -100 for token, on in zip(ids, trained, strict=True)]
                yield {"input_ids": ids, "labels": labels, "row": [row_id(row, index)]}


def _prefix_mask(talk: Conversation, tokenizer: Any, train_on: str) -> tuple[list[int], list[bool]]:
    messages = [{k: v for k, v in m.items() if k not in ("train", "weight")} for m in talk.messages]
    special = set(tokenizer.all_special_ids)

    def render(upto: int, prompt: bool) -> str:
        try:
            text: str = tokenizer.apply_chat_template(
                messages[:upto], tools=talk.tools, add_generation_prompt=prompt, tokenize=False
            )
        except Exception as error:
            raise InputError(f"the chat template refuses it: {error}", where=talk.id) from error
        return text

    full = render(len(messages), False)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if train_on == "all":
        return ids, [True] * len(ids)
    turns = [
        i
        for i, m in enumerate(talk.messages)
        if m["role"] == "assistant" and m.get("train", True) and m.get("weight", 1) != 0
    ]
    if train_on == "last-assistant":
        turns = turns[-1:]
    trained = [False] * len(ids)
    for turn in turns:
        prompt, upto = render(turn, True), render(turn + 1, False)
        if not (full.startswith(prompt) and full.startswith(upto)):
            raise InputError("the chat template rewrites earlier turns", where=talk.id)
        first = sum(end <= len(prompt) for _, end in offsets)
        last = sum(end <= len(upto) for _, end in offsets)
        while last > first and ids[last - 1] not in special:
            last -= 1
        if last == first or ids[:first] != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
            raise InputError("no end-of-turn token, or the prompt has other tokens", where=talk.id)
        trained[first:last] = [True] * (last - first)
    return ids, trained
