"""Files at `http://` and `https://` addresses. Logins come from the address itself or from `~/.netrc`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loraplug import InputError
from loraplug_data.remote import Broken, Changed, Remote, shown

if TYPE_CHECKING:
    import httpx2

_SECONDS = 30
"""So long a server may say nothing."""
_MOST_WAIT = 60.0
_TODO = {
    401: "give user and password in ~/.netrc, or in the address as ${NAME} from the environment",
    403: "check the user's access; a signed address expires and must be created again",
    404: "check the address",
    410: "check the address",
}
_WORDS = {401: "the server requires a login", 403: "the server refuses access", 404: "no such file", 410: "is gone"}


def ask_http(address: str) -> Remote:
    """The file at an address; asked by its first byte, since servers that sign addresses for GET refuse HEAD.

    Raises:
        InputError: no such file, no access, or no address.
        Broken: the server is busy or does not answer.
    """
    with _response(address, "bytes=0-0") as response:
        total = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("content-range", ""))
        plain = response.headers.get("content-length", "")
        size = int(total[1]) if total else int(plain) if response.status_code == 200 and plain.isdigit() else None
        version = _version(response)

    def stream(start: int) -> Iterator[bytes]:
        with _response(address, f"bytes={start}-" if start else None) as response:
            if _version(response) != version:
                raise Changed
            skip = start if response.status_code == 200 else 0  # a server without ranges begins anew
            for piece in response.iter_raw():  # as they come: pieces of a size would be lost half full
                if skip < len(piece):
                    yield piece[skip:]
                skip = max(0, skip - len(piece))

    return Remote(address, size, version, stream)


def _version(response: httpx2.Response) -> str:
    headers = response.headers
    return headers.get("etag", "").strip('"') or headers.get("last-modified", "")


def _login(address: str) -> httpx2.Auth | None:
    """That of netrc, where the address has none of its own."""
    import netrc

    import httpx2

    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if "@" in urlsplit(address).netloc or not file.is_file():
        return None
    try:
        return httpx2.NetRCAuth(str(file))
    except (OSError, netrc.NetrcParseError) as error:
        raise InputError(f"cannot be read ({error})", where=file, todo="mend it") from None


@contextmanager
def _response(address: str, span: str | None) -> Iterator[httpx2.Response]:
    import httpx2

    headers = {"User-Agent": "loraplug", "Accept-Encoding": "identity", **({"Range": span} if span else {})}
    try:
        with (
            httpx2.Client(timeout=_SECONDS, follow_redirects=True, headers=headers, auth=_login(address)) as client,
            client.stream("GET", address) as response,
        ):
            _check(response, address)
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise InputError(f"is not a valid address ({error})", where=shown(address)) from None
    except httpx2.HTTPError as error:
        raise Broken(shown(str(error)) or type(error).__name__) from None


def _check(response: httpx2.Response, address: str) -> None:
    code = response.status_code
    if code in (200, 206) or (code == 416 and response.headers.get("content-range", "").endswith("/0")):
        return
    if code in (408, 425, 429) or code >= 500:
        said = response.headers.get("retry-after", "")
        raise Broken(f"the server returned {code}", min(float(said), _MOST_WAIT) if said.isdigit() else 0.0)
    what = _WORDS.get(code, "the server answers")
    raise InputError(f"{what} (HTTP {code})", where=shown(address), todo=_TODO.get(code, "check the address"))
