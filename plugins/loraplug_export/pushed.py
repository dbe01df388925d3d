"""Prepares a folder for a push to the hub: removes paths of this machine, and refuses secrets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from loraplug import PROVENANCE, LoraplugError, kinds_of_secrets, shareable
from loraplug_export.card import public_name
from loraplug_export.lora_files import CONFIG

_MOST = 16 << 20  # bytes of a text file that are searched
_VOCABULARY = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}


def pushed(folder: Path, out: Path) -> Path:
    """Make `out`, a folder to push in place of `folder`; weights are hard-linked if possible, not copied.

    The lock's folder is removed, and of a local base the adapter's config keeps only the name.

    Raises:
        LoraplugError: a file holds what looks like a secret; names the file and the kind of secret.
    """
    shutil.copytree(folder, out, copy_function=_link)
    for name, write in (("recipe.lock.toml", shareable), (CONFIG, _config), (PROVENANCE, _facts)):
        if (path := out / name).is_file():
            text = write(path.read_text(encoding="utf-8"))
            path.unlink()  # it may be a hard link to the original file
            path.write_text(text, encoding="utf-8", newline="\n")
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in _VOCABULARY and (found := _secrets(path)):
            raise LoraplugError(
                f"holds what looks like a secret ({', '.join(sorted(found))}), so nothing is pushed",
                where=folder / path.relative_to(out),
                todo="remove it there, or from the file's source, then run the same command again",
            )
    return out


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _config(text: str) -> str:
    config = json.loads(text)
    name = config.get("base_model_name_or_path")
    if isinstance(name, str):
        config["base_model_name_or_path"] = public_name(name)
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _facts(text: str) -> str:
    facts = json.loads(text)
    if isinstance(facts.get("base"), str):
        facts["base"] = public_name(facts["base"])
    return json.dumps(facts, indent=1) + "\n"


def _secrets(path: Path) -> set[str]:
    if path.stat().st_size > _MOST:
        return set()
    try:
        return kinds_of_secrets(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:  # weights, pictures
        return set()
