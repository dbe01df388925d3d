"""Tiny models: two adapters on one base, one that was trained to call a function, one whose answers never end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from calling import calling_model


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two random adapters on the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("adapters") / f"adapter-{seed}"
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False,
                          task_type="CAUSAL_LM")  # fmt: skip
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora).save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def caller(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks, and calls the function when there is one."""
    return calling_model(tiny_model, tmp_path_factory.mktemp("caller") / "caller")


@pytest.fixture(scope="session")
def endless(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a long context, whose answers are letters a or b and never end."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    weights = load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    head = weights["lm_head.weight"].zero_()
    head[vocabulary["a"]], head[vocabulary["b"]] = 1e-3, -1e-3  # whatever the state, one of the two is the likeliest
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
