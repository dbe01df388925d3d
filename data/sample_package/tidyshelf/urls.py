"""Joining, query strings and clean addresses."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote_plus

DEFAULT_PORTS = {"http": 80, "https": 443}


def join_url(base: str, *parts: str) -> str:
    """Join path parts to a base with exactly one slash between them."""
    pieces = [base.rstrip("/")]
    pieces += [part.strip("/") for part in parts if part.strip("/")]
    return "/".join(pieces)


def build_query(params: Mapping[str, object]) -> str:
    """Write parameters in order of their name, leaving out None."""
    pairs = []
    for name in sorted(params):
        value = params[name]
        if value is not None:
            pairs.append(f"{quote(name, safe='')}={quote(str(value), safe='')}")
    return "&".join(pairs)


def parse_query(query: str) -> dict[str, list[str]]:
    """Read a query string; names may be repeated."""
    result: dict[str, list[str]] = {}
    for pair in query.lstrip("?").split("&"):
        if pair:
            name, _, value = pair.partition("=")
            result.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return result


def split_host(host: str, scheme: str = "https") -> tuple[str, int]:
    """Split "host:port", using the scheme's usual port when none is given."""
    name, colon, port = host.partition(":")
    if not colon:
        return name.lower(), DEFAULT_PORTS[scheme]
    return name.lower(), int(port)


def clean_url(url: str) -> str:
    """Lower the host, drop the fragment and a slash at the end."""
    url = url.strip().partition("#")[0]
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/")


def file_extension(url: str) -> str:
    """Return the lower-case extension of an address's file, or ''."""
    path = url.partition("?")[0].partition("#")[0]
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return extension.lower() if dot and stem else ""
