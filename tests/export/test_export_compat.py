"""What `loraplug_export.compat` relies on in transformers: a failure says what another version has changed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import families
import loraplug_export
from loraplug_export.compat import as_stored, stored_forms
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
