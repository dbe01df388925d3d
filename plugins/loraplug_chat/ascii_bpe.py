"""A fast, exact tokenizer for plain ASCII text under byte-level BPE.

Such tokenizers cut text into words by one regular expression and encode every word by itself, so the ids of a word can
be looked up. Whatever is not certain to be cut in the same way (other scripts, other kinds of tokenizer) is left to the
tokenizer itself; `Words.of` then gives None, or `ids` does.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import Any

from attrs import define, field

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
PLAIN = re.compile(r"[\t\n\r -~]*")
REMEMBERED, TEXTS, SHORT = 400_000, 20_000, 400


@define
class Words:
    """Looks up words, about `REMEMBERED` of them, and short texts, such as a system turn that comes again."""

    _pattern: re.Pattern[str]
    _model: Any
    _letters: dict[int, str]
    _known: dict[str, list[int]] = field(factory=dict)
    _texts: dict[str, list[int]] = field(factory=dict)

    @classmethod
    def of(cls, tokenizer: Any) -> Words | None:
        """For a fast tokenizer of the known kind, else None."""
        backend = tokenizer.backend_tokenizer
        pattern = _pattern(json.loads(backend.to_str()))
        if pattern is None:
            return None
        letters = {
            code: backend.pre_tokenizer.pre_tokenize_str(chr(code))[0][0] for code in (9, 10, 13, *range(32, 127))
        }
        if any(len(letter) != 1 for letter in letters.values()):
            return None
        return cls(re.compile(pattern), backend.model, letters)

    def ids(self, text: str) -> list[int] | None:
        """Token ids of text that holds no added token; None where it is not plain ASCII."""
        known, texts = self._known, self._texts
        if (found := texts.get(text)) is not None:
            return found
        if not PLAIN.fullmatch(text):
            return None
        words = self._pattern.findall(text)
        try:
            ids = list(chain.from_iterable(map(known.__getitem__, words)))
        except KeyError:
            if len(known) > REMEMBERED:
                known.clear()
            for word in words:
                if word not in known:
                    known[word] = [token.id for token in self._model.tokenize(word.translate(self._letters))]
            ids = list(chain.from_iterable(map(known.__getitem__, words)))
        if len(text) < SHORT:
            if len(texts) > TEXTS:
                texts.clear()
            texts[text] = ids
        return ids


def _pattern(config: dict[str, Any]) -> str | None:
    """The words' regular expression for ASCII text, or None if the tokenizer does anything else to it."""
    model, normalizer = config["model"], config["normalizer"]
    if model["type"] != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        return None
    if model.get("end_of_word_suffix") or not (normalizer is None or normalizer["type"] in ("NFC", "NFKC")):
        return None
    steps = config["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    before, split_by_bytes = steps[:-1], steps[-1].get("use_regex", True)
    if not before and split_by_bytes:
        return _for_ascii(GPT2)
    if len(before) == 1 and before[0]["type"] == "Digits" and before[0]["individual_digits"] and split_by_bytes:
        return _for_ascii(GPT2_DIGITS)
    if len(before) == 1 and before[0]["type"] == "Split" and not split_by_bytes:
        split = before[0]
        if split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]:
            return _for_ascii(split["pattern"]["Regex"])
    return None


def _for_ascii(pattern: str) -> str | None:
    """The same expression for Python's `re`, given that the text is printable ASCII, tab, CR and LF."""
    made, inside, at = [], False, 0
    classes = {"L": "a-zA-Z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9", "M": "", "Lt": "", "Lm": "", "Lo": ""}
    while at < len(pattern):
        if found := re.compile(r"\\p\{(\w+)\}").match(pattern, at):
            letters = classes.get(found[1])
            if letters is None or not (letters or inside):
                return None
            made.append(letters if inside else f"[{letters}]")
            at = found.end()
            continue
        if pattern[at] == "\\":
            if pattern[at + 1] in "Pp":
                return None
            made.append(pattern[at : at + 2])
            at += 2
            continue
        if pattern[at] == "[":
            if inside:
                return None
            inside = True
        elif pattern[at] == "]":
            inside = False
        made.append(pattern[at])
        at += 1
    try:
        compiled = re.compile("".join(made))
    except re.error:
        return None
    return None if compiled.groups else compiled.pattern
