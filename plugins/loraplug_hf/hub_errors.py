"""Translates errors of the hub into ours, with the next step for each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loraplug import InputError, LoraplugError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told(id: str, revision: str | None) -> Iterator[None]:  # noqa: A002
    """Context manager: turn errors of huggingface_hub into ours.

    Raises:
        InputError: what the user can correct: the name, the revision, the token, the terms, the disk.
        LoraplugError: other failures: the network, a hub that is down, rate limits.
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError

    try:
        yield
    except HFValidationError as error:
        todo = "write owner/name, ./folder, file.gguf or package:NAME/FILE.gguf"
        why = "" if id.count("/") > 1 else f" ({_line(error)})"  # a path has no owner and name to find fault with
        raise InputError(
            f"is neither a hub id nor an existing path{why}", where=f"model.id {id}", todo=f"check the path; {todo}"
        ) from None
    except (HTTPError, OSError, RevisionResolutionError) as error:
        raise _ours(error, id, revision) from None


def _ours(error: BaseException, id: str, revision: str | None) -> LoraplugError:  # noqa: A002
    from httpx2 import ConnectError, HTTPError, TimeoutException
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    where, chain = f"model.id {id}", [*_causes(error)]
    for one in chain:
        if isinstance(one, HfHubHTTPError):
            return _refused(one, where, id, revision)
        if isinstance(one, OfflineModeIsEnabled):
            todo = "unset HF_HUB_OFFLINE to download it, or give a local folder or .gguf file as model.id"
            return InputError("is not completely in the cache, and HF_HUB_OFFLINE is set", where=where,
                              todo=todo)  # fmt: skip
        if isinstance(one, OSError) and one.errno in _FULL:
            todo = "free space, or set HF_HOME to a folder on a larger disk; complete files are kept"
            return InputError("the disk is full", where=one.filename or where, todo=todo)
    silent = any(isinstance(one, ConnectError | TimeoutException) for one in chain)
    if silent or not isinstance(error, HTTPError | OSError) or isinstance(error, LocalEntryNotFoundError):
        todo = f"check the network{_endpoint()}, or give a local folder or .gguf file as model.id"
        return LoraplugError(f"the hub could not be reached ({_line(chain[-1])})", where=where, todo=todo)
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(error.strerror or str(error), where=error.filename or where)
    todo = "run the same command again; complete files are not downloaded again"
    return LoraplugError(f"the download was interrupted ({_line(error)})", where=where, todo=todo)


def _refused(error: HfHubHTTPError, where: str, id: str, revision: str | None) -> LoraplugError:  # noqa: A002
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, token = error.response.status_code, get_token() is not None
    page = f"{constants.ENDPOINT}/{id}"
    with_token = "with the account that HF_TOKEN belongs to" if token else "and set HF_TOKEN (.env or the environment)"
    if isinstance(error, GatedRepoError):
        return InputError(
            "is gated, and you have no access yet", where=where, todo=f"accept the terms on {page} {with_token}"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(f'has no revision "{revision}"', where=where, todo=f"check model.revision: {page}/commits")
    if isinstance(error, DisabledRepoError):
        return InputError("was disabled by the hub", where=where, todo="use another model")
    if isinstance(error, RemoteEntryNotFoundError):
        return InputError(f"is incomplete on the hub ({_line(error)})", where=where, todo="set another model.revision")
    if isinstance(error, RepositoryNotFoundError) or status == 404 or (status == 401 and not token):
        what = f"does not exist on the hub, or is private ({status})"
        todo = "check the spelling; for a local folder write ./folder; for a private one "
        todo += "HF_TOKEN must have read access to it" if token else "set HF_TOKEN (.env or the environment)"
        return InputError(what, where=where, todo=todo)
    if status == 401:
        todo = "set HF_TOKEN to a token that is still valid, or unset it for public models"
        return InputError("the hub does not accept this token (401)", where=where, todo=todo)
    if status == 403:
        todo = f"give the token in HF_TOKEN read access to it: {constants.ENDPOINT}/settings/tokens"
        return InputError(f"this token has no read access to it (403: {_said(error)})", where=where, todo=todo)
    if status == 429:
        own = "" if token else "; with HF_TOKEN the hub allows more requests"
        return LoraplugError(
            "too many requests to the hub (429)", where=where, todo=f"{_wait(error)}, then run again{own}"
        )
    return LoraplugError(f"the hub returned an error ({status}: {_said(error)})", where=where, todo="try again later")


def _wait(error: HfHubHTTPError) -> str:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit, after = parse_ratelimit_headers(error.response.headers), error.response.headers.get("Retry-After", "")
    seconds = limit.reset_in_seconds if limit else int(after) if after.isdecimal() else None
    return "wait some minutes" if seconds is None else f"wait {seconds} seconds"


def _said(error: HfHubHTTPError) -> str:
    return " ".join((error.server_message or error.response.reason_phrase).split())[:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _endpoint() -> str:
    from huggingface_hub import constants

    return "" if constants.ENDPOINT == "https://huggingface.co" else f" and HF_ENDPOINT ({constants.ENDPOINT})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
