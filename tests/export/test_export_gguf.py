"""GGUF files say in llama.cpp what the merged model says in transformers."""

from __future__ import annotations

import json

import export_tokenizers as small
import pytest

from loraplug import Artefact, ExportContext, InputError, LoraplugError, Run
from loraplug_export.merged import MergedExporter
from loraplug_gguf.exporter import GgufExporter

HARD = [
    "Hello, world! It's 2024-11-22, 1234567 and 3.14.",
    "def f(x):\n    if x:\n        return {'a': [1, 2]}\n\n\n# naïve café — 你好世界! Ω≈ç√",
    "  two  spaces\ttabs\r\n\r\nand I'M WE'll it'S <|im_end|> inside ▁ marks 🎉👩‍💻",
    "a",
    " leading",
]


def yarn(factor, **more):
    """A config's rotary entries; the original context is shorter than the rows compared."""
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": factor, "original_max_position_embeddings": 32}
    return {"rope_parameters": rope | more}


FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "llama, untied, biases": {"tie_word_embeddings": False, "attention_bias": True},
    "llama, three": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "llama, linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "llama, yarn": yarn(4.0),
    "qwen2, yarn": {"model_type": "qwen2"} | yarn(4.0),
    "qwen3, yarn": {"model_type": "qwen3", "head_dim": 32} | yarn(2.5, rope_theta=1e6),
    "llama, yarn with its own attention factor": yarn(4.0, attention_factor=0.8),
    "llama, yarn with mscale": yarn(4.0, mscale=0.3, mscale_all_dim=2.0),
    "llama, biases everywhere": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "gpt_neox": {"model_type": "gpt_neox"},
    "olmo2": {"model_type": "olmo2"},
    "mistral, a window as long as the context": {"model_type": "mistral", "sliding_window": 128},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
}


@pytest.fixture
def llama_cpp():
    pytest.importorskip("xllamacpp", reason="real llama.cpp: pip install xllamacpp")
    from export_llama import LlamaCpp

    return LlamaCpp


