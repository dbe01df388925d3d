"""The form in which a chat template takes reasoning that stands in a content, found by trying it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from attrs import define

from loraplug import InputError
from loraplug_chat.reasoning import CLOSE, KEYS, OPEN, parted
from loraplug_chat.template import Template, TemplateInput

_THOUGHT, _SAID = "Probe thought", "Probe said"
_WHOLE, _UNOPENED = f"{OPEN}\n{_THOUGHT}\n{CLOSE}\n\n{_SAID}", f"{_THOUGHT}\n{CLOSE}\n\n{_SAID}"


@define(slots=False)
class ThoughtForm:
    """Moves reasoning out of a content where the template would write a second block for it, or spoil it otherwise."""

    template: Template

    def fit(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message as the template takes it.

        Raises:
            InputError: the message has reasoning both under a key and in its content, and they differ.
        """
        content = message.get("content")
        if message["role"] != "assistant" or not isinstance(content, str) or CLOSE not in content:
            return message
        found = parted(content)
        bare = {key: value for key, value in message.items() if key not in KEYS}
        key = next((key for key in KEYS if isinstance(message.get(key), str) and message[key].strip()), None)
        if found is None:
            return bare if key is None else message
        thought, answer = found
        if key is not None:
            if not content.lstrip().startswith(OPEN):
                return message  # words about the mark
            if thought.strip() != message[key].strip():
                what = f"an answer has two different reasonings: under `{key}` and in its content"
                raise InputError(what, todo="remove one of them")
            return {**message, "content": answer}
        moves = self._moves_whole if OPEN in content else self._moves_unopened
        return {**bare, "content": answer, KEYS[0]: thought} if moves else bare

    @cached_property
    def _moves_whole(self) -> bool:
        return self._spoils(_WHOLE)

    @cached_property
    def _moves_unopened(self) -> bool:
        return self._spoils(_UNOPENED)

    def _spoils(self, content: str) -> bool:
        """Whether this content is not written as the same reasoning under its key is."""
        proper = self._text({"content": _SAID, **dict.fromkeys(KEYS, _THOUGHT)})
        if proper is None or _THOUGHT not in proper:
            return False
        written, prompt = self._text({"content": content}), self._text(None)
        opened = prompt is not None and prompt.rstrip().endswith(OPEN)
        return opened or written is None or any(written.count(mark) != proper.count(mark) for mark in (OPEN, CLOSE))

    def _text(self, answer: dict[str, Any] | None) -> str | None:
        messages = [{"role": "user", "content": "Probe asked"}]
        if answer is not None:
            messages.append({"role": "assistant", **answer})
        try:
            return self.template.plain(TemplateInput("probe", messages, None, [True] * 2), prompt=answer is None)
        except InputError:
            return None
