"""The `text` formatter: text that is formatted already, and prompts with their completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from attrs import frozen

from loraplug import Conversation, Doc, InputError, conversation
from loraplug_chat.encoding import Encoding, Read
from loraplug_chat.marks import Added, Mark, View
from loraplug_chat.mask import Encoded, Masker
from loraplug_chat.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@frozen
class Text(Encoding):
    """Text as it stands, all of it trained; of prompt and completion the completion. Chats go through the template."""

    name = "text"

    end: Annotated[bool, Doc("put the end-of-sequence token behind each text, so that the model learns to stop")] = True
    control_tokens: Annotated[
        bool, Doc("read `<|im_end|>` and the like in the text as control tokens, as formatted text means them")
    ] = True

    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """See `Encoding.reader`."""
        if shape not in ("text", "prompt-completion"):
            return self._chats(shape, tokenizer)
        plain = _PlainText(tokenizer, self.end, self.control_tokens)
        chats: Read | None = None

        def read(row: Mapping[str, Any], index: int) -> tuple[Conversation | None, Callable[[Any], Encoded]]:
            nonlocal chats
            if shape == "prompt-completion" and not isinstance(row["prompt"], str):
                chats = chats or self._chats(shape, tokenizer)
                return chats(row, index)
            before, after = (row["prompt"], row["completion"]) if shape == "prompt-completion" else ("", row["text"])
            if not isinstance(before, str) or not isinstance(after, str) or not after:
                raise InputError("a text is missing, empty or not text")
            return None, lambda _: plain.encode(before, after)

        return read

    def _chats(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        masker = Masker.of(tokenizer)

        def encode(talk: Conversation) -> Encoded:
            return masker.encode(talk, "assistant" if shape == "prompt-completion" else "all")

        return lambda row, index: (conversation(row, shape, index), encode)


class _PlainText:
    """Encodes a trained text behind a prompt that is not trained, with what the tokenizer itself puts around text."""

    def __init__(self, tokenizer: Any, end: bool, control_tokens: bool) -> None:
        self._added = Added.of(tokenizer)
        self._tokens = Tokens.of(tokenizer, self._added)
        self._read_control = control_tokens
        self._front: list[int] = tokenizer("a")["input_ids"][:1]
        if self._front != [tokenizer.bos_token_id]:
            self._front = []
        if end and tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no end-of-sequence token", where="formatter.end", todo="set end = false"
            )
        self._end = [tokenizer.eos_token_id] if end else []

    def encode(self, before: str, after: str) -> Encoded:
        text = before + after
        view = View(text, ())
        for found in self._added.pattern.finditer(text):
            start, stop = found.span()
            number, special = self._added.tokens[found.group()]
            across = start < len(before) < stop
            if self._read_control and not across:
                view.marks.append(Mark(start, stop, number, special))
            elif special:
                view.lookalikes.append((start, stop))
            else:
                view.inside = True
        ids, index, _ = self._tokens.encode(view, [len(before)] if before else [], [])
        front = self._front if ids[:1] != self._front else []
        end = self._end if ids[-1:] != self._end else []
        untrained = len(front) + index.get(len(before), 0) if before else 0
        ids = [*front, *ids, *end]
        trained = [at >= untrained for at in range(len(ids))]
        return Encoded(ids, trained, True, bool(self._end), bool(view.lookalikes), False, [])
