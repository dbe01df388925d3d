"""The recipes in `recipes/families`: as their table has them, right, and trained through tiny models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command import Cli

FOLDER = Path(__file__).parent.parent / "recipes" / "families"
RECIPES = sorted(path.name for path in FOLDER.glob("*.toml"))


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The script that writes the recipes."""
    found = importlib.util.spec_from_file_location("family_recipes", FOLDER / "generate.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_they_are_what_the_table_makes(table: ModuleType) -> None:
    """Nothing was changed by hand, nothing is missing, nothing is left of a family that went."""
    assert {name: (FOLDER / name).read_text(encoding="utf-8") for name in RECIPES} == table.recipes()
    assert len(RECIPES) == 2 * len(table.FAMILIES) >= 22


@pytest.mark.parametrize("name", RECIPES)
def test_each_one_checks(name: str, inside: Cli) -> None:
    """Keys and values are right, and the file says how it is run."""
    done = inside("recipe", "check", "--options", FOLDER / name)
    assert done.returncode == 0, done.stderr
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert f"loraplug run recipes/families/{name}" in "\n".join(lines[:4])
    assert max(map(len, lines)) <= 120


_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_VISION = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_DELTA = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 4, "linear_num_value_heads": 4,
    "num_hidden_layers": 4,
}  # fmt: skip
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3.5": ("qwen3_5", {"text_config": _DELTA}),
    "llama3": ("llama", {}),
    "llama4": (
        "llama4",
        {
            "text_config": {
                "intermediate_size": 64, "intermediate_size_mlp": 128, "num_local_experts": 4, "num_experts_per_tok": 1,
                "attention_chunk_size": 8,
            }
        },
    ),
    "gemma3": ("gemma3", {"text_config": _SLIDING, "vision_config": {**_VISION, "image_size": 28}}),
    "gemma4": (
        "gemma4",
        {
            "text_config": {**_SLIDING, "hidden_size_per_layer_input": 64, "num_kv_shared_layers": 0},
            "vision_config": {**_VISION, "num_key_value_heads": 4, "head_dim": 16},
        },
    ),
    "phi4": ("phi3", {"sliding_window": None}),
    "gpt-oss": ("gpt_oss", {**_SLIDING, "intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": ("smollm3", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "deepseek-distill": ("qwen2", {}),
}  # fmt: skip
"""transformers' model type of each family's checkpoint, with its vision tower where it has one, and what it needs."""


def _tiny(family: str, folder: Path, tokenizer: Any) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, more = TINY[family]
    text = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, **_SIZES}
    if "text_config" in more:
        text |= {"vocab_size_per_layer_input": len(tokenizer)} if family == "gemma4" else {}
        config = CONFIG_MAPPING[kind](**{**more, "text_config": {**text, **more["text_config"]}})
    else:
        config = CONFIG_MAPPING[kind](**{**text, **more})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("name", RECIPES)
def test_each_one_trains_a_tiny_model_of_its_family(name: str, inside: Cli, tmp_path: Path, tiny_model: Path) -> None:
    """The recipe as it stands, but for model, rows and length: its layers get adapters that learn, others none."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    family = name.removesuffix(".toml").rpartition("_")[0]
    base, tokenizer = tmp_path / "base", AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template += "{% if enable_thinking is defined %}{% endif %}"  # as the families' own that know it
    _tiny(family, base, tokenizer)
    rows = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model.id": base, "model.dtype": "float32", "dataset.path": "rows.jsonl", "validation.fraction": "0.25",
        "formatter.max_length": 256, "trainer.max_steps": 2, "trainer.batch_size": 2, "trainer.samples": 0,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = inside("run", FOLDER / name, *words)
    assert done.returncode == 0, done.stderr
    run = name.removesuffix(".toml").replace("_", "-")
    adapter = load_file(tmp_path / "outputs/adapters" / run / "adapter_model.safetensors")
    assert not [key for key in adapter if "tower" in key or "vision" in key or "router" in key]
    assert {"q_proj", "qkv_proj"} & {key.split(".")[-3] for key in adapter}
    assert all(value.any() for key, value in adapter.items() if "lora_B" in key)
