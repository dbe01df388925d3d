"""A conversation's encoder: ids and mask, and what is needed to find a shorter form of it."""

from __future__ import annotations

from attrs import frozen

from loraplug import Conversation
from loraplug_chat.marks import AnnotatedText
from loraplug_chat.mask import Encoded, Masker
from loraplug_chat.option_types import TrainOn
from loraplug_chat.template import TemplateInput

CHARACTERS = 16  # a token; few texts have more


@frozen
class MaskEncoder:
    """Encodes conversations with one masker and one `train_on`; see `overlong.TalkEncoder`."""

    masker: Masker
    train_on: TrainOn
    train_reasoning: bool = True

    def __call__(self, talk: Conversation) -> Encoded:
        """Ids and verified mask."""
        return self.masker.encode(talk, self.train_on, self.train_reasoning)

    def fits(self, talk: Conversation, most: int) -> bool:
        """Whether the text has at most `most` tokens. Of a much longer text only the beginning is looked at."""
        text = self.masker.template.whole(TemplateInput.of(talk))
        if len(text) > CHARACTERS * most and self._count(text[: CHARACTERS * most]) > most:
            return False
        return self._count(text) <= most

    def answers(self, talk: Conversation) -> list[int]:
        """Numbers of the messages that are trained."""
        wanted = TemplateInput.of(talk).wanted
        found = [at for at, message in enumerate(talk.messages) if message["role"] == "assistant" and wanted[at]]
        return found[-1:] if self.train_on == "last-assistant" else found

    def _count(self, text: str) -> int:
        return len(self.masker.tokens.encode(AnnotatedText(text, (), inside=True), [], [])[0])
