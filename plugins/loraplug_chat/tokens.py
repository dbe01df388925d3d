"""From a text with known control tokens to ids, the same that inference would see.

The text is cut at the control tokens the template wrote, as the tokenizer itself would cut it; what lies between is
encoded whole. Text from rows that looks like a control token is encoded by itself, as plain text. Where a token would
reach across the beginning or the end of a trained turn, the text is cut there: inference ends its prompt, and the model
its answer, at that very place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from loraplug import InputError
from loraplug_chat.ascii_bpe import Words
from loraplug_chat.marks import Added, AnnotatedText

ANCHORS = ("\n", "a", "1", ".")
REMEMBERED, SHORT = 50_000, 300


@define
class Tokens:
    """A fast tokenizer and what was learnt about it."""

    tokenizer: Any
    _backend: Any
    added: Added
    _words: Words | None
    _cut_at: frozenset[int]
    _greedy: frozenset[int]
    _known: dict[str, list[int]] = field(factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, added: Added) -> Tokens:
        """For any fast tokenizer.

        Raises:
            InputError: the tokenizer is not a fast one.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                "exact masks need a fast tokenizer (tokenizer.json)",
                where="model",
                todo="use a model that has a tokenizer.json",
            )
        from tokenizers import Tokenizer

        # a copy of our own: calls of the tokenizer leave truncation, padding and more behind in its backend
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        flags = tokenizer.added_tokens_decoder.items()
        cut = frozenset(n for n, t in flags if not (t.lstrip or t.normalized or t.single_word))
        return cls(tokenizer, backend, added, Words.of(tokenizer), cut, frozenset(n for n, t in flags if t.rstrip))

    def encode(
        self, view: AnnotatedText, cuts: Sequence[int], ends: Sequence[int]
    ) -> tuple[list[int], dict[int, int], bool]:
        """Ids of a text.

        Args:
            view: the text.
            cuts: places in it at which a token must begin, in order.
            ends: places whose token index is wanted too; a token reaching across one lies behind it.

        Returns:
            The ids, the token index of each place, and whether the text had to be cut where a token reached across.
        """
        ids: list[int] = []
        index: dict[int, int] = {}
        boundary_split = False
        wanted = sorted({*cuts, *ends})
        hard = set(cuts)
        at, opening, next_wanted = 0, None, 0
        marks = [mark for mark in view.marks if mark.id in self._cut_at]
        bare = not view.inside and len(marks) == len(view.marks)
        for mark in [*marks, None]:
            end = mark.start if mark else len(view.text)
            inside = []
            while next_wanted < len(wanted) and wanted[next_wanted] <= end:
                inside.append(wanted[next_wanted])
                next_wanted += 1
            if opening is not None:
                ids.append(opening)
            if not inside and bare and not view.escaped_special:
                ids += self._ids(view.text[at:end], opening, True, bare)
            elif at < end or inside:
                boundary_split |= self._unit(view, at, end, opening, inside, hard, ids, index, bare=bare)
            if mark:
                opening, at = mark.id, mark.end
        return ids, index, boundary_split

    def _unit(
        self,
        view: AnnotatedText,
        start: int,
        end: int,
        opening: int | None,
        wanted: Sequence[int],
        hard: set[int],
        ids: list[int],
        index: dict[int, int],
        *,
        bare: bool,
    ) -> bool:
        """Encode text[start:end], which follows the control token `opening`, behind `ids`; `bare`: no added tokens."""
        pieces = _pieces(view, start, end) if view.escaped_special else [(start, end, False)]
        boundary_split, pending = False, list(wanted)
        for number, (a, b, plain) in enumerate(pieces):
            at_front, front = number == 0, opening if number == 0 else None
            while True:
                text = view.text[a:b]
                made = self._plain(text) if plain else self._ids(text, front, at_front, bare)
                cut = None
                while pending and pending[0] <= b:
                    place = pending[0]
                    if place == b:
                        index[place] = len(ids) + len(made)
                        pending.pop(0)
                        continue
                    head = view.text[a:place]
                    before = self._plain(head) if plain else self._ids(head, front, at_front, bare)
                    same = _shared(before, made)
                    if same < len(before) and place in hard:
                        cut = place
                        made = before
                        break
                    index[place] = len(ids) + same
                    pending.pop(0)
                ids += made
                if cut is None:
                    break
                index[cut] = len(ids)
                pending.pop(0)
                boundary_split, a, at_front, front = True, cut, False, None
        return boundary_split

    def _ids(self, text: str, opening: int | None, at_front: bool, bare: bool) -> list[int]:
        """Ids of text right behind a control token, at the very beginning, or in the middle of other text."""
        if not text:
            return []
        if bare and self._words and opening not in self._greedy and (found := self._words.ids(text)) is not None:
            return found
        if not at_front:
            return self._middle(text, self._encoded)
        if opening is None:
            return self._encoded(text)
        whole = self._encoded(self.tokenizer.convert_ids_to_tokens(opening) + text)
        if whole[:1] != [opening]:
            raise InputError(
                f"the tokenizer splits {self.tokenizer.convert_ids_to_tokens(opening)!r} into several tokens"
            )
        return whole[1:]

    def _encoded(self, text: str) -> list[int]:
        if (known := self._known.get(text)) is not None:
            return known
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if len(text) < SHORT:
            if len(self._known) > REMEMBERED:
                self._known.clear()
            self._known[text] = ids
        return ids

    def _middle(self, text: str, encode: Any) -> list[int]:
        """Ids of text in the middle of a longer one: without what a tokenizer puts in front of a beginning."""
        for anchor in ANCHORS:
            front, whole = encode(anchor), encode(anchor + text)
            if whole[: len(front)] == front:
                return list(whole[len(front) :])
        raise InputError(f"cannot tokenize {text[:40]!r} separately from the text before it")

    def _plain(self, text: str) -> list[int]:
        """Ids of text that looks like a control token, as plain text."""
        ids = self._middle(text, self._without_added)
        if any(self.tokenizer.convert_ids_to_tokens(number) in self.added.control for number in ids):
            half = max(1, len(text) // 2)
            ids = self._middle(text[:half], self._without_added) + self._middle(text[half:], self._without_added)
        if any(self.tokenizer.convert_ids_to_tokens(number) in self.added.control for number in ids):
            raise InputError(f"the tokenizer cannot encode {text!r} as plain text")
        return ids

    def _without_added(self, text: str) -> list[int]:
        backend = self._backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        return [token.id for word in words for token in backend.model.tokenize(word)]


def _pieces(view: AnnotatedText, start: int, end: int) -> list[tuple[int, int, bool]]:
    """text[start:end] cut around what only looks like control tokens: (start, end, whether it does)."""
    made, at = [], start
    for a, b in view.escaped_special:
        if start <= a and b <= end:
            if at < a or at == start:
                made.append((at, a, False))
            made.append((a, b, True))
            at = b
    if at < end or not made:
        made.append((at, end, False))
    return made


def _shared(a: list[int], b: list[int]) -> int:
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
