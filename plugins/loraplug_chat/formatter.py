"""The `chat-template` formatter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen

from loraplug import Doc, InputError, Run, conversation
from loraplug_chat.choices import TrainOn
from loraplug_chat.encoding import Encoding

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat.encoding import Read


@frozen
class ChatTemplate(Encoding):
    """Conversations through the model's chat template; exactly what the model must say is trained."""

    name = "chat-template"

    train_on: Annotated[
        TrainOn, Doc("train every assistant turn, only the last one, or every token; `weight` on a message holds")
    ] = "assistant"
    train_reasoning: Annotated[
        bool, Doc("train the reasoning of answers too, under a key or as `<think>…</think>`; else only what follows it")
    ] = True
    template_options: Annotated[
        dict[str, bool | int | float | str],
        Doc("variables of the chat template, `{ enable_thinking = false }`; saved with the adapter"),
    ] = field(factory=dict)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run) -> Dataset:
        """See `Encoding.encode`; `template_options` are written into the tokenizer's template, which is saved later."""
        if self.template_options:
            from loraplug_chat.options import give_options

            give_options(tokenizer, self.template_options)
        return super().encode(rows, tokenizer, run)

    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """See `Encoding.reader`."""
        if shape == "text":
            raise InputError("text rows hold no conversation", where="formatter", todo='set use = "text"')
        from loraplug_chat.encoder import MaskEncoder
        from loraplug_chat.forms import Forms
        from loraplug_chat.mask import Masker

        masker = Masker.of(tokenizer)
        forms, encode = Forms(masker.template), MaskEncoder(masker, self.train_on, self.train_reasoning)
        return lambda row, index: (forms.fit(conversation(row, shape, index)), encode)
