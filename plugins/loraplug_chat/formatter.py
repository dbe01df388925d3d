"""The `chat-template` formatter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from attrs import frozen

from loraplug import Doc, InputError, conversation
from loraplug_chat.choices import TrainOn
from loraplug_chat.encoding import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat.encoding import Read


@frozen
class ChatTemplate(Encoding):
    """Conversations through the model's chat template; exactly what the model must say is trained."""

    name = "chat-template"

    train_on: Annotated[
        TrainOn, Doc("train every assistant turn, only the last one, or every token; `weight` on a message holds")
    ] = "assistant"

    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """See `Encoding.reader`."""
        if shape == "text":
            raise InputError("text rows hold no conversation", where="formatter", todo='set use = "text"')
        from loraplug_chat.encoder import MaskEncoder
        from loraplug_chat.forms import Forms
        from loraplug_chat.mask import Masker

        masker = Masker.of(tokenizer)
        forms, encode = Forms(masker.template), MaskEncoder(masker, self.train_on)
        return lambda row, index: (forms.fit(conversation(row, shape, index)), encode)
