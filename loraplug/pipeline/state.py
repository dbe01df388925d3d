"""`state.json` of a run's folder: the recipe of an earlier start, its progress, and its artefacts."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraplug import files
from loraplug.config.secrets import redact, redacted
from loraplug.config.tables import as_key
from loraplug.context import Run
from loraplug.errors import InputError
from loraplug.plugin.registry import Registry
from loraplug.recipe.lock import as_table, leaves
from loraplug.recipe.recipe import Recipe

State = dict[str, Any]
STATE = "state.json"
_LONGER = {"trainer.epochs", "trainer.max_steps"}
_MADE_AGAIN = {STATE, "events.jsonl", "recipe.lock.toml", "published.json", "chat_template.jinja", "encoded.digests",
               "rejects.jsonl", "checkpoints", "metrics.jsonl", "loss.svg", "loss.png"}  # fmt: skip
"""What a run without checkpoint or adapter leaves in its folder."""
_AGAIN = "choose another run_name, or start over with `loraplug run --fresh`, which moves the earlier run aside"


def open_state(run: Run, recipe: Recipe, registry: Registry) -> State:
    """What an earlier run of this name left, if it ran this very recipe (exporters may differ); else a new beginning.

    An earlier run of another recipe that had nothing worth keeping yet is forgotten, and that is said.

    Raises:
        InputError: something would be lost; says what, which values differ, and how to go on.
    """
    table = _plain(as_table(recipe, registry, secrets=True))
    identity = {key: value for key, value in table.items() if key != "exporter"}
    state = read_state(run.folder)
    changed = differences(state.get("recipe", {}), state.get("secrets", {}), identity) if state else []
    kept = worth_keeping(run.folder, state) if changed or state.get("failed") else []
    if changed and kept:
        raise _taken(run, recipe, state, changed, kept)
    if changed or (state.get("failed") and not kept):
        if (aside := clear(run.folder)) is not None:
            run.say(f"moved other files of the run's folder to {aside}")
        if changed:
            run.say(f"an earlier run of this name had made nothing yet: starting over (different: {_few(changed)})")
        state = {}
    state.setdefault("artefacts", {})
    if "secrets" not in state:
        old = bool(state.get("recipe"))
        state |= seal(identity)
        if old:  # by a version that wrote secrets down
            save(run, state)
    return state


def read_state(folder: Path, broken: State | None = None) -> State:
    """The state in a run's folder, empty where there is none.

    Raises:
        InputError: it cannot be read, and no `broken` is given to be taken in its place.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict) and broken is not None:
        return broken
    if not isinstance(state, dict):
        raise InputError(
            "is broken", where=folder / STATE, todo="start over with --fresh, which moves the earlier run aside"
        )
    return state


def save(run: Run, state: State) -> None:
    """Write the state."""
    files.write_text(run.folder / STATE, json.dumps(state, indent=1))


def worth_keeping(folder: Path, state: Mapping[str, Any]) -> list[str]:
    """What starting over would lose, in words; nothing of it can be made again without training."""
    found = []
    if (folder / "adapter").exists():
        found.append("a trained adapter")
    if any(path.is_dir() for path in (folder / "checkpoints").glob("[!.]*")):
        found.append("training checkpoints")
    made = [place for place, how in state.get("artefacts", {}).items() if how == "made" and Path(place).exists()]
    return found + ([f"exports ({', '.join(made)})"] if made else [])


def clear(folder: Path) -> Path | None:
    """Forget a run that has nothing worth keeping; what nobody here knows is moved aside, and its place given."""
    with files.wrap_os_errors(folder):
        for path in folder.iterdir():
            if path.name in _MADE_AGAIN:
                files.remove(path)
    return _move(folder) if any(path.name != ".lock" for path in folder.iterdir()) else None


def _move(folder: Path) -> Path:
    aside = free_name(folder)
    with files.wrap_os_errors(folder):
        aside.mkdir()
        for path in folder.iterdir():
            if path.name != ".lock":
                path.rename(aside / path.name)
    return aside


def set_aside(folder: Path) -> Path | None:
    """Start over: move all that a run left into a folder beside its own, `<run>.before-<time>`.

    Returns:
        That folder; None where there was nothing worth keeping, which is removed.
    """
    return _move(folder) if worth_keeping(folder, read_state(folder, broken={})) else clear(folder)


def free_name(place: Path) -> Path:
    """A name beside a file or folder that is to be kept aside."""
    stamp = f"{place.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while (path := place.with_name(stamp + (f"-{number}" if number > 1 else ""))).exists():
        number += 1
    return path


def _taken(run: Run, recipe: Recipe, state: State, changed: list[str], kept: list[str]) -> InputError:
    what = f"a run of this name was made with another recipe (different: {_few(changed)}); it has {' and '.join(kept)}"
    if "figures" in state and _LONGER & set(changed) and _starts_from(recipe):
        adapter = run.folder / "adapter"
        shown = adapter.relative_to(Path.cwd()) if adapter.is_relative_to(Path.cwd()) else adapter
        way = f"--set run_name={run.name}-more --set trainer.{_lora_table(recipe)}.start_from={shown}"
        return InputError(
            what, where=run.name, todo=f"that run is finished; to train its adapter further: {way}; else {_AGAIN}"
        )
    return InputError(what, where=run.name, todo=_AGAIN)


def _starts_from(recipe: Recipe) -> bool:
    """Whether the trainer can go on from an adapter."""
    return hasattr(getattr(recipe.trainer, _lora_table(recipe), None), "start_from")


def _lora_table(recipe: Recipe) -> str:
    """Which table of the trainer says what is trained: the short one, unless an adapter stands there."""
    return "lora" if getattr(recipe.trainer, "adapter", None) is None else "adapter"


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "")


# tables that may hold secrets, kept so that they can be compared and not be read


def _plain(table: Any) -> Any:
    return json.loads(json.dumps(table, default=str))  # TOML has dates


def seal(table: Mapping[str, Any]) -> State:
    """`recipe`: the table without secrets. `secrets`: a slow, salted hash of each value that was secret, by its key."""
    marks = {redact(as_key(place)): _mark(value) for place, value in leaves(table) if _hidden(place, value) != value}
    return {"recipe": redacted(table), "secrets": marks}


def differences(old: Any, marks: Mapping[str, str], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ between a sealed table and one that is not."""
    was = {as_key(place): value for place, value in leaves(old)}
    now = {redact(as_key(place)): value for place, value in leaves(new)}
    return [
        key for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and not (key in marks and _fits(marks[key], now.get(key)))
    ]  # fmt: skip


def _hidden(place: tuple[str | int, ...], value: Any) -> Any:
    return redacted(value, str(place[-1]) if place else "")


def _mark(value: Any, salt: bytes | None = None) -> str:
    salt = salt or secrets.token_bytes(16)
    made = hashlib.scrypt(json.dumps(value).encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32)  # 16 MB, 50 ms a guess
    return f"{salt.hex()}${made.hex()}"


def _fits(mark: str, value: Any) -> bool:
    return hmac.compare_digest(mark, _mark(value, bytes.fromhex(mark.partition("$")[0])))
