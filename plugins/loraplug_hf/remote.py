"""What is known of a base on the hub before it is downloaded: from the hub's cache, else by asking the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from loraplug import BaseFacts, InputError, LoraplugError
from loraplug_hf.folder_facts import read_folder

SECONDS = 10
"""The hub is waited for so long."""
_SMALL = ("config.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_known: dict[tuple[str, str | None], BaseFacts] = {}


def facts(id: str, revision: str | None, *, ask: bool) -> BaseFacts | None:  # noqa: A002 - the recipe's own word
    """What the hub's cache tells of a base; None where it is not there and the hub is not asked.

    Raises:
        InputError: the hub knows no such model or revision, or lets nobody without access have it.
        LoraplugError: the hub does not answer, or refuses for now.
    """
    if (folder := _cached(id, revision)) is not None:
        found, problems = read_folder(folder)
        if not problems:
            return found
    if ask:
        _known[id, revision] = _asked(id, revision)
    return _known.get((id, revision))


def _cached(id: str, revision: str | None) -> Path | None:  # noqa: A002
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(id, "config.json", revision=revision)
    except HFValidationError:  # told when the hub is asked
        return None
    return Path(path).parent if isinstance(path, str) else None


def _asked(id: str, revision: str | None) -> BaseFacts:  # noqa: A002
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import NotASafetensorsRepoError

    api = HfApi()
    with answering(id, revision):
        info = api.model_info(id, revision=revision, timeout=SECONDS)
        if info.gated:
            api.auth_check(id)
        there = {one.rfilename for one in info.siblings or ()}
        where = f"model.id {id}"
        if "config.json" not in there:
            todo = "take the repository of a transformers model"
            raise InputError("has no config.json on the hub", where=where, todo=todo)
        if not any(name.endswith(".safetensors") for name in there):
            todo = "take a revision with safetensors, or convert it in a sandbox"
            raise InputError("has no .safetensors weights; pickled ones are not loaded", where=where, todo=todo)
        paths = [hf_hub_download(id, name, revision=info.sha) for name in _SMALL if name in there]
        found, _ = read_folder(Path(paths[0]).parent)
        try:
            files = api.get_safetensors_metadata(id, revision=info.sha).files_metadata
        except NotASafetensorsRepoError:
            files = {}
    weights = {
        name: (tensor.dtype, tuple(tensor.shape)) for file in files.values() for name, tensor in file.tensors.items()
    }
    return attrs.evolve(found, weights=weights)


@contextmanager
def answering(id: str, revision: str | None) -> Iterator[None]:  # noqa: A002
    """Turn what the hub answers, or that it does not, into an error that says what to do.

    Raises:
        InputError: 401, 403, 404, or no name for a repository.
        LoraplugError: 429, another refusal, or no answer.
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model.id {id}"
    try:
        yield
    except GatedRepoError:
        todo = f"accept the terms on https://huggingface.co/{id} and set HF_TOKEN (in .env or the environment)"
        raise InputError("is gated and you have no access yet", where=where, todo=todo) from None
    except RevisionNotFoundError:
        raise InputError(f'has no revision "{revision}"', where=where, todo="check model.revision") from None
    except RepositoryNotFoundError:
        todo = "check the spelling; for a private one set HF_TOKEN; for a local folder write ./folder"
        raise InputError("is not on the hub, or is private", where=where, todo=todo) from None
    except HFValidationError as error:
        todo = "write owner/name, ./folder, file.gguf or package:NAME/FILE.gguf"
        raise InputError(f"is no hub id and no existing path ({error})", where=where, todo=todo) from None
    except HfHubHTTPError as error:
        raise _refused(error.response.status_code if error.response is not None else 0, where) from None
    except OfflineModeIsEnabled:
        todo = "unset HF_HUB_OFFLINE, or give a local folder or .gguf file"
        what = "is not in the hub's cache, and the hub was not reached: HF_HUB_OFFLINE is set"
        raise LoraplugError(what, where=where, todo=todo) from None
    except (OSError, HTTPError) as error:
        text = " ".join(str(error).split())[:200]
        todo = "check the network, or give a local folder or .gguf file"
        raise LoraplugError(f"the hub was not reached ({text})", where=where, todo=todo) from None


def _refused(status: int, where: str) -> LoraplugError:
    if status == 429:
        todo = "wait some minutes, then run the same command again; with HF_TOKEN set the hub allows more"
        return LoraplugError("the hub has had too many requests from here (429)", where=where, todo=todo)
    if status in (401, 403):
        todo = "set HF_TOKEN (in .env or the environment) to a token that may read it"
        return InputError(f"may not be read ({status})", where=where, todo=todo)
    if status == 404:
        return InputError("is not on the hub, or is private", where=where, todo="check the spelling, or set HF_TOKEN")
    return LoraplugError(f"the hub refused ({status})", where=where, todo="try again later")
