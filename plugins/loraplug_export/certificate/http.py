"""A JSON request to a server."""

from __future__ import annotations

from typing import Any

from loraplug import LoraplugError, redact

_SECONDS = 600


def ask(url: str, key: str | None = None, **body: Any) -> dict[str, Any]:
    """The JSON response to a POST request.

    Raises:
        LoraplugError: the server cannot be reached, or returns an error.
    """
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        told = httpx2.post(url, json=body, headers=headers, timeout=_SECONDS)
        told.raise_for_status()
        found: dict[str, Any] = told.json()
    except httpx2.HTTPStatusError as error:
        text = redact(" ".join(error.response.text.split())[:300])
        raise LoraplugError(f"the server returned an error ({error.response.status_code}): {text}", where=url) from None
    except (httpx2.HTTPError, ValueError) as error:
        what = f"no answer from the server ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise LoraplugError(what, where=url, todo="start the server, or remove `server`") from None
    return found
