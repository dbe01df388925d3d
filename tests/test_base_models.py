"""Base models that do not chat: templates by name, what they need, and what a recipe is told before any work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loraplug import BaseFacts, InputError, control_tokens, end_of_turn
from loraplug.config.tables import is_written_path
from loraplug.testing import tiny_run
from loraplug_hf import templates
from loraplug_hf.loader import TransformersModel


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model without its chat template, which stops where its text ends."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        told = json.loads((folder / name).read_text(encoding="utf-8"))
        told |= {"eos_token": "<|endoftext|>"} if "tokenizer" in name else {"eos_token_id": 0}
        (folder / name).write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_names_are_those_of_trl_and_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its folder, without its twins for training; text of each, and without trl ours is left."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    assert {"chatml", "llama3", "gemma", "qwen2_5"} <= set(templates.names())
    assert templates.text_of("gemma") == (folder / "gemma.jinja").read_text(encoding="utf-8")
    assert not any(name.endswith("_training") for name in templates.names())
    assert control_tokens(templates.text_of("llama3")) == ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    with pytest.raises(InputError, match=r"no template named \"gema\" \(did you mean gemma\?\)"):
        templates.text_of("gema")
    templates.names.cache_clear()
    monkeypatch.setattr(templates, "_files", lambda: ())
    assert templates.names() == ("chatml",)
    templates.names.cache_clear()


def test_a_name_is_no_path_whatever_exists() -> None:
    """A slash or the ending of a template makes a path, as ever."""
    assert [is_written_path(value) for value in ("gemma", "a/gemma", "t.jinja", "./t")] == [False, True, True, True]
    assert [templates.is_name(value) for value in ("gemma", "a/gemma", "t.jinja")] == [True, False, False]


def test_finding_names_loads_neither_torch_nor_trl() -> None:
    """They are listed by `recipe check`."""
    code = "import sys; from loraplug_hf import templates as t; t.advice(frozenset(['<|im_end|>']), 'llama'); "
    code += "print(sorted({'torch', 'trl', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_control_tokens_must_be_single_ones(base: Path, tmp_path: Path) -> None:
    """Those that the tokenizer lacks are named with the way; added, the template holds."""
    run = tiny_run(tmp_path)
    loader = TransformersModel(id=str(base), chat_template="gemma")
    (problem,) = loader.preflight(run=run, recipe=None)
    assert problem.path == "model.chat_template"
    assert 'add_tokens = ["<start_of_turn>", "<end_of_turn>"]' in problem.message
    half = TransformersModel(id=str(base), chat_template="gemma", add_tokens=("<start_of_turn>",))
    (problem,) = half.preflight(run=run, recipe=None)
    assert 'add_tokens = ["<end_of_turn>"], beside those that it has' in problem.message
    with pytest.raises(InputError, match="add_tokens = "):
        loader.load_tokenizer(run)
    added = TransformersModel(id=str(base), chat_template="gemma", add_tokens=("<start_of_turn>", "<end_of_turn>"))
    assert list(added.preflight(run=run, recipe=None)) == []
    tokenizer = added.load_tokenizer(run)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<end_of_turn>"
    fits = TransformersModel(id=str(base), chat_template="chatml").load_tokenizer(run)
    assert fits.convert_ids_to_tokens(end_of_turn(fits)) == "<|im_end|>"


def test_a_base_without_a_template_is_told_what_fits(recipe: Path, base: Path, inside: object) -> None:
    """By the tokens that it has; nothing is loaded."""
    done = inside("recipe", "check", recipe, "--set", f"model.id={base}")  # type: ignore[operator]
    assert done.returncode == 2
    assert 'chat_template = "chatml", ' in done.stderr and "these fit its tokenizer" in done.stderr
    assert "<|im_start|>" in templates.advice(frozenset({"<s>"}), "llama")
    assert templates.fitting({"<start_of_turn>", "<end_of_turn>"}, "gemma3") == ["gemma3", "gemma"]


def test_facts_tell_added_tokens(base: Path, tmp_path: Path) -> None:
    """Of the tokenizer's file, and those to come."""
    facts = TransformersModel(id=str(base), add_tokens=("<|a|>",)).facts(tiny_run(tmp_path))
    assert isinstance(facts, BaseFacts) and facts.added_tokens is not None
    assert facts.added_tokens == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|a|>"}
    assert facts.config["vocab_size"] == facts.vocabulary == facts.weights["lm_head.weight"][1][0] == 302


def test_blank_and_double_tokens_are_refused(recipe: Path, inside: object) -> None:
    """Both at once."""
    done = inside("recipe", "check", recipe, "--set", "model.add_tokens=['<a>', '<a>', ' ']")  # type: ignore[operator]
    assert '"<a>" is listed 2 times' in done.stderr and "' ' is blank" in done.stderr


def test_from_base_to_a_model_that_stops(recipe: Path, base: Path, inside: object) -> None:
    """A base, a template by name, new tokens in it: the whole run; then adapter, merged folder and chat stop by it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    settings = [f"model.id={base}", "model.chat_template=gemma", "trainer.max_steps=2",
                "model.add_tokens=['<start_of_turn>', '<end_of_turn>']"]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    done = inside("run", recipe, *words)  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    outputs = recipe.parent / "outputs"
    for folder in (outputs / "adapters/tiny", outputs / "merged/tiny"):
        end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<end_of_turn>")
        assert GenerationConfig.from_pretrained(folder).eos_token_id == [0, end]
    assert AutoModelForCausalLM.from_pretrained(outputs / "merged/tiny").config.vocab_size == 303
    card = (outputs / "adapters/tiny/README.md").read_text(encoding="utf-8")
    assert "base.resize_token_embeddings(303)" in card
    for model in (outputs / "adapters/tiny", outputs / "merged/tiny"):
        said = inside("chat", model, "--prompt", "what is 1 and one?")  # type: ignore[operator]
        assert said.returncode == 0, said.stderr
