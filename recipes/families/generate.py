"""Writes the recipes of this folder: a LoRA and a QLoRA recipe for each family of models in `FAMILIES`.

python recipes/families/generate.py      # writes them anew; a test holds what lies here to this file
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

HERE = Path(__file__).parent
MAX_LENGTH = 2048
RANK = 16
ALL = '"all-linear"'
TEXT = '"(?!.*_tower).*_proj"'


@frozen
class Family:
    """A family of models, and the member of it that its recipes take.

    Attributes:
        key: names the recipes.
        title: as people call it.
        id: of the instruction-tuned model on the hub.
        billions: parameters that are loaded, in billions.
        linear: those of them in linear layers, which bitsandbytes quantises.
        adapter: parameters of the adapter at rank 16, in millions.
        layers, hidden, widest, vocabulary: sizes of the language model.
        learning_rate: 2e-4, or 1e-4 from 33 billion parameters on (QLoRA, Dettmers et al. 2023, table 9).
        target_modules: as TOML, with why where it is not all linear layers.
        gated: its terms must be accepted on the hub first.
        template: options of the chat template, as TOML, with why.
        attention: where transformers' default does not do.
        notes: what is particular to the family.
    """

    key: str
    title: str
    id: str
    billions: float
    linear: float
    adapter: float
    layers: int
    hidden: int
    widest: int
    vocabulary: int
    learning_rate: str = "2e-4"
    target_modules: tuple[str, str] = (ALL, "every linear layer but the output")
    gated: bool = False
    template: tuple[str, str] | None = None
    attention: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


_NO_THINKING = ("{ enable_thinking = false }", "answers without reasoning; leave it out where your rows have some")
_LANGUAGE_ONLY = (TEXT, "the language model's layers; the vision tower sees no text")
_EXPERTS = (
    "Its experts are stacked tensors, which get no adapter and stay in 16 bits: only its other layers are adapted"
)

FAMILIES = (
    Family(
        "qwen3", "Qwen3", "Qwen/Qwen3-4B", 4.02, 3.63, 33.0, 36, 2560, 9728, 151936,
        template=_NO_THINKING,
        notes=("The same recipe does for the dense sizes from Qwen/Qwen3-0.6B to Qwen/Qwen3-32B.",),
    ),
    Family(
        "qwen3.5", "Qwen3.5", "Qwen/Qwen3.5-9B", 8.95, 6.92, 43.3, 32, 4096, 12288, 248320,
        template=_NO_THINKING,
        notes=("Of this model of text and images its language model is loaded and trained.",),
    ),
    Family(
        "llama3", "Llama 3", "meta-llama/Llama-3.1-8B-Instruct", 8.03, 6.98, 41.9, 32, 4096, 14336, 128256,
        gated=True,
        notes=("meta-llama/Llama-3.2-3B-Instruct and meta-llama/Llama-3.2-1B-Instruct are smaller.",),
    ),
    Family(
        "llama4", "Llama 4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", 107.77, 9.06, 55.8, 48, 5120, 8192, 202048,
        learning_rate="1e-4",
        target_modules=(
            '["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]',
            "attention and shared expert; not the router",
        ),
        gated=True,
        notes=(
            "Of this model of text and images its language model is loaded and trained.",
            f"{_EXPERTS}.",
            "No single GPU holds it: docs/devices.md tells how several share a model out.",
        ),
    ),
    Family(
        "gemma3", "Gemma 3", "google/gemma-3-4b-it", 4.32, 3.63, 29.8, 34, 2560, 10240, 262208,
        target_modules=_LANGUAGE_ONLY,
        gated=True,
        notes=("Its template wants user and assistant in turns. google/gemma-3-1b-it is smaller and has text alone.",),
    ),
    Family(
        "gemma4", "Gemma 4", "google/gemma-4-E4B-it", 8.0, 4.0, 38.9, 42, 2560, 10240, 262144,
        target_modules=(TEXT, "the language model's layers; the vision and audio towers see no text"),
        gated=True,
        notes=("Half of its weights are embeddings, most of them of single layers, which stay in 16 bits.",),
    ),
    Family(
        "phi4", "Phi-4", "microsoft/phi-4", 14.66, 13.63, 55.7, 40, 5120, 17920, 100352,
        notes=("microsoft/Phi-4-mini-instruct is a quarter of its size.",),
    ),
    Family(
        "gpt-oss", "gpt-oss", "unsloth/gpt-oss-20b-BF16", 20.91, 0.64, 8.0, 24, 2880, 2880, 201088,
        attention=("eager", "it has attention sinks, which sdpa does not know"),
        notes=(
            "openai/gpt-oss-20b comes in MXFP4, which cannot be trained; this is the same model in 16 bits.",
            f"{_EXPERTS}.",
        ),
    ),
    Family(
        "smollm3", "SmolLM3", "HuggingFaceTB/SmolLM3-3B", 3.08, 2.81, 30.2, 36, 2048, 11008, 128256,
        template=_NO_THINKING,
        notes=("Its template writes the date into the system turn, which the lock file keeps.",),
    ),
    Family(
        "mistral", "Mistral", "mistralai/Mistral-7B-Instruct-v0.3", 7.25, 6.98, 41.9, 32, 4096, 14336, 32768,
        gated=True,
        notes=("Its template wants user and assistant in turns, and puts a system turn into the last user turn.",),
    ),
    Family(
        "deepseek-distill", "DeepSeek's distilled models", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        7.62, 6.53, 40.4, 28, 3584, 18944, 152064,
        notes=(
            "Its template drops reasoning (<think>) from answers; `loraplug preview` shows what is left to train.",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B is its Llama; 1.5B, 14B and 32B are other sizes of Qwen.",
        ),
    ),
)  # fmt: skip


def memory(family: Family, quantized: bool) -> float:
    """GB of GPU memory, estimated and not measured, for one row of `MAX_LENGTH` tokens with gradient checkpointing.

    Weights in 16 bits, or linear layers in 4.13 bits (NF4 with double quantisation); 16 bytes a trained number (weight,
    gradient and two of AdamW's, in fp32); one hidden state a layer; one layer computed anew at sixteen times its widest
    output; the logits of 256 tokens, three times in fp32; 1 GB for CUDA.
    """
    four_bits = family.linear if quantized else 0.0
    weights = 2 * (family.billions - four_bits) + 4.13 / 8 * four_bits
    states = MAX_LENGTH * 2 * (family.layers * family.hidden + 16 * max(family.hidden, family.widest)) / 1e9
    return weights + 16 * family.adapter / 1e3 + states + 3 * 256 * 4 * family.vocabulary / 1e9 + 1


def name(family: Family, quantized: bool) -> str:
    """The recipe's file."""
    return f"{family.key}_{'qlora' if quantized else 'lora'}.toml"


def recipe(family: Family, quantized: bool) -> str:
    """The recipe's text."""
    method, file = ("QLoRA" if quantized else "LoRA"), name(family, quantized)
    size = f"{family.billions:.3g} billion parameters"
    head = [
        f"{family.title} with {method}: {family.id}, {size}.",
        "",
        f"    loraplug run recipes/families/{file} --set dataset.path=my.jsonl",
        "",
        f"Needs about {memory(family, quantized):.0f} GB of GPU memory for rows of {MAX_LENGTH:,} tokens (estimated).",
        "`loraplug plan` measures it for your rows on your machine.",
        *family.notes,
    ]
    if quantized and family.linear < family.billions / 2:
        share = f"{family.linear / family.billions:.0%}"
        head.append(f"4 bits reach {share} of the weights, those of linear layers: LoRA needs little more.")
    if family.gated:
        head.append(
            "Where the hub asks for it, accept its terms on its page; HF_TOKEN goes into .env or the environment."
        )
    head.append('A row is {"messages": [{"role": "user", "content": "…"}, …]}; docs/rows.md has the other shapes.')
    lines = [
        *(f"# {line}".rstrip() for line in head),
        "# Written by generate.py, from its table.",
        "",
        f'run_name = "{file.removesuffix(".toml").replace("_", "-")}"',
        "seed = 42",
        "",
        "[dataset]",
        _line('use = "jsonl"', "also: json, csv, parquet, disk (save_to_disk), hub"),
        _line('path = "../../data/chat.jsonl"', "your rows; relative to this file, from --set to where you are"),
        "",
        "[formatter]",
        _line('use = "chat-template"', "the model's own chat format"),
        _line('train_on = "assistant"', "only what the assistant says is trained"),
        _line(f"max_length = {MAX_LENGTH}", "tokens; activations grow with it"),
        *([_line(f"template_options = {family.template[0]}", family.template[1])] if family.template else []),
        "",
        "[validation]",
        _line("fraction = 0.05", 'or rows = 200, or path = "held-out.jsonl"'),
        "",
        "[model]",
        'use = "transformers"',
        f'id = "{family.id}"',
        _line('dtype = "auto"', "bfloat16 where the hardware has it, else float32"),
        *([_line(f'attention = "{family.attention[0]}"', family.attention[1])] if family.attention else []),
        "",
    ]
    if quantized:
        lines += [
            "[quantizer]",
            'use = "bitsandbytes"',
            _line("bits = 4", "NF4 with double quantisation, as in the QLoRA paper"),
            "",
        ]
    else:
        lines += ["# no [quantizer]: the frozen base stays in 16 bits", ""]
    targets, why = family.target_modules
    lines += [
        "[trainer]",
        'use = "sft"',
        _line("epochs = 2", "more than three seldom helps"),
        _line("batch_size = 16", "rows in one optimizer step"),
        _line(f"learning_rate = {family.learning_rate}", "the QLoRA paper's for this size"),
        _line('gradient_checkpointing = "auto"', "recomputes activations where memory is short"),
        "[trainer.lora]",
        _line(f"r = {RANK}", f"{family.adapter:.0f} million trained numbers"),
        _line(f"alpha = {2 * RANK}", "twice the rank"),
        *(
            [_line(f"target_modules = {targets}", why)]
            if len(targets) < 40
            else [f"# {why}", f"target_modules = {targets}"]
        ),
        "",
        "[[exporter]]",
        _line('use = "adapter"', "outputs/adapters/: small, needs the base beside it"),
        "# [[exporter]]",
        _line('# use = "merged"', f"outputs/merged/: base and adapter in one, {2 * family.billions:.0f} GB"),
    ]
    return "\n".join(lines) + "\n"


def _line(value: str, why: str) -> str:
    return f"{value:<34} # {why}"


def recipes() -> dict[str, str]:
    """File name and text of every recipe."""
    return {name(family, quantized): recipe(family, quantized) for family in FAMILIES for quantized in (False, True)}


if __name__ == "__main__":
    for file, text in recipes().items():
        (HERE / file).write_text(text, encoding="utf-8", newline="\n")
