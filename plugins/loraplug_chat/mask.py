"""Encodes a conversation as ids and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from attrs import define, field, frozen

from loraplug import Conversation, InputError
from loraplug_chat import reasoning
from loraplug_chat.calls import calls_written
from loraplug_chat.endings import PROBE, Endings, Turn
from loraplug_chat.marks import Added, AnnotatedText
from loraplug_chat.option_types import TrainOn
from loraplug_chat.shapes import Shape, Shapes
from loraplug_chat.spans import Locator
from loraplug_chat.template import Template, TemplateInput, is_usual
from loraplug_chat.tokens import Tokens

OFTEN, SHAPES = 50, 10_000


@frozen
class Encoded:
    """One row.

    Attributes:
        ids: token ids, length L.
        trained: for each token its weight in the loss, length L; 0 or False where it is not trained.
        same_prompts: whether each trained turn stands behind exactly what inference would put there.
        stops: whether every trained turn ends in a token that makes the model stop.
        has_special_text: whether the row brought text that looks like control tokens.
        boundary_split: whether a token had to be cut at the beginning or the end of a turn, as inference cuts it.
        turns: (message, first token, one behind its last token) of each trained turn.
        dropped: whose reasoning the template leaves out: none, only that of earlier answers, or that of the last one.
    """

    ids: list[int]
    trained: Sequence[float]
    same_prompts: bool
    stops: bool
    has_special_text: bool
    boundary_split: bool
    turns: list[tuple[int, int, int]]
    dropped: Literal["", "earlier", "last"] = ""


@define
class Masker:
    """Encodes conversations for one tokenizer and template."""

    template: Template
    tokens: Tokens
    locator: Locator
    shapes: Shapes
    _checked: set[int] = field(factory=set)
    _learnt: dict[Any, Shape | None] = field(factory=dict)
    _rows: int = 0

    @classmethod
    def of(cls, tokenizer: Any, opened: Sequence[str] = ()) -> Masker:
        """Compile the tokenizer's chat template and learn its control tokens.

        Args:
            opened: special tokens that stay tokens where rows write them.

        Raises:
            InputError: there is no chat template, or the tokenizer is not a fast one.
        """
        try:
            source = tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(
                "the tokenizer has no chat template",
                where="model",
                todo='set one by name or file, [model] chat_template = "chatml", or use an instruct model',
            ) from error
        template = Template(source, dict(tokenizer.special_tokens_map))
        added = Added.of(tokenizer).without(opened).framed_by(_frames(template))
        endings = Endings.of(template, added, tokenizer.eos_token)
        return cls(template, Tokens.of(tokenizer, added), Locator(template, added, endings), Shapes(template, added))

    def encode(
        self, conversation: Conversation, train_on: TrainOn = "assistant", train_reasoning: bool = True
    ) -> Encoded:
        """Ids and mask of a conversation.

        Raises:
            InputError: the template refuses it, or its mask cannot be proved; names row and reason.
        """
        talk = TemplateInput.of(conversation)
        if (known := self._known(talk, train_on)) is not None:
            view, turns = known
        else:
            view, turns = self._proved(talk, train_on)
        if train_on == "all":
            return self._all(talk, view, train_reasoning)
        return self._encoded(talk, view, turns, train_reasoning)

    def _proved(self, talk: TemplateInput, train_on: TrainOn) -> tuple[AnnotatedText, list[Turn]]:
        """Text and turns the long way."""
        text = self.template.plain(talk)
        tracked = self.template.tracked(talk)
        if not str.__eq__(tracked, text) or (self._unseen(talk) and text != self.template.whole(talk)):
            raise InputError(
                "the chat template renders a different text when its characters are tracked", where=talk.id
            )
        view = AnnotatedText.of(tracked, self.tokens.added, talk.id)
        if any("tool_calls" in message for message in talk.messages):
            calls_written(talk, self.template)
        wanted = [i for i, message in enumerate(talk.messages) if message["role"] == "assistant" and talk.wanted[i]]
        if train_on == "last-assistant":
            wanted = wanted[-1:]
        if train_on == "all":
            return view, []
        turns = self.locator.turns(talk, view, wanted)
        if is_usual(talk):
            key = _key(talk, train_on)
            if key not in self._learnt and len(self._learnt) < SHAPES:
                self._learnt[key] = self.shapes.learn(talk, view, turns)
            elif (shape := self._learnt.get(key)) and not (
                view.escaped_special or view.inside or shape.fits(talk, view, turns)
            ):
                raise InputError(
                    "the chat template renders this row differently than other rows of the same roles", where=talk.id
                )
        return view, turns

    def _known(self, talk: TemplateInput, train_on: TrainOn) -> tuple[AnnotatedText, list[Turn]] | None:
        """Text and turns of a row of a known shape, if it brings no text of added tokens."""
        self._rows += 1
        if train_on == "all" or not is_usual(talk) or not self._rows % OFTEN:
            return None
        shape = self._learnt.get(_key(talk, train_on))
        search = self.tokens.added.pattern.search
        if shape is None or any(search(m["content"]) or reasoning.CLOSE in m["content"] for m in talk.messages):
            return None
        return shape.fill(talk)

    def _encoded(self, talk: TemplateInput, view: AnnotatedText, turns: list[Turn], train_reasoning: bool) -> Encoded:
        cuts = [place for turn in turns for place in (turn.start, turn.end)]
        thoughts = [] if train_reasoning else [span for turn in turns for span in self._thoughts(view, turn)]
        ids, index, boundary_split = self.tokens.encode(view, cuts, [place for span in thoughts for place in span])
        trained: list[float] = [False] * len(ids)
        for turn in turns:
            first, last = index[turn.start], index[turn.end]
            trained[first:last] = [talk.wanted[turn.message]] * (last - first)
            if turn.implicit_eos is not None:
                ids.append(turn.implicit_eos)
                trained.append(talk.wanted[turn.message])
        for a, b in thoughts:
            trained[index[a] : index[b]] = [False] * (index[b] - index[a])
        same = all(turn.same_prompt for turn in turns) and not (boundary_split and len(turns) > 1)
        return Encoded(
            ids,
            trained,
            same,
            all(turn.stops for turn in turns),
            bool(view.escaped_special),
            boundary_split,
            [(turn.message, index[turn.start], index[turn.end]) for turn in turns],
            _dropped(talk, view),
        )

    def _thoughts(self, view: AnnotatedText, turn: Turn) -> list[tuple[int, int]]:
        """Blocks of reasoning in a turn, with what the template writes around them, to their closing token."""
        inside = [(a, b) for a, b in view.bodies(turn.message) if turn.start <= a < b <= turn.end]
        thoughts = {*view.thoughts(turn.message)}
        found, at = [], turn.start
        for number, (a, b) in enumerate(inside):
            if (a, b) not in thoughts:
                at = b
                continue
            behind = view.text[b : inside[number + 1][0] if number + 1 < len(inside) else turn.end]
            whole = view.text[a:b].rstrip().endswith(reasoning.CLOSE)  # the row wrote the closing mark itself
            parts = [] if whole else self.tokens.added.cut(behind)
            close = next((i for i, part in enumerate(parts) if self.tokens.added.is_token(part)), -1)
            end = b + sum(map(len, parts[: close + 1]))
            end += len("".join(parts[close + 1 :])) - len("".join(parts[close + 1 :]).lstrip())
            found.append((at, end))
            at = end
        return found or [(turn.start, min(reasoning.empty_block(view.text, turn.start), turn.end))]

    def _unseen(self, talk: TemplateInput) -> bool:
        """Whether to render with transformers' own template too: for each new shape of row, and now and then."""
        shape = hash((tuple((message["role"], *message) for message in talk.messages), bool(talk.tools)))
        if shape in self._checked and self._rows % OFTEN:
            return False
        if len(self._checked) < SHAPES:
            self._checked.add(shape)
        return True

    def _all(self, talk: TemplateInput, view: AnnotatedText, train_reasoning: bool) -> Encoded:
        """Everything trained, the text of messages by their weights."""
        weighted = [(*span, want) for i, want in enumerate(talk.wanted) if want != 1 for span in view.bodies(i)]
        if not train_reasoning:
            weighted += [(*span, 0) for i in range(len(talk.messages)) for span in view.thoughts(i)]
        ids, index, _ = self.tokens.encode(view, [], [place for a, b, _ in weighted for place in (a, b)])
        trained: list[float] = [True] * len(ids)
        for a, b, want in weighted:
            trained[index[a] : index[b]] = [want] * (index[b] - index[a])
        return Encoded(ids, trained, True, True, bool(view.escaped_special), False, [], _dropped(talk, view))


