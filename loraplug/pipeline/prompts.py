"""Encodes messages to token ids, through the chat template saved with the model.

Text that people or models wrote never becomes a control token: a typed `<|im_end|>` is the letters it is made of, as it
was in training. Such text is put between two guard characters before the template is rendered, so that in the rendered
text it can be told from the template's own control tokens, and is encoded by itself, as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from loraplug.data.chat_template import end_of_turn, opened_tokens
from loraplug.errors import InputError

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]
_ANCHORS = ("\n", "a", "1", ".")


@frozen
class Prompter:
    """A tokenizer with a chat template.

    Attributes:
        control: finds text that the tokenizer would read as a control token.
    """

    tokenizer: Any
    control: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any, where: object) -> Prompter:
        """Look at a tokenizer; `where` is what an error names.

        Raises:
            InputError: it has no chat template.
        """
        if not tokenizer.chat_template:
            todo = "use a model that was trained on chats, or set model.chat_template in the recipe that trains it"
            raise InputError("has no chat template", where=where, todo=todo)
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values() if token.content}
        special = {text for text, is_special in added.items() if is_special} | set(tokenizer.all_special_tokens)
        self = cls(tokenizer, _any_of(special))
        # some templates frame turns with added tokens that are not marked special
        plain = self.text([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], False)
        framing = {found for found in _any_of(added).findall(plain) if not found.isspace()}
        return cls(tokenizer, _any_of((special | framing) - opened_tokens(tokenizer)))

    def text(self, messages: Sequence[Message], prompt: bool = True, tools: Tools | None = None) -> str:
        """The rendered conversation, with the header of an answer if `prompt`.

        Raises:
            InputError: the template refuses the conversation.
        """
        from jinja2.exceptions import TemplateError

        try:
            made = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                **({"tools": [dict(tool) for tool in tools]} if tools else {}),
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            todo = "remove --system, if you gave it" if messages[0]["role"] == "system" else None
            raise InputError(f"the model's chat template refuses this conversation: {error}", todo=todo) from error
        return str(made)

    def ids(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Token ids of the conversation, with the header of an answer."""
        if not any(self.control.search(message["content"]) for message in messages):
            return self._encode(self.text(messages, tools=tools))
        left, right = _unused(messages)
        guarded = [
            {**message, "content": self.control.sub(rf"{left}\g<0>{right}", message["content"])} for message in messages
        ]
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"{left}([^{left}{right}]*){right}", self.text(guarded, tools=tools))):
            # a template may have taken a guarded text apart; what is left of its guards goes
            piece = piece.replace(left, "").replace(right, "")
            ids += self._plain(piece) if number % 2 else self._encode(piece, first=not ids)
        return ids

    def stops(self, generation_config: Any) -> frozenset[int]:
        """Ids that end an answer: the model's and the tokenizer's end tokens, and what ends a turn of the template."""
        named = generation_config.eos_token_id
        found = {self.tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
        return frozenset({*found, end_of_turn(self.tokenizer)} - {None})

    def _encode(self, text: str, first: bool = True, **options: Any) -> list[int]:
        def ids(text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

        if first or not text:
            return ids(text)
        # some tokenizers put a space before any text they are given: what stands in the middle goes behind an anchor
        for anchor in _ANCHORS:
            front, whole = ids(anchor), ids(anchor + text)
            if whole[: len(front)] == front:
                return whole[len(front) :]
        raise InputError(f"cannot tokenize {text[:40]!r} separately from the text before it")

    def _plain(self, text: str) -> list[int]:
        ids = self._encode(text, first=False, split_special_tokens=True)
        if any(self.control.fullmatch(str(self.tokenizer.convert_ids_to_tokens(number))) for number in ids):
            half = max(1, len(text) // 2)  # an added token that is not special is kept whole; its halves are not
            ids = self._encode(text[:half], first=False) + self._encode(text[half:], first=False)
        return ids


def encode_prompt(tokenizer: Any, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
    """See `Formatter.encode_prompt`."""
    return Prompter.of(tokenizer, "chat template").ids(messages, tools)


def _any_of(texts: Any) -> re.Pattern[str]:
    """Matches any of the texts, the longest where several begin; nothing, where there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _unused(messages: Sequence[Message]) -> tuple[str, str]:
    """Two characters of the private use area that no message has."""
    used = set().union(*(message["content"] for message in messages))
    free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
    return next(free), next(free)
