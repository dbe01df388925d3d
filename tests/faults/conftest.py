"""The warm process, one recipe, and what an undisturbed run of it makes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from harness import Undisturbed, products

from forked import Server
from loraplug import load_registry, options

if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def job_recipe(recipe: Path) -> Path:
    """The tests' recipe with steps enough for kills to meet training, and a checkpoint after every second of them."""
    trainer = next(entry.cls for entry in load_registry().entries if (entry.kind, entry.name) == ("trainer", "sft"))
    saving = "save_every = 2\n" if any(option.name == "save_every" for option in options(trainer)) else ""
    text = recipe.read_text(encoding="utf-8").replace("max_steps = 4\n", f"max_steps = 12\n{saving}")
    recipe.write_text(text, encoding="utf-8")
    return recipe


@pytest.fixture
def undisturbed(server: Server, job_recipe: Path, tmp_path: Path) -> type[Undisturbed]:
    """Run once, away from the test's folder."""
    if Undisturbed.products is None:
        place = tmp_path / "undisturbed"
        place.mkdir()
        shutil.copy(tmp_path / "rows.jsonl", place)
        shutil.copy(job_recipe, place / "recipe.toml")
        begun = time.monotonic()
        done = server.run(place, "run", "recipe.toml")
        assert done.wait() == 0, done.said()
        Undisturbed.seconds = time.monotonic() - begun
        Undisturbed.products = products(place)
        assert len(Undisturbed.products) == 2
    return Undisturbed
