"""A run of the tiny recipe, made once by the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from calling import calling_model
from forked import Server

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
dtype = "float32"
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
def finished(tiny_model: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/adapters/tiny, outputs/merged/tiny and outputs/runs/tiny."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}"} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE.format(model=tiny_model), encoding="utf-8")
    done = server.run(folder, "run", "recipe.toml")
    assert done.wait() == 0, done.said()
    return folder


@pytest.fixture(scope="session")
def adapter(finished: Path) -> Path:
    """The exported adapter."""
    return finished / "outputs/adapters/tiny"


@pytest.fixture(scope="session")
def merged(finished: Path) -> Path:
    """The merged model."""
    return finished / "outputs/merged/tiny"


@pytest.fixture(scope="session")
def endless(finished: Path, merged: Path) -> Path:
    """The merged model with a long context, whose answers are letters a or b and end only when they are stopped."""
    from safetensors.torch import load_file, save_file

    folder = finished / "outputs/merged/endless"
    shutil.copytree(merged, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    weights = load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    head = weights["lm_head.weight"].zero_()
    head[vocabulary["a"]], head[vocabulary["b"]] = 1e-3, -1e-3  # whatever the state, one of the two is the likeliest
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def unhurried(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The endless model with its layers 24 times over, so that its 512 tokens take longer than pressing a button."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("unhurried") / "endless"
    shutil.copytree(endless, folder)
    config = json.loads((folder / "config.json").read_text())
    layers, times = config["num_hidden_layers"], 24
    config |= {"num_hidden_layers": layers * times, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for name, weight in list(weights.items()):
        start, found, rest = name.partition("layers.")
        number, _, end = rest.partition(".")
        for copy in range(1, times) if found else ():
            weights[f"{start}layers.{int(number) + copy * layers}.{end}"] = weight.clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def caller(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks, and calls a function."""
    return calling_model(tiny_model, tmp_path_factory.mktemp("caller") / "caller")
