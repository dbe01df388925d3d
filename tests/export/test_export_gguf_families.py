"""Every family whose files are made without a certificate: the file's probabilities in llama.cpp are transformers'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import families
from loraplug.testing import tiny_run
from loraplug_gguf.converter import find_converter
from loraplug_gguf.proved import PROVED, faults, unproved
from loraplug_gguf.settings import FAMILIES

LENGTH = 40  # tokens; longer than the families' windows
KL = 5e-4  # nats; llama.cpp keeps keys and values in 16 bits, and a router may be turned by that
CONVERT = """
import json, sys
job = json.loads(sys.stdin.read())
sys.path[:0] = job["path"]
from loraplug_gguf import driver
told = {}
for name, folder in job["folders"].items():
    try:
        driver.convert({"folder": folder, "out": f"{folder}/model.gguf", "type": "f32", "metadata": {"name": name}})
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
APART = {"phi3_longrope"}  # llama.cpp takes the long factors by its context, transformers by the text's length
HELD = [name for name, one in families.FAMILIES.items() if one.model_type in PROVED and name not in APART]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models with their files, converted in one process: most of its time is loading libraries."""
    pytest.importorskip("xllamacpp", reason="real llama.cpp: pip install xllamacpp")
    work = tmp_path_factory.mktemp("families")
    made = {name: families.save(name, work / name) for name in HELD}
    job = {
        "path": [str(path) for path in find_converter(tiny_run(work))],
        "folders": {name: str(folder) for name, folder in made.items()},
    }
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CONVERT], input=json.dumps(job), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {}
    return made


def test_every_proved_family_is_held_here() -> None:
    """No name stands in the list without a model that is asked, and each model is one that needs no certificate."""
    assert {families.FAMILIES[name].model_type for name in HELD} == set(PROVED)
    assert [name for name in HELD if unproved(_config(name))] == []
    assert all(unproved(_config(name)) for name in APART)


def _config(name: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    family = families.FAMILIES[name]
    made: dict[str, Any] = CONFIG_MAPPING[family.model_type](**family.options(300)).to_dict()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_the_file_answers_as_the_model(name: str, folders: dict[str, Path]) -> None:
    """Divergence of the next token's probabilities over the whole vocabulary."""
    import torch
    from export_llama import LlamaCpp
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32).eval()
    server = LlamaCpp(folders[name] / "model.gguf")
    spoken = []
    for start in range(2):
        ids = [(start * 37 + at * 11) % 240 + 5 for at in range(LENGTH)]
        with torch.inference_mode():
            spoken.append(model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1))
        told = server.logprobs(ids, len(spoken[-1]))
        assert len(told) > 0.9 * len(spoken[-1])
        assert divergence(spoken[-1][list(told)], torch.tensor(list(told.values()))) < KL
    assert divergence(*spoken) > 10 * KL, "the model says the same of all rows"


def divergence(here: Any, there: Any) -> float:
    """Kullback-Leibler divergence of log-probabilities, nats."""
    return float((here.exp() * (here - there)).sum())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "qwen3_moe"}, "norm_topk_prob = False"),  # transformers' default
        ({"model_type": "qwen3_moe", "norm_topk_prob": True}, None),
        ({"model_type": "qwen3_moe", "norm_topk_prob": True, "mlp_only_layers": [0]}, "mlp_only_layers"),
        (
            {"model_type": "starcoder2", "sliding_window": 2047, "max_position_embeddings": 4096},
            "sliding_window = 2047",
        ),
        ({"model_type": "starcoder2", "sliding_window": None, "max_position_embeddings": 16384}, None),
        (
            {"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 4096},
            "sliding_window = 2047",
        ),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope", "long_factor": [4.0]}}, 'rope scaling "longrope"'),
        ({"model_type": "deepseek_v3", "rope_scaling": {"type": "yarn", "factor": 40}}, 'rope scaling "yarn"'),
        ({"model_type": "gpt_oss", "rope_scaling": {"rope_type": "yarn", "factor": 32}}, None),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128}, "query_pre_attn_scalar = 144"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0, 1]}, None),
        ({"model_type": "smollm3", "no_rope_layers": [1] * 5}, "no_rope_layers"),
        ({"model_type": "gpt2", "n_embd": 64, "n_inner": 128}, "n_inner = 128"),
        ({"model_type": "olmoe", "num_attention_heads": 4, "num_key_value_heads": 2}, "num_key_value_heads = 2"),
        ({"model_type": "some_new"}, "GGUF files of some_new models have not been tested"),
        *(({"model_type": name, "norm_topk_prob": False}, None) for name in FAMILIES),
    ],
)
def test_what_llama_cpp_takes_for_granted_is_told(config: dict[str, Any], told: str | None) -> None:
    """A model that differs from the one asked above needs a certificate."""
    found = unproved(config)
    assert found is None if told is None else found is not None and told in found and "prove" in found


def test_what_the_converter_writes_wrongly_is_refused() -> None:
    """Before any work, and whether or not there will be a certificate."""
    assert list(faults(_config("bamba"))) == ["llama.cpp's converter reorders the partly rotated heads (0.5) of Bamba"]
    assert not [name for name in HELD if list(faults({"model_type": families.FAMILIES[name].model_type}))]
