"""Checks before the run whether the hub would accept a push."""

from __future__ import annotations

from collections.abc import Iterator

from loraplug import Problem

_SECONDS = 10


def push_problems(repo: str, private: bool) -> Iterator[Problem]:
    """Problems that would stop a push to this repository, as far as the hub can tell."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    key = "exporter.repo"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        yield Problem(key, f"{_line(error)}; choose another name")
        return
    if get_token() is None:
        yield Problem(key, f"{repo}: no token to push with; set HF_TOKEN, in .env or the environment")
        return
    api = HfApi()
    try:
        role = (api.whoami().get("auth") or {}).get("accessToken", {}).get("role")
        if role == "read":
            yield Problem(key, f"{repo}: the token may only read; set HF_TOKEN to one with write access")
        if private and not api.repo_info(repo, timeout=_SECONDS).private:
            yield Problem(key, f"{repo}: is public already; set private = false to push to it, or rename")
    except RepositoryNotFoundError:
        return  # it will be created
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            what = f"the hub does not accept the token ({status}); set HF_TOKEN to one with write access"
        elif status == 429:
            what = "too many requests to the hub (429); wait some minutes, then try again"
        elif status >= 500 or not status:
            what = f"the hub returned an error ({status}); try again later, or remove the exporter"
        else:  # a mirror without an API to identify the token
            return
        yield Problem(key, f"{repo}: {what}")
    except OfflineModeIsEnabled:
        yield Problem(key, f"{repo}: HF_HUB_OFFLINE is set; unset it to push, or remove the exporter")
    except (OSError, HTTPError) as error:
        yield Problem(key, f"{repo}: the hub could not be reached ({_line(error)}); check the network")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