def _dropped(talk: TemplateInput, view: AnnotatedText) -> Literal["", "earlier", "last"]:
    """Whose reasoning left no trace in the text."""
    if not view.spans:  # of a known shape, which has no reasoning
        return ""
    given = [i for i, message in enumerate(talk.messages) if reasoning.of(message)]
    lost = [i for i in given if not any(reasoning.says(view.text[a:b]) for a, b in view.thoughts(i))]
    if not lost:
        return ""
    answers = [i for i, message in enumerate(talk.messages) if message["role"] == "assistant"]
    return "last" if lost[-1] == answers[-1] else "earlier"


def _key(talk: TemplateInput, train_on: str) -> Any:
    return train_on, tuple(message["role"] for message in talk.messages), tuple(map(bool, talk.wanted))


def framing(tokenizer: Any) -> frozenset[str]:
    """The added tokens that a tokenizer's chat template writes around plain turns, and its own beginning and end."""
    template = Template(tokenizer.get_chat_template(), dict(tokenizer.special_tokens_map))
    added = Added.of(tokenizer)
    own = {tokenizer.bos_token, tokenizer.eos_token} - {None}
    return added.without(added.control).framed_by(_frames(template)).control | own


def _frames(template: Template) -> list[str]:
    """What the template writes around a plain exchange."""
    talk = TemplateInput(
        "probe",
        [{"role": who, "content": PROBE} for who in ("user", "assistant", "user", "assistant", "user")],
        None,
        [True] * 5,
    )
    made = []
    for prompt in (False, True):
        try:
            made.append(template.plain(talk, prompt=prompt))
        except InputError:
            continue
    return made
