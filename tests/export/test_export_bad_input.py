"""What is wrong with base or adapter is said clearly, before anything is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from loraplug import InputError, LoraplugError
from loraplug_export.adapter import AdapterExporter
from loraplug_export.merged import MergedExporter


@pytest.fixture
def pair(make_base, make_adapter):
    from peft import LoraConfig

    base = make_base(tie_word_embeddings=False)
    targets = ["q_proj", "down_proj"]
    return base, make_adapter(base, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))


def fails(trained, adapter, base, out, *words, kind=InputError):
    """The merge stops with an error that holds all the words."""
    with pytest.raises(kind) as caught:
        MergedExporter().export(trained(adapter, base), out)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_base_is_missing(pair, trained, tmp_path):
    """A base folder that is not there, or is empty."""
    _, adapter = pair
    fails(trained, adapter, tmp_path / "nowhere", tmp_path / "out", "nowhere", "next:")
    (tmp_path / "empty").mkdir()
    fails(trained, adapter, tmp_path / "empty", tmp_path / "out", "empty")


def test_base_without_config(pair, trained, tmp_path):
    """Weights without a config."""
    base, adapter = pair
    (base / "config.json").unlink()
    fails(trained, adapter, base, tmp_path / "out", "config.json")


def test_base_of_another_shape(pair, make_base, trained, tmp_path):
    """The adapter belongs to a narrower model."""
    _, adapter = pair
    shutil.rmtree(tmp_path / "base")
    wide = make_base(hidden_size=128)
    fails(trained, adapter, wide, tmp_path / "out", "down_proj", "(128, 96)", "(64, 96)", "it was trained on")


def test_base_with_fewer_layers(pair, make_base, trained, tmp_path):
    """The adapter changes a layer the base does not have."""
    _, adapter = pair
    shutil.rmtree(tmp_path / "base")
    short = make_base(num_hidden_layers=1)
    fails(trained, adapter, short, tmp_path / "out", "layers.1", "does not have")


def test_unknown_architecture(pair, trained, tmp_path, edit_json):
    """transformers has no such model, or none that writes text."""
    base, adapter = pair
    edit_json(base / "config.json", model_type="no-such-model")
    fails(trained, adapter, base, tmp_path / "out", "config.json", "no-such-model")
    edit_json(base / "config.json", model_type="vit")
    fails(trained, adapter, base, tmp_path / "out2", "config.json")


def test_not_an_adapter_folder(pair, trained, tmp_path):
    """No adapter_config.json, or one that is not JSON."""
    base, adapter = pair
    (adapter / "adapter_config.json").write_text("{")
    fails(trained, adapter, base, tmp_path / "out", "adapter_config.json", "not JSON")
    (adapter / "adapter_config.json").unlink()
    fails(trained, adapter, base, tmp_path / "out", "adapter_config.json")


def test_config_without_weights(pair, trained, tmp_path):
    """The adapter's weights were not copied; the exporter `adapter` refuses it too."""
    base, adapter = pair
    (adapter / "adapter_model.safetensors").unlink()
    fails(trained, adapter, base, tmp_path / "out", "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        AdapterExporter().export(trained(adapter, base), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_pickles_are_refused(pair, trained, tmp_path):
    """A pickled adapter and a pickled base are named and not opened."""
    base, adapter = pair
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    fails(trained, adapter, base, tmp_path / "out", "pytorch_model.bin", "pickle")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    fails(trained, adapter, base, tmp_path / "out", "adapter_model.bin", "pickle")


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_truncated_and_corrupted_files(which, pair, trained, tmp_path):
    """Cut short, a broken header, and not safetensors at all."""
    base, adapter = pair
    path = base / "model.safetensors" if which == "base" else adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:20], b"", b"\xff" * 8 + whole[8:], whole[:8] + b"x" + whole[9:]):
        path.write_bytes(broken)
        fails(trained, adapter, base, tmp_path / "out", path.name, "not a complete safetensors file")


def test_shard_is_missing(make_base, make_adapter, trained, tmp_path):
    """The index names a file that is not there."""
    from peft import LoraConfig

    base = make_base(shards="60KB")
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    shard = sorted(base.glob("model-*.safetensors"))[1]
    shard.unlink()
    fails(trained, adapter, base, tmp_path / "out", shard.name)


@pytest.mark.parametrize(("name", "told"), [("../other.safetensors", "outside"), ("a" * 999, "is incomplete")])
def test_index_names_what_cannot_be(name, told, make_base, make_adapter, trained, tmp_path):
    """An index may not name files elsewhere; a name too long for a file is an error of the model, found by fuzz."""
    from peft import LoraConfig

    base = make_base(shards="60KB")
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    fails(trained, adapter, base, tmp_path / "out", told)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"])
def test_nan_in_the_base(name, value, pair, trained, tmp_path):
    """A base weight that is not finite is named, whether the adapter changes it or not."""
    from safetensors.torch import load_file, save_file

    base, adapter = pair
    tensors = load_file(base / "model.safetensors")
    tensors[name][3, 5] = value
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    fails(trained, adapter, base, tmp_path / "out", name, "NaN", kind=LoraplugError)


def test_nan_in_the_adapter(pair, trained, tmp_path):
    """An adapter whose training went wrong."""
    from safetensors.torch import load_file, save_file

    base, adapter = pair
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    fails(trained, adapter, base, tmp_path / "out", name, "NaN")


def test_half_a_pair(pair, trained, tmp_path):
    """A LoRA A without its B, and halves of different rank."""
    from safetensors.torch import load_file, save_file

    base, adapter = pair
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    save_file({k: v for k, v in tensors.items() if k != name}, adapter / "adapter_model.safetensors")
    fails(trained, adapter, base, tmp_path / "out", "has no lora_B.weight")
    save_file(tensors | {name: tensors[name][:, :2].contiguous()}, adapter / "adapter_model.safetensors")
    fails(trained, adapter, base, tmp_path / "out", "do not fit")


def test_values_too_large_for_the_base_type(make_base, make_adapter, trained, tmp_path):
    """fp16 ends at 65504: what does not fit becomes an error, not infinity."""
    from peft import LoraConfig

    base = make_base(dtype="float16")
    adapter = make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]), size=500.0)
    fails(trained, adapter, base, tmp_path / "out", "q_proj", "too large", kind=LoraplugError)


def test_quantised_base_is_refused(pair, trained, tmp_path):
    """Integer weights cannot take a delta."""
    import torch
    from safetensors.torch import load_file, save_file

    base, adapter = pair
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = torch.zeros_like(tensors[name], dtype=torch.int8)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    fails(trained, adapter, base, tmp_path / "out", name, "I8", "unquantized")


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_full_disk(pair, tmp_path):
    """A write that fails half-way is an OSError with the file's name, which the core reports and cleans up after."""
    base, adapter = pair
    script = f"""
import pathlib, resource, signal
from loraplug import ExportContext, Run
from loraplug_export.merged import MergedExporter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
run = Run(name="tiny", outputs=pathlib.Path({str(tmp_path)!r}))
result = ExportContext(run=run, adapter=pathlib.Path({str(adapter)!r}), base=pathlib.Path({str(base)!r}), base_id="b")
try:
    MergedExporter().export(result, pathlib.Path({str(tmp_path / "out")!r}))
except OSError as error:
    raise SystemExit(f"stopped: {{error.filename or error}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "stopped:" in done.stderr, done.stderr
