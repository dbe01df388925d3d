"""The parts that must equal what they replace: word look-up and tracked strings."""

from __future__ import annotations

from typing import Any

import pytest
from chat_help import KINDS, tokenizer_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraplug_chat.ascii_bpe import Words
from loraplug_chat.marks import _any_of
from loraplug_chat.provenance import ProvenanceStr, concat, joined

ascii_text = st.text(st.sampled_from([chr(c) for c in (9, 10, 13, *range(32, 127))]), max_size=60)
python = st.lists(
    st.sampled_from(
        ["\n", "\n\n", "    ", "  ", " ", "\t", "def", "x_1", "123", "'s", "'ll", "'", ".", "(", '"', "\r\n"]
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("byte")])
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(text=ascii_text | python)
def test_words_have_the_ids_of_the_tokenizer(kind: str, text: str) -> None:
    """Looked up or encoded, the ids are the same."""
    tokenizer = tokenizer_for(kind=kind)
    words = Words.of(tokenizer)
    assert words is not None
    assert words.ids(text) == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.fixture(scope="module")
def smol_words(smol: Any) -> Words | None:
    """The words of SmolLM2's tokenizer."""
    return Words.of(smol)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(text=ascii_text | python)
def test_words_of_the_real_tokenizer(smol: Any, smol_words: Words | None, text: str) -> None:
    """The same for SmolLM2's."""
    assert smol_words is not None
    assert smol_words.ids(text) == smol(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_words_leave_other_text_to_the_tokenizer() -> None:
    """Other scripts and other kinds of tokenizer are not looked up."""
    words = Words.of(tokenizer_for())
    assert words is not None
    assert words.ids("naïve") is None
    assert words.ids("a\x0bb") is None
    assert Words.of(tokenizer_for(kind="metaspace-first")) is None
    assert Words.of(tokenizer_for(kind="unigram-first")) is None


@given(st.lists(st.text(st.sampled_from("ab<|>"), min_size=1, max_size=5), min_size=1), st.text("ab<|>", max_size=30))
def test_any_of_finds_the_longest(texts: list[str], text: str) -> None:
    """The pattern built as a tree finds what the plain alternatives, longest first, find."""
    import re

    plain = "|".join(map(re.escape, sorted(set(texts), key=len, reverse=True)))
    assert re.findall(_any_of(texts), text) == re.findall(plain, text)


def colours(text: Any) -> list[int]:
    """The owner of each character."""
    return [owner for owner, length in text.runs for _ in range(length)]


pieces = st.lists(st.tuples(st.text(" ab\n,", max_size=6), st.sampled_from([-1, 0, 1, 2])), max_size=6)


@given(pieces, st.data())
def test_tracked_text_does_what_text_does(made: list[tuple[str, int]], data: st.DataObject) -> None:
    """Every method gives what `str` gives, and each character keeps its owner."""
    tracked = concat(ProvenanceStr(text, ((owner, len(text)),)) for text, owner in made)
    plain = "".join(text for text, _ in made)
    marks = colours(tracked)
    letters = data.draw(st.text(" ab\n", min_size=1, max_size=2))
    a, b = data.draw(st.integers(-9, 40)), data.draw(st.integers(-9, 40))
    step = data.draw(st.sampled_from([1, 2, -1]))
    assert tracked == plain
    for ours, theirs, owned in (
        (tracked[a:b:step], plain[a:b:step], marks[a:b:step]),
        (tracked.strip(), plain.strip(), None),
        (tracked.lstrip(letters), plain.lstrip(letters), marks[len(plain) - len(plain.lstrip(letters)) :]),
        (tracked.rstrip(letters), plain.rstrip(letters), marks[: len(plain.rstrip(letters))]),
        (tracked.upper(), plain.upper(), marks),
        (tracked.removeprefix(letters), plain.removeprefix(letters), None),
        (tracked.removesuffix(letters), plain.removesuffix(letters), None),
        (tracked.replace(letters, "<->"), plain.replace(letters, "<->"), None),
        (tracked.replace("a", "é", 1), plain.replace("a", "é", 1), marks),
        (tracked + "x", plain + "x", [*marks, -1]),
        ("x" + tracked, "x" + plain, [-1, *marks]),
        (tracked * 2, plain * 2, marks * 2),
        (joined(",", list(tracked)), ",".join(plain), None),
    ):
        assert isinstance(ours, ProvenanceStr)
        assert str.__eq__(ours, theirs)
        assert sum(length for _, length in ours.runs) == len(theirs)
        assert owned is None or colours(ours) == owned
    for ours_, theirs_ in (
        (tracked.split(), plain.split()),
        (tracked.split(letters), plain.split(letters)),
        (tracked.split("a", 1), plain.split("a", 1)),
        (tracked.rsplit(letters, 1), plain.rsplit(letters, 1)),
        (tracked.rsplit(), plain.rsplit()),
        (tracked.splitlines(), plain.splitlines()),
        (tracked.splitlines(True), plain.splitlines(True)),
        (list(tracked.partition(letters)), list(plain.partition(letters))),
        (list(tracked.rpartition(letters)), list(plain.rpartition(letters))),
    ):
        assert ours_ == theirs_
        assert all(sum(length for _, length in part.runs) == len(part) for part in ours_)
    cut = concat(tracked.splitlines(True))
    assert colours(cut) == marks
