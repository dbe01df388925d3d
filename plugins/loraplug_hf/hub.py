"""Downloads a base model from the Hugging Face hub into its cache: one set of weights, config and tokenizer.

All files are of one commit. A cached model is used without the network if it is pinned to a commit, and other cached
models if the hub cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from loraplug import InputError, Run
from loraplug_hf.files import check_whole, weights_of
from loraplug_hf.hub_errors import told

SINGLE = "model.safetensors"
_BESIDE = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "README.md", "LICENSE*", "NOTICE*")
_FOLDERS = ("", "additional_chat_templates")


def downloaded(id: str, revision: str | None, run: Run, *, code: bool = False) -> Path:  # noqa: A002
    """The folder of the model's snapshot in the Hugging Face cache; missing files are downloaded.

    Args:
        id: owner/name.
        revision: commit, tag or branch; None for the main branch.
        code: also download the model's Python files.

    Raises:
        InputError: no such model or revision, no access, an incomplete model, or too little disk space.
        LoraplugError: the hub cannot be reached, or returns a temporary error.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    where = f"model.id {id}"
    with told(id, revision):
        commit = _commit(id, revision, run)
        with _no_bars():
            folder = Path(snapshot_download(id, revision=commit, allow_patterns=["config.json"]))
        names = _listed(id, commit, folder)

        def read(name: str) -> str:
            with _no_bars():
                return Path(hf_hub_download(id, name, revision=commit)).read_text(encoding="utf-8")

        weights = weights_of(names, read, where)
        wanted = [*weights, *(name for name in names if _goes_with(name, code))]
        if weights != [SINGLE]:
            wanted += [name for name in names if "/" not in name and name.endswith(".safetensors.index.json")]
        if any(not (folder / name).is_file() for name in wanted):
            _download(id, commit, [*map(escape, wanted)], folder, run)
    for name in weights:
        check_whole(folder / name, where, f"delete {folder.parent.parent} to download it again; if that does not help, "
            "the repository itself is damaged: use another revision")  # fmt: skip
    return folder


def _goes_with(name: str, code: bool) -> bool:
    folder, _, last = name.rpartition("/")
    if name.endswith(".py"):
        return code
    beside = folder in _FOLDERS and any(fnmatchcase(last, pattern) for pattern in _BESIDE)
    return beside and ".index." not in last


def _commit(id: str, revision: str | None, run: Run) -> str:  # noqa: A002
    """The commit of a revision; if the hub does not answer, the commit that was downloaded before."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError, RevisionResolutionError

    api = HfApi()
    try:
        now: str = api.resolve_revision(id, revision=revision)
        return now
    except RevisionNotFoundError:
        raise
    except HfHubHTTPError as error:
        try:
            kept = api.resolve_revision(id, revision=revision, local_files_only=True)
        except RevisionResolutionError:
            raise error from None
        answer = f"the hub answers {error.response.status_code} for {id}"
        run.warn(f"model: {answer}; using the cached commit {kept.resolved[:12]}")
        known: str = kept
        return known


def _listed(id: str, commit: str, folder: Path) -> list[str]:  # noqa: A002
    """The repository's file names; offline, with a cache of an older version, those that are cached."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(id, revision=commit)]
    except CachedRepoTreeNotFoundError:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Disable progress bars for small downloads."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _download(id: str, commit: str, patterns: list[str], folder: Path, run: Run) -> None:  # noqa: A002
    import shutil

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        with _no_bars():
            ahead = snapshot_download(id, revision=commit, allow_patterns=patterns, dry_run=True)
    except DryRunError as error:  # it says no more; its cause is the hub's answer
        raise error.__cause__ or error from None
    missing = sum(file.file_size or 0 for file in ahead if file.will_download)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise InputError(
            f"needs {missing / 1e9:,.1f} GB, and the disk of the cache has {free / 1e9:,.1f} GB left",
            where=f"model.id {id}",
            todo=f"free space in {constants.HF_HUB_CACHE}, or set HF_HOME to a folder on a larger disk",
        )
    run.say(f"model: downloading {missing / 1e9:,.2f} GB of {id} into the Hugging Face cache")
    snapshot_download(id, revision=commit, allow_patterns=patterns)
