"""Readers for small text formats."""

from __future__ import annotations

TRUE_WORDS = {"yes", "true", "on", "1"}
FALSE_WORDS = {"no", "false", "off", "0"}


def parse_bool(text: str) -> bool:
    """Read a yes/no word in any case."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(f"not a yes/no word: {text!r}")


def parse_csv_line(line: str, separator: str = ",") -> list[str]:
    """Split one CSV line; quoted fields may hold the separator."""
    fields, current, quoted = [], "", False
    for char in line:
        if char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            fields.append(current.strip())
            current = ""
        else:
            current += char
    fields.append(current.strip())
    return fields


def parse_ini(text: str) -> dict[str, dict[str, str]]:
    """Read sections of "key = value" lines; # starts a comment line."""
    sections: dict[str, dict[str, str]] = {}
    current = sections.setdefault("", {})
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1].strip(), {})
            continue
        key, _, value = line.partition("=")
        current[key.strip()] = value.strip()
    return sections


def parse_duration(text: str) -> int:
    """Turn text such as "1h30m" into minutes."""
    minutes, digits = 0, ""
    for char in text.strip().lower():
        if char.isdigit():
            digits += char
        elif char in "hm" and digits:
            minutes += int(digits) * (60 if char == "h" else 1)
            digits = ""
        else:
            raise ValueError(f"not a duration: {text!r}")
    if digits or not text.strip():
        raise ValueError(f"duration without a unit: {text!r}")
    return minutes


def parse_ranges(text: str) -> list[int]:
    """Expand page ranges such as "1-3, 7" into sorted page numbers."""
    pages: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        end = int(last) if dash else int(first)
        pages.update(range(int(first), end + 1))
    return sorted(pages)


def parse_search(text: str) -> tuple[dict[str, str], list[str]]:
    """Split search text into field:value filters and plain words."""
    filters: dict[str, str] = {}
    words: list[str] = []
    for part in text.split():
        field, colon, value = part.partition(":")
        if colon and field and value:
            filters[field.lower()] = value
        else:
            words.append(part.lower())
    return filters, words
