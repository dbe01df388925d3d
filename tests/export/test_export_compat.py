"""What `loraplug_export.compat` relies on in transformers: a failure says what another version has changed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import families
import loraplug_export
from loraplug_export.compat import as_stored, kept_in_fp32, own_parameters, read_parameters_from, stored_forms
from loraplug_export.tensors import open_checkpoint

MODULES = ("transformers.conversion_mapping", "transformers.core_model_loading")


def test_they_are_used_in_one_module_only():
    """What another version changes has to be mended in `compat` alone."""
    folder = Path(loraplug_export.__file__).parent
    users = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                users.add(path.name)
    assert users == {"compat.py"}


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen3_moe", "mixtral", "jamba", "granitemoe"])
def test_forms_give_what_loading_gives(kind, tmp_path):
    """Every weight of a model that transformers loads, from the names and forms it is stored in, and back."""
    import torch
    from transformers import AutoModelForCausalLM

    base = open_checkpoint(families.save(kind, tmp_path / "base"))
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    forms, state = stored_forms(model, base.tensors), model.state_dict()
    made = {name: base.tensors[stored].read() for name, stored in forms.direct.items()}
    for conversion in set(forms.converted.values()):
        found = conversion.make(lambda name: base.tensors[name].read())
        made |= found
        back = as_stored(model, {name: state[name] for name in conversion.targets})
        assert sorted(back) == sorted(conversion.sources)
        assert all(torch.equal(back[name], base.tensors[name].read()) for name in back)
    assert made.keys() == state.keys() and all(torch.equal(made[name], state[name]) for name in made)
    assert bool(forms.converted) == (kind in ("qwen3_moe", "mixtral", "jamba"))


def test_models_say_what_stays_in_float32() -> None:
    """T5's second projection, nothing of a Llama; bitsandbytes leaves out what is named so."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 8}
    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config(**sizes))
        llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", hidden_size=8, intermediate_size=8,
                                                 num_hidden_layers=1, num_attention_heads=2, vocab_size=8))  # fmt: skip
    told = "transformers names what is kept in float32 otherwise: see loraplug_export/compat.py"
    assert kept_in_fp32(t5) == ["wo"] and kept_in_fp32(llama) == [], told


def test_a_module_reads_its_parameters_from_the_mapping_it_is_given() -> None:
    """Its own or another; made anew for each read, and a submodule's are not among them."""
    layer, asked = torch.nn.Linear(2, 2, bias=False), []

    class Made(dict[str, torch.nn.Parameter]):
        def __getitem__(self, name: str) -> torch.nn.Parameter:
            asked.append(name)
            full = torch.nn.Parameter(torch.full((2, 2), 3.0), requires_grad=False)
            return full if name == "weight" else super().__getitem__(name)

    told = "torch reads a module's parameters otherwise: see loraplug_export/compat.py"
    own = own_parameters(layer)
    assert set(own) == {"weight", "bias"} and own["bias"] is None, told
    read_parameters_from(layer, Made(own))
    assert layer(torch.ones(1, 2)).tolist() == [[6.0, 6.0]] and "weight" in asked, told
    read_parameters_from(layer, own)
    own["weight"] = torch.nn.Parameter(torch.zeros(2, 2))
    assert layer(torch.ones(1, 2)).tolist() == [[0.0, 0.0]], told
    assert own_parameters(torch.nn.Sequential(layer)) == {}, told
