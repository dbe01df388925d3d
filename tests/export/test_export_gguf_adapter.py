"""A base as GGUF with an adapter as GGUF on it says in llama.cpp what peft's model says."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import export_tokenizers as small
import pytest

from loraplug import BaseFacts, InputError, LoraplugError, Run
from loraplug_gguf.adapter import GgufAdapterExporter
from loraplug_gguf.ollama import OllamaExporter

FAMILIES = {
    "llama": ({"tie_word_embeddings": True}, {}),
    "llama, untied, its output too": ({"tie_word_embeddings": False}, {"target_modules": r".*(q|k|o)_proj|lm_head"}),
    "mistral": ({"model_type": "mistral", "sliding_window": None}, {}),
    "qwen2": ({"model_type": "qwen2"}, {}),
    "qwen3": ({"model_type": "qwen3", "head_dim": 32}, {}),
    "rsLoRA": ({}, {"use_rslora": True}),
    "ranks and alphas by layer": (
        {},
        {"rank_pattern": {"q_proj": 2, "down_proj": 7}, "alpha_pattern": {"k_proj": 3, "layers.1.mlp.up_proj": 40}},
    ),
}  # fmt: skip
ROWS = [[(start * 37 + at * 11) % 1190 + 5 for at in range(48)] for start in range(16)]


@pytest.fixture
def llama_cpp():
    pytest.importorskip("xllamacpp", reason="real llama.cpp: pip install xllamacpp")
    from export_llama import LlamaCpp

    return LlamaCpp


@pytest.fixture
def prepare(make_base, make_adapter, trained):
    """A tiny base with tokenizer and an adapter on it; a finished run of them."""

    def make(config=None, lora=None):
        from peft import LoraConfig

        sizes = {"vocab_size": 1200, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
        base = make_base(**sizes | {"initializer_range": 0.3, "num_hidden_layers": 3} | (config or {}))
        small.save("qwen2", base, bos=False)
        options = {"r": 4, "target_modules": "all-linear"} | (lora or {})
        return trained(make_adapter(base, LoraConfig(**options), size=0.1), base)

    return make


def next_tokens(base, adapter, rows):
    """The next token of each row in transformers and peft; None where f16 could make the second best win."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.inference_mode():
        last = model(torch.tensor(rows)).logits[:, -1]
    best = last.topk(2)
    sure = best.values[:, 0] - best.values[:, 1] > 0.05 * last.std()
    return [int(number) if is_sure else None for number, is_sure in zip(best.indices[:, 0], sure, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_adapter_answer_as_in_peft(family, llama_cpp, prepare):
    """Every family, and every way to scale a pair; the adapter is on at scale 1 and off at 0."""
    result = prepare(*FAMILIES[family])
    exporter = GgufAdapterExporter(base_type="f16")
    file = exporter.export(result, exporter.place(result.run))
    server = llama_cpp(file.with_name("base-f16.gguf"), file)
    for scale, adapter in ((1.0, result.adapter), (0.0, None)):
        wanted = next_tokens(result.base, adapter, ROWS)
        sure = [(row, number) for row, number in zip(ROWS, wanted, strict=True) if number]
        pairs = [(server.answer(row, 1, (scale,))[0], number) for row, number in sure]
        assert all(got == number for got, number in pairs)
        assert len({number for _, number in pairs}) > 5, "the model says too little to compare"
    tuned, plain = (next_tokens(result.base, adapter, ROWS) for adapter in (result.adapter, None))
    assert tuned != plain, "the adapter changes nothing that could be seen"


def test_two_adapters_on_one_base(llama_cpp, prepare, make_adapter, trained, tmp_path):
    """The base is written once; each adapter is chosen by its scale."""
    from peft import LoraConfig

    result = prepare()
    exporter = GgufAdapterExporter(base_type="f16", type="f16")
    first = exporter.export(result, tmp_path / "first.gguf")
    base = result.run.outputs / "gguf" / "base-f16.gguf"
    written = base.stat().st_mtime_ns
    second = result.adapter.rename(tmp_path / "second")
    other = make_adapter(result.base, LoraConfig(r=2, target_modules=["gate_proj"]), size=0.5)
    last = exporter.export(trained(other, result.base), tmp_path / "last.gguf")
    assert base.stat().st_mtime_ns == written
    server = llama_cpp(base, first, last)
    for scales, adapter in (((1.0, 0.0), second), ((0.0, 1.0), other)):
        wanted = next_tokens(result.base, adapter, ROWS)
        assert [server.answer(row, 1, scales)[0] for row, number in zip(ROWS, wanted, strict=True) if number] == [
            number for number in wanted if number
        ]


def test_header_and_values(prepare, tmp_path):
    """What llama.cpp looks for; f32 is exact, and a plain adapter's B is not scaled."""
    import numpy as np
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    result = prepare(lora={"lora_alpha": 24})
    assert GgufAdapterExporter().place(result.run) == result.run.outputs / "gguf" / "tiny-lora.gguf"
    assert GgufAdapterExporter(type="bf16").place(result.run).name == "tiny-lora-bf16.gguf"
    reader = GGUFReader(GgufAdapterExporter().export(result, tmp_path / "tiny.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = (fields["general.type"], fields["general.architecture"], fields["adapter.type"])
    assert kinds == ("adapter", "llama", "lora")
    assert fields["adapter.lora.alpha"] == 24
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    stored = load_file(result.adapter / "adapter_model.safetensors")
    assert len(tensors) == len(stored)
    for half in "ab":
        name = f"base_model.model.model.layers.2.mlp.down_proj.lora_{half.upper()}.weight"
        assert np.array_equal(tensors[f"blk.2.ffn_down.weight.lora_{half}"], stored[name])


REFUSED = {
    "DoRA": ({"use_dora": True}, "magnitudes"),
    "whole": ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, r"holds a full copy of model\.norm\.weight"),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, r"embedding model\.embed_tokens"),
    "bias": ({"target_modules": ["q_proj"], "lora_bias": True}, r"bias of B"),
    "tied output": ({"target_modules": ["lm_head", "q_proj"]}, "ties to its embedding"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_named(kind, prepare, tmp_path):
    """Never left out in silence; nothing is left behind."""
    lora, words = REFUSED[kind]
    result = prepare({"tie_word_embeddings": kind == "tied output", "attention_bias": kind == "bias"}, lora)
    with pytest.raises(InputError, match=words):
        GgufAdapterExporter().export(result, tmp_path / "tiny.gguf")
    assert not list(tmp_path.glob("tiny*"))


def test_other_kinds_of_adapter_are_named(prepare, make_adapter, trained, tmp_path):
    """A LoHa has no pairs of that form."""
    from peft import LoHaConfig

    base = prepare().base
    adapter = make_adapter(base, LoHaConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"LOHA[\s\S]*loraplug convert"):
        GgufAdapterExporter().export(trained(adapter, base), tmp_path / "tiny.gguf")


def test_values_too_large_for_f16(prepare, tmp_path):
    """They do not become infinite in silence."""
    from safetensors.torch import load_file, save_file

    result = prepare()
    file = result.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name][0, 0] = 1e6
    save_file(tensors, file)
    with pytest.raises(LoraplugError, match=r"lora_b has values too large for f16"):
        GgufAdapterExporter(type="f16").export(result, tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("lora", "places"),
    [
        ({}, []),
        ({"use_dora": True}, ["trainer.lora.use_dora"]),
        (
            {"modules_to_save": ("lm_head",), "init_lora_weights": "pissa"},
            ["trainer.lora.modules_to_save", "trainer.lora.init_lora_weights"],
        ),
        ({"target_modules": ("embed_tokens", "q_proj")}, ["trainer.lora.target_modules"]),
    ],
)
def test_preflight_reads_the_recipe(lora, places, prepare, tmp_path):
    """What cannot be carried is told before anything is trained, all at once."""
    from loraplug_train.adapters.lora import Lora

    base = prepare().base
    facts = BaseFacts(base, json.loads((base / "config.json").read_text()))
    recipe = SimpleNamespace(trainer=SimpleNamespace(lora=Lora(**lora)), model=SimpleNamespace(facts=lambda run: facts))
    found = [problem.path for problem in GgufAdapterExporter().preflight(Run("x", outputs=tmp_path), recipe)]
    assert found == places
    foreign = SimpleNamespace(facts=lambda run: BaseFacts(base, {"architectures": ["UnheardOfForCausalLM"]}))
    told = list(GgufAdapterExporter().preflight(Run("x"), SimpleNamespace(trainer=recipe.trainer, model=foreign)))
    assert "UnheardOfForCausalLM" in told[0].message and len(told) == 1 + len(places)


def test_ollama_puts_the_adapter_on_a_base_of_its_own(llama_cpp, prepare):
    """FROM a model's name or a file, ADAPTER beside the Modelfile, nothing merged; the files answer as in peft."""
    result = prepare({"tie_word_embeddings": True})
    named = OllamaExporter(base="smollm2:135m")
    out = named.export(result, named.place(result.run))
    assert sorted(path.name for path in out.iterdir()) == ["Modelfile", "README.md", "adapter.gguf"]
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM smollm2:135m", "ADAPTER ./adapter.gguf"] and lines[2].startswith("TEMPLATE")

    file = GgufAdapterExporter(base_type="f16").export(result, result.run.outputs / "gguf" / "tiny-lora.gguf")
    base = file.with_name("base-f16.gguf")
    shutil.rmtree(out)
    out = OllamaExporter(base=str(base)).export(result, out)
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ../../gguf/base-f16.gguf", "ADAPTER ./adapter.gguf"]
    server = llama_cpp(out / "../../gguf/base-f16.gguf", out / "adapter.gguf")
    wanted = next_tokens(result.base, result.adapter, ROWS)
    assert all(server.answer(row, 1)[0] == number for row, number in zip(ROWS, wanted, strict=True) if number)


@pytest.mark.parametrize(("base", "words"), [("gone.gguf", "no file"), ("a model", "neither"), ("x\nRUN y", "neither")])
def test_ollama_bases_that_are_none(base, words, prepare, tmp_path):
    """A missing file, and names that would be more than one word of a Modelfile."""
    result = prepare()
    with pytest.raises(InputError, match=words):
        OllamaExporter(base=base).export(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_smollm_answers_as_in_peft(smollm, llama_cpp, make_adapter, trained):
    """The real model: 32 greedy tokens are peft's with the adapter on, the base's with it off, and the two differ."""
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    result = trained(make_adapter(smollm, config, size=0.01), smollm, base_id="HuggingFaceTB/SmolLM2-135M-Instruct")
    exporter = GgufAdapterExporter(base_type="f16")
    file = exporter.export(result, exporter.place(result.run))
    server = llama_cpp(file.with_name("SmolLM2-135M-Instruct-f16.gguf"), file)
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32), result.adapter)
    model.generation_config.eos_token_id = None
    answers = []
    for prompt in ("Tell me a short story about a fox and a river.", "Explain how to make tea, step by step."):
        talk = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        options = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
        with_it = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        with model.disable_adapter():
            without = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
        assert server.answer(ids, 32, (1.0,)) == with_it, prompt
        assert server.answer(ids, 32, (0.0,)) == without, prompt
        answers.append((with_it, without))
    assert any(with_it != without for with_it, without in answers)
