"""Facts of a base on the hub before it is downloaded: from the cache, else from the hub."""

from __future__ import annotations

from pathlib import Path

import attrs

from loraplug import BaseFacts
from loraplug_hf.files import weights_of
from loraplug_hf.folder_facts import read_folder
from loraplug_hf.hub_errors import told

SECONDS = 10
"""Timeout of requests to the hub, in seconds."""
_SMALL = ("config.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_known: dict[tuple[str, str | None], BaseFacts] = {}


def facts(id: str, revision: str | None, *, ask: bool) -> BaseFacts | None:  # noqa: A002 - the recipe's own word
    """The facts of a cached base; None if it is not cached and the hub may not be asked.

    Raises:
        InputError: there is no such model or revision on the hub, or no access to it.
        LoraplugError: the hub does not answer, or returns a temporary error.
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
    except HFValidationError:  # reported when the hub is asked
        return None
    return Path(path).parent if isinstance(path, str) else None


def _asked(id: str, revision: str | None) -> BaseFacts:  # noqa: A002
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import NotASafetensorsRepoError

    api = HfApi()
    with told(id, revision):
        info = api.model_info(id, revision=revision, timeout=SECONDS)
        if info.gated:
            api.auth_check(id)
        there = {one.rfilename for one in info.siblings or ()}
        weights_of(
            there,
            lambda name: Path(hf_hub_download(id, name, revision=info.sha)).read_text(encoding="utf-8"),
            f"model.id {id}",
        )
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
