"""A chat template (Jinja) said again in Ollama's words (Go's text/template).

The template is not translated but asked: conversations of marked texts are rendered, and what stands between the
marks becomes the Go template's literals. It is then held against the Jinja template on other conversations, so a
template that is not made of fixed words around the texts is refused instead of being said wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Render = Callable[[Sequence[Message]], str]

_MARKS = {"system": "SysMark", "user": "UserMark", "assistant": "TurnMark"}


@frozen
class Pieces:
    """The fixed words of a chat template.

    Attributes:
        system: before and after the system text; None where the template takes none, or not at the beginning.
        start: before the first user text where there is no system text.
        answer: between a user text and the assistant's.
        user: between an assistant text and the next user's.
        prompt: after the last user text, when an answer is wanted.
    """

    system: tuple[str, str] | None
    start: str
    answer: str
    user: str
    prompt: str

    def say(self, messages: Sequence[Message]) -> str:
        """A conversation that ends with a user's message, as the Go template gives it."""
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        text = self.system[0] + system + self.system[1] if system and self.system else self.start
        first = True
        for message in messages:
            if message["role"] == "user":
                text += ("" if first else self.user) + message["content"]
                first = False
            elif message["role"] == "assistant":
                text += self.answer + message["content"]
        return text + self.prompt

    def go(self) -> str:
        """The Go template, on one line, its fixed words as quoted strings."""
        start = _literal(self.start)
        if self.system:
            before, after = map(_literal, self.system)
            start = "{{- if .System -}}" + before + "{{- .System -}}" + after + "{{- else -}}" + start + "{{- end -}}"
        loop = (
            '{{- $first := true -}}{{- $last := "" -}}{{- range .Messages -}}{{- if eq .Role "user" -}}'
            "{{- if $first -}}{{- $first = false -}}{{- else -}}" + _literal(self.user) + "{{- end -}}{{- .Content -}}"
            '{{- else if eq .Role "assistant" -}}' + _literal(self.answer) + "{{- .Content -}}{{- end -}}"
            "{{- $last = .Role -}}{{- end -}}"
        )
        return start + loop + '{{- if ne $last "assistant" -}}' + _literal(self.prompt) + "{{- end -}}"


def _literal(text: str) -> str:
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""


def renderer(tokenizer: PreTrainedTokenizerBase, bos: str | None) -> Render:
    """Renders conversations with the tokenizer's chat template, up to where the answer begins.

    Args:
        bos: text to take off the beginning, where the runtime puts that token there itself.
    """

    def render(messages: Sequence[Message]) -> str:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return str(text).removeprefix(bos) if bos else str(text)

    return render


def find_pieces(render: Render) -> Pieces | None:
    """The fixed words of a chat template; None where it is not made of fixed words around the texts."""
    user, again = _message("user"), {"role": "user", "content": "MoreMark"}
    parts = _between(render, [user, _message("assistant"), again])
    if parts is None:
        return None
    start, answer, next_user, prompt = parts
    pieces = Pieces(_system(render, user), start, answer, next_user, prompt)
    return pieces if _agrees(pieces, render) else _without_system(pieces, render)


def _without_system(pieces: Pieces, render: Render) -> Pieces | None:
    bare = Pieces(None, pieces.start, pieces.answer, pieces.user, pieces.prompt)
    return bare if _agrees(bare, render) else None


def _system(render: Render, user: Message) -> tuple[str, str] | None:
    parts = _between(render, [_message("system"), user])
    return (parts[0], parts[1]) if parts else None


def _agrees(pieces: Pieces, render: Render) -> bool:
    def talk(*texts: str) -> list[Message]:
        return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]

    talks = [talk("hello"), talk("a b", "c", "d"), talk("1", "two", "3", "four", "five?")]
    if pieces.system:
        talks += [[{"role": "system", "content": "Be brief."}, *one] for one in talks]
    return all(pieces.say(one) == render(one) for one in talks)


def _message(role: str) -> Message:
    return {"role": role, "content": _MARKS[role]}


def _between(render: Render, messages: Sequence[Message]) -> list[str] | None:
    """What stands before, between and after the messages' texts; None unless each is there once, in order.

    None, too, where the template refuses such a conversation, as some do with system messages.
    """
    from jinja2 import TemplateError

    try:
        text = render(messages)
    except TemplateError:
        return None
    parts: list[str] = []
    for message in messages:
        if text.count(message["content"]) != 1:
            return None
        before, _, text = text.partition(message["content"])
        parts.append(before)
    return [*parts, text]


def stop_texts(tokenizer: PreTrainedTokenizerBase, pieces: Pieces, stops: Sequence[int]) -> list[str]:
    """Texts at which an answer is over: the ends of text, and the special token that closes an answer."""
    special: dict[int, Any] = {n: t for n, t in tokenizer.added_tokens_decoder.items() if t.special}
    found = [str(tokenizer.convert_ids_to_tokens(number)) for number in stops]
    if tokenizer.eos_token:
        found.append(tokenizer.eos_token)
    closing = tokenizer(pieces.user, add_special_tokens=False)["input_ids"]
    found += [special[number].content for number in closing if number in special][:1]
    return list(dict.fromkeys(text for text in found if text))
