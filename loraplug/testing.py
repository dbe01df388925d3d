"""Helpers for tests of plugins: a registry of given plugins only, and a tiny model that trains in seconds.

The checks that every component must pass are in `loraplug_tools.plugins.conformance`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loraplug.config.options import options
from loraplug.config.structure import unstructure
from loraplug.context import Run
from loraplug.errors import PluginError, Problem
from loraplug.plugin.components import Component
from loraplug.plugin.handover import ExportContext
from loraplug.plugin.registry import Registry, load_registry
from loraplug.recipe.building import build_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PartT = TypeVar("_PartT", bound=Component)


def make_registry(*plugins: object) -> Registry:
    """A registry of these plugins (modules, or objects with hooks) and of nothing that is installed.

    Raises:
        PluginError: one of them is broken; says why.
    """
    named = [(getattr(plugin, "__name__", type(plugin).__name__), plugin) for plugin in plugins]
    registry = load_registry(named, installed=False)
    for plugin in registry.plugins:
        if plugin.fails:
            raise PluginError(f"is {plugin.status}: {plugin.reason}", where=f"plugin {plugin.name}")
    return registry


def from_table(
    cls: type[_PartT], table: dict[str, object], registry: Registry | None = None
) -> tuple[_PartT | None, list[Problem]]:
    """The component that a recipe's table (without `use`) makes, and every problem that its author would be told.

    Components inside it are looked for in `registry`; by default in everything that is installed.
    """
    if registry is None:
        holds = any(option.holds for option in options(cls))
        registry = load_registry() if holds else load_registry(installed=False)
    return build_table(cls, table, registry)


def to_table(part: Component) -> dict[str, object]:
    """A component as the recipe table that makes it again."""
    return unstructure(part)


def tiny_run(folder: Path, name: str = "tiny", seed: int = 42) -> Run:
    """A run whose outputs and cache lie in `folder`; its `reporter` keeps what was said."""
    return Run(name, seed, outputs=folder / "outputs", cache=folder / "cache")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 300 tokens with ChatML's control tokens and template, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,  # where no terminal is, it prints line feeds
    )
    raw.train_from_iterator(["the bug is in the last line of the function", "system user assistant"], trainer)
    pad, _, end = specials
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=pad, chat_template=CHAT_TEMPLATE)


def tiny_model(folder: Path) -> Path:
    """Save a random 2-layer Llama (0.1 million parameters, always the same) and its tokenizer; gives `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_trained(folder: Path) -> ExportContext:
    """A finished adapter (rank 4, random weights, always the same) on the tiny model, as exporters are given it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    run, base = tiny_run(folder), tiny_model(folder / "base")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lora = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    model.save_pretrained(run.folder / "adapter")
    tiny_tokenizer().save_pretrained(run.folder / "adapter")
    return ExportContext(run, run.folder / "adapter", base, str(base), figures={"train_loss": 2.5, "steps": 4.0})
