"""The `text` formatter: text that is formatted already, and prompts with their completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field as option
from attrs import frozen

from loraplug import Conversation, Doc, InputError, Problem, check_row, conversation, shape_of
from loraplug_chat.encoding import Encoding
from loraplug_chat.option_types import TextPolicy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat.encoding import Lines, Read
    from loraplug_chat.overlong import TalkEncoder


@frozen
class Text(Encoding):
    """Plain text, all of it trained, or of prompt and answer only the answer. Chats are rendered with the chat
    template.
    """

    name = "text"
    produces = frozenset({"tokens", "pairs", "labelled"})

    overlong: Annotated[
        TextPolicy,
        Doc(
            "longer rows; auto: plain texts are split into several rows, conversations are shortened as by "
            "truncate-left"
        ),
    ] = option(default="auto", kw_only=True)  # type: ignore[assignment] # plain texts have two ways more
    end: Annotated[bool, Doc("append the end-of-sequence token to each text, so that the model learns to stop")] = True
    control_tokens: Annotated[
        bool, Doc("encode `<|im_end|>` and similar text as control tokens, for text that is already formatted")
    ] = True

    def recognise(self, columns: Sequence[str], schema: str = "tokens") -> str:
        """See `Encoding.recognise`."""
        if schema == "tokens" and shape_of(columns, schema) not in ("text", "prompt-completion"):
            self._whole_conversations()
        return super().recognise(columns, schema)

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Options that mean nothing for rows of judged answers."""
        if recipe.trainer.consumes == "tokens":
            return
        if self.overlong == "split":
            what = f"{recipe.trainer.name} compares answers, and a part of one cannot be judged"
            yield Problem("formatter.overlong", f'{what}; take "drop" or "truncate-right"')
        if self.packing is True:
            yield Problem("formatter.packing", f"rows for {recipe.trainer.name} cannot be packed; remove it")

    def lines(self, schema: str, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Lines:
        """See `Encoding.lines`."""
        from loraplug_chat.judged_text import ANSWERS, JudgedText
        from loraplug_chat.plain import PlainText

        if schema not in ANSWERS:
            return super().lines(schema, columns, tokenizer)

        plain = PlainText(tokenizer, self.end, self.control_tokens)
        return JudgedText(schema, plain, self.max_length, self.overlong).lines

    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """See `Encoding.reader`."""
        if shape not in ("text", "prompt-completion"):
            return self._chats(shape, tokenizer)
        from loraplug_chat.plain import PlainRow, PlainText

        plain = PlainText(tokenizer, self.end, self.control_tokens)
        chats: Read | None = None

        def read(row: Mapping[str, Any], index: int) -> tuple[Conversation | None, TalkEncoder | PlainRow]:
            nonlocal chats
            if shape == "prompt-completion" and not isinstance(row["prompt"], str):
                chats = chats or self._chats(shape, tokenizer)
                return chats(row, index)
            before, after = (row["prompt"], row["completion"]) if shape == "prompt-completion" else ("", row["text"])
            if not isinstance(before, str) or not isinstance(after, str) or not after:
                raise InputError("a text is missing, empty or not text")
            check_row(row)
            return None, PlainRow(plain, before, after)

        return read

    def _chats(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        from loraplug_chat.encoder import MaskEncoder
        from loraplug_chat.forms import Forms
        from loraplug_chat.mask import Masker

        self._whole_conversations()
        masker = Masker.of(tokenizer)
        forms = Forms(masker.template)
        encode = MaskEncoder(masker, "assistant" if shape == "prompt-completion" else "all")
        return lambda row, index: (forms.fit(conversation(row, shape, index)), encode)

    def _whole_conversations(self) -> None:
        if self.overlong == "split":
            raise InputError(
                "conversations cannot be split: answers would lose their questions",
                where="formatter.overlong",
                todo='set overlong to "auto", which splits plain texts only, or to "truncate-left"',
            )
