"""A question in JSON to a server, and its answer."""

from __future__ import annotations

from typing import Any

from loraplug import LoraplugError, redact

_SECONDS = 600


def ask(url: str, key: str | None = None, **body: Any) -> dict[str, Any]:
    """The answer to a POST.

    Raises:
        LoraplugError: the server is not there, or refuses.
    """
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        told = httpx2.post(url, json=body, headers=headers, timeout=_SECONDS)
        told.raise_for_status()
        found: dict[str, Any] = told.json()
    except httpx2.HTTPStatusError as error:
        text = redact(" ".join(error.response.text.split())[:300])
        raise LoraplugError(f"the server refuses ({error.response.status_code}): {text}", where=url) from None
    except (httpx2.HTTPError, ValueError) as error:
        what = f"no answer from the server ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise LoraplugError(what, where=url, todo="start it, or leave the server out") from None
    return found
