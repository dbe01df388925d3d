"""Options of the sources and their validators, in a separate module so that listing plugins stays fast."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, InputError

Answer = Literal["auto", "gold", "revert-bug"]
Turns = Literal["single", "agent", "tools"]

_SPAN = re.compile(r"\s*(\d{1,11})\s*(?:-\s*(\d{1,11})\s*)?")
_MOST_IDS = 10_000_000


def parse_ids(text: str) -> list[int]:
    """`"0-99,205"` as numbers, in the order written, each once.

    Raises:
        ValueError: the text has another form; the message shows a valid one.
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        if not match:
            raise ValueError(f'{part.strip()!r} is not a number or a span; write for example "0-99,205"')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{part.strip()!r} runs backwards")
        if last - first + len(numbers) >= _MOST_IDS:
            raise ValueError(f"more than {_MOST_IDS:,} ids; use fewer, or several runs with a part each")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return list(numbers)


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/5"` as (2, 5), the second of five.

    Raises:
        ValueError: not of this form.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f'{text!r} is not i/n with 1 <= i <= n, such as "2/5"')
    return int(match[1]), int(match[2])


def valid_ids(_: object, __: Any, value: str | None) -> None:
    """attrs validator for `ids`."""
    if value is not None:
        parse_ids(value)


def valid_shard(_: object, __: Any, value: str | None) -> None:
    """attrs validator for `shard`."""
    if value is not None:
        parse_shard(value)


@frozen
class BucketOptions:
    """Request rate, retries and time limits for a bucket."""

    parallel: Annotated[int, Doc("requests in parallel")] = field(
        default=8, validator=[validators.ge(1), validators.le(64)]
    )
    per_second: Annotated[float, Doc("maximum number of requests started per second")] = field(
        default=20.0, validator=validators.gt(0)
    )
    attempts: Annotated[int, Doc("attempts per task, including the first")] = field(
        default=6, validator=validators.ge(1)
    )
    backoff: Annotated[float, Doc("seconds before the second attempt; doubles with each further attempt")] = field(
        default=0.5, validator=validators.ge(0)
    )
    max_wait: Annotated[float, Doc("maximum seconds between attempts, even if Retry-After asks for more")] = field(
        default=120.0, validator=validators.ge(0)
    )
    timeout: Annotated[float, Doc("seconds for one whole response")] = field(default=30.0, validator=validators.gt(0))
    max_bytes: Annotated[int, Doc("maximum size of a task, in bytes")] = field(
        default=10_000_000, validator=validators.ge(1_000)
    )


@frozen
class GitLimits:
    """Limits for git."""

    timeout: Annotated[float, Doc("time limit in seconds of a git call on local objects")] = field(
        default=120.0, validator=validators.gt(0)
    )
    clone_timeout: Annotated[float, Doc("time limit in seconds of a clone or fetch")] = field(
        default=3600.0, validator=validators.gt(0)
    )
    max_file_bytes: Annotated[int, Doc("tasks whose patch touches a larger file are rejected")] = field(
        default=2_000_000, validator=validators.ge(1)
    )
    max_output_bytes: Annotated[int, Doc("maximum output of a git call, in bytes")] = field(
        default=256_000_000, validator=validators.ge(1)
    )


def transport(url: str) -> str:
    """The protocol git will use for a clone address; a path is `file`.

    Raises:
        InputError: none of https, http, ssh, git, file, or an address that git would take for an option.
    """
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url):
        scheme = match[1].lower()
    elif re.match(r"[A-Za-z0-9+.-]+::", url) or url.startswith("-"):
        scheme = url
    else:
        scheme = "ssh" if re.match(r"[\w.-]+@[\w.-]+:", url) else "file"
    if scheme not in ("https", "http", "ssh", "git", "file"):
        raise InputError(
            f"git may not clone from {url!r}", where="clone_url", todo="use https://, ssh:// or a local path"
        )
    return scheme


def valid_clone_url(_: object, __: Any, value: str) -> None:
    """attrs validator for `clone_url`."""
    try:
        transport(value)
    except InputError as error:
        raise ValueError(error.what) from None
