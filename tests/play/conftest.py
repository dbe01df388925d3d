"""A run of the tiny recipe, made once by the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """\
run_name = "tiny"
[dataset]
use = "jsonl"
path = "rows.jsonl"
[formatter]
use = "chat-template"
max_length = 256
[model]
use = "transformers"
id = '{model}'
[trainer]
use = "sft"
max_steps = 4
learning_rate = 1e-2
samples = 0
[trainer.lora]
r = 4
[[exporter]]
use = "adapter"
[[exporter]]
use = "merged"
"""


@pytest.fixture(scope="session")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/adapters/tiny, outputs/merged/tiny and outputs/runs/tiny."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}"} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE.format(model=tiny_model), encoding="utf-8")
    env = os.environ | {"LORAPLUG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "loraplug", "run", "recipe.toml"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def adapter(finished: Path) -> Path:
    """The exported adapter."""
    return finished / "outputs/adapters/tiny"


@pytest.fixture(scope="session")
def merged(finished: Path) -> Path:
    """The merged model."""
    return finished / "outputs/merged/tiny"