def prepare(make_base, make_adapter, kind="qwen2", bos=False, lora=None, **config):
    """A tiny base with tokenizer and an adapter on all its linear layers."""
    from peft import LoraConfig

    sizes = {"vocab_size": 1200, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
    base = make_base(**sizes | {"initializer_range": 0.3, "num_hidden_layers": 3} | config)
    small.save(kind, base, bos=bos)
    return base, make_adapter(base, LoraConfig(**{"r": 4, "target_modules": "all-linear"} | (lora or {})), size=0.05)


def greedy(folder, ids, count):
    """transformers' greedy answer, never ending early."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    out = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def sure_next_tokens(folder, rows):
    """The next token of each row where transformers is sure of it: None where f16 could make the second best win."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        last = model(torch.tensor(rows)).logits[:, -1]
    best = last.topk(2)
    sure = best.values[:, 0] - best.values[:, 1] > 0.05 * last.std()
    return [int(number) if is_sure else None for number, is_sure in zip(best.indices[:, 0], sure, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_family_answers_like_transformers(family, llama_cpp, make_base, make_adapter, trained, tmp_path):
    """Every family, tied and untied, with each rotary scaling: the same next tokens after 48 others."""
    base, adapter = prepare(make_base, make_adapter, **FAMILIES[family])
    result = trained(adapter, base)
    file = GgufExporter().export(result, tmp_path / "tiny.gguf")
    merged = MergedExporter(verify=False).export(result, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.glob("*.merged")) == []
    rows = [[(start * 37 + at * 11) % 1190 + 5 for at in range(48)] for start in range(24)]
    wanted = sure_next_tokens(merged, rows)
    server = llama_cpp(file)
    got = [server.answer(row, 1)[0] if number else None for row, number in zip(rows, wanted, strict=True)]
    assert got == wanted
    assert len({number for number in wanted if number}) > 8, "the model says too little to compare"


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", small.KINDS)
def test_tokenizer_gives_the_same_ids(kind, bos, llama_cpp, make_base, make_adapter, trained, tmp_path):
    """Plain texts and a rendered conversation, with and without a begin token."""
    from transformers import AutoTokenizer

    base, adapter = prepare(make_base, make_adapter, kind, bos, {"target_modules": ["q_proj"]}, num_hidden_layers=1)
    file = GgufExporter(verify=False).export(trained(adapter, base), tmp_path / "tiny.gguf")
    tokenizer, server = AutoTokenizer.from_pretrained(base), llama_cpp(file)
    for text in HARD:
        assert server.tokens(text) == tokenizer(text)["input_ids"], text
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": HARD[1]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Go on"},
    ]
    wanted = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert server.rendered(talk) == wanted
    assert server.tokens(wanted) == tokenizer(wanted)["input_ids"]


@pytest.mark.parametrize(("kind", "bound"), [("bf16", 0.005), ("q8_0", 0.01), ("q4_k_m", 0.08)])
def test_short_types(kind, bound, llama_cpp, make_base, make_adapter, trained, tmp_path):
    """Each type's rounding is as large as its bits allow, and llama.cpp loads and runs the file."""
    import numpy as np
    from gguf import GGUFReader, quants

    base, adapter = prepare(make_base, make_adapter, tie_word_embeddings=True)
    result = trained(adapter, base)
    exact = GGUFReader(GgufExporter(verify=False).export(result, tmp_path / "f16.gguf"))
    file = GgufExporter(type=kind, verify=False).export(result, tmp_path / f"{kind}.gguf")
    short = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    assert len(short) == len(exact.tensors)
    for tensor in exact.tensors:
        other = short[tensor.name]
        a = tensor.data.astype(np.float32)
        b = quants.dequantize(other.data, other.tensor_type).reshape(a.shape)
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(a), tensor.name
        if a.ndim == 1:
            assert other.tensor_type.name == "F32"
    assert short["token_embd.weight"].tensor_type.name == {"q4_k_m": "Q6_K"}.get(kind, kind.upper())
    if kind == "q4_k_m":
        kinds = {tensor.tensor_type.name for tensor in short.values()}
        assert kinds == {"F32", "Q4_K", "Q6_K"}
    assert len(llama_cpp(file).answer(list(range(5, 40)), 8)) == 8


def test_rows_that_blocks_do_not_divide(make_base, make_adapter, trained, tmp_path):
    """A row of 96 has no blocks of 256, one of 72 none of 32: a finer type takes over."""
    pytest.importorskip("xllamacpp")
    from gguf import GGUFReader

    base, adapter = prepare(make_base, make_adapter, hidden_size=96, intermediate_size=72, num_attention_heads=4)
    file = GgufExporter(type="q4_k_m", verify=False).export(trained(adapter, base), tmp_path / "tiny.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert kinds["blk.1.attn_q.weight"] == "Q5_0"
    assert kinds["blk.1.ffn_down.weight"] == "F16"


def test_place_and_header(make_base, make_adapter, trained, tmp_path):
    """The file is named by run and type and carries names, base and licence."""
    from gguf import GGUFReader

    base, adapter = prepare(make_base, make_adapter)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    result = trained(adapter, base, base_id="someone/tiny-base")
    assert GgufExporter().place(result.run).name == "tiny.gguf"
    assert GgufExporter(type="q8_0").place(result.run) == result.run.outputs / "gguf" / "tiny-q8_0.gguf"
    fields = GGUFReader(GgufExporter(verify=False).export(result, tmp_path / "tiny.gguf")).fields
    assert fields["general.name"].contents() == "tiny"
    assert fields["general.license"].contents() == "apache-2.0"
    assert fields["general.base_model.0.repo_url"].contents() == "https://huggingface.co/someone/tiny-base"
    assert fields["tokenizer.chat_template"].contents() == small.CHATML


def test_merged_folder_of_the_run_is_used(make_base, make_adapter, trained, tmp_path):
    """Where `merged` has run, its folder is converted, and stays."""
    base, adapter = prepare(make_base, make_adapter)
    merged = MergedExporter().export(trained(adapter, base), tmp_path / "merged")
    result = trained(adapter, base, artefacts=[Artefact("merged", merged, {"onto": "original"})])
    GgufExporter().export(result, tmp_path / "tiny.gguf")
    assert merged.is_dir() and not any("compared with base" in line for line in result.run.reporter.lines)


def test_architectures_without_a_converter_are_refused(make_base, make_adapter, trained, edit_json, tmp_path):
    """Before the merge."""
    base, adapter = prepare(make_base, make_adapter)
    edit_json(base / "config.json", architectures=["NewestForCausalLM"])
    with pytest.raises(InputError, match=r"does not support NewestForCausalLM[\s\S]*LORAPLUG_CONVERTER"):
        GgufExporter().export(trained(adapter, base), tmp_path / "tiny.gguf")
    assert not list(tmp_path.glob("tiny*"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, "sliding"),
        ({"model_type": "mistral", "sliding_window": 16}, "sliding_window = 16"),
        ({"model_type": "qwen3", "head_dim": 32, "attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, 'hidden_act = "gelu"'),
        (yarn(4.0, truncate=False), "ramp"),
        (yarn(4.0, beta_fast=16.0), "ramp"),
        (yarn(4.0, partial_rotary_factor=0.5), "partly rotated"),
    ],
)
def test_settings_llama_cpp_would_not_heed(settings, words, make_base, make_adapter, trained, tmp_path):
    """What would run, but answer differently, is refused."""
    base, adapter = prepare(make_base, make_adapter, **settings)
    with pytest.raises(InputError, match=words):
        GgufExporter().export(trained(adapter, base), tmp_path / "tiny.gguf")


def test_unknown_tokenizers_are_refused(make_base, make_adapter, trained, tmp_path):
    """A splitting expression without a name in llama.cpp, and a Unigram model."""
    base, adapter = prepare(make_base, make_adapter)
    path = base / "tokenizer.json"
    path.write_text(path.read_text().replace(r"\\p{N}|", r"\\p{N}{1,4}|"))
    with pytest.raises(InputError, match=r"rules that llama\.cpp does not know"):
        GgufExporter(verify=False).export(trained(adapter, base), tmp_path / "tiny.gguf")
    data = json.loads(path.read_text())
    data["model"] = {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="Unigram"):
        GgufExporter(verify=False).export(trained(adapter, base), tmp_path / "tiny.gguf")


def test_values_too_large_for_f16(make_base, make_adapter, trained, tmp_path):
    """bf16 reaches further than f16; the error says to use it."""
    from safetensors.torch import load_file, save_file

    base, adapter = prepare(make_base, make_adapter, dtype="bfloat16")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoraplugError, match=r"too large for f16[\s\S]*bf16"):
        GgufExporter(verify=False).export(trained(adapter, base), tmp_path / "tiny.gguf")
    GgufExporter(type="bf16", verify=False).export(trained(adapter, base), tmp_path / "tiny-bf16.gguf")


PROMPTS = [
    "Write a Python function that adds two numbers.",
    "List three fruits and say how each of them tastes.",
    "Fix the bug: for i in range(10) print(i)  # 2024 items, £5 — naïve 你好",
    "Tell me a short story about a fox and a river.",
    "Explain how to make tea, step by step.",
]


@pytest.mark.slow
def test_smollm_speaks_alike(smollm, llama_cpp, make_adapter, tmp_path):
    """SmolLM2 with an adapter: five greedy answers of 40 tokens and their prompts are the same in llama.cpp."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapter = make_adapter(smollm, config, size=0.004)
    run = Run(name="smol", outputs=tmp_path, cache=tmp_path)
    result = ExportContext(run=run, adapter=adapter, base=smollm, base_id="HuggingFaceTB/SmolLM2-135M-Instruct")
    file = GgufExporter().export(result, tmp_path / "smol.gguf")
    merged = MergedExporter(verify=False).export(result, tmp_path / "merged")
    tokenizer, server = AutoTokenizer.from_pretrained(smollm), llama_cpp(file)
    for prompt in PROMPTS:
        talk = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert server.rendered(talk) == text
        assert server.tokens(text) == ids
        wanted, got = greedy(merged, ids, 40), server.answer(ids, 40)
        assert len(got) == 40 and got == wanted, prompt
