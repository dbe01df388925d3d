"""Wrapping, titles, names and slugs."""

from __future__ import annotations

ARTICLES = ("the", "a", "an")
SMALL_WORDS = {"a", "an", "and", "in", "of", "on", "or", "the", "to"}


def wrap(text: str, width: int) -> list[str]:
    """Break text into lines of at most width characters, at spaces."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        if current and len(current) + 1 + len(word) > width:
            lines.append(current)
            current = word
        else:
            current = f"{current} {word}" if current else word
    if current:
        lines.append(current)
    return lines


def truncate(text: str, limit: int) -> str:
    """Shorten text to at most limit characters, marking the cut with dots."""
    if len(text) <= limit:
        return text
    return text[: limit - 3].rstrip() + "..."


def title_case(text: str) -> str:
    """Capitalize a title, leaving small words inside it in lower case."""
    words = text.lower().split()
    result = []
    for index, word in enumerate(words):
        small = word in SMALL_WORDS and index > 0
        result.append(word if small else word.capitalize())
    return " ".join(result)


def slugify(text: str) -> str:
    """Turn a title into lower-case words joined by single dashes."""
    cleaned = "".join(char if char.isalnum() else " " for char in text)
    return "-".join(cleaned.lower().split())


def sort_title(title: str) -> str:
    """Return the key a title is shelved under, without its article."""
    words = title.lower().split()
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return " ".join(words)


def last_name_first(name: str) -> str:
    """Turn "Ann Lee" into "Lee, Ann"; single names stay as they are."""
    first, _, last = name.strip().rpartition(" ")
    return f"{last}, {first}" if first else last


def initials(name: str) -> str:
    """Return the first letter of every part of a name, with dots."""
    return "".join(f"{part[0].upper()}." for part in name.split())


def count_words(text: str) -> dict[str, int]:
    """Count words, ignoring case and punctuation around them."""
    counts: dict[str, int] = {}
    for raw in text.split():
        word = raw.strip(".,;:!?").lower()
        if word:
            counts[word] = counts.get(word, 0) + 1
    return counts


def pluralize(count: int, noun: str) -> str:
    """Write a count with its noun, such as "1 copy" or "3 copies"."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def highlight(text: str, term: str) -> str:
    """Put square brackets around every match of a term, in any case."""
    if not term:
        return text
    result, start = "", 0
    while (found := text.lower().find(term.lower(), start)) >= 0:
        end = found + len(term)
        result += f"{text[start:found]}[{text[found:end]}]"
        start = end
    return result + text[start:]
