"""What my-part promises."""

from pathlib import Path

import my_package
from loraplug.testing import make_registry, tiny_model
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("quantizer", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a quantizer: the model shrinks, and adapters on it can be trained."""
    assert_conforms(MyPart(), tmp_path)


def test_kept_modules_stay_in_full_precision(tmp_path: Path) -> None:
    """`save_total_limit` names what is not touched."""
    import torch
    from transformers import AutoModelForCausalLM

    config = MyPart(keep=("lm_head", "q_proj")).config(torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path), quantization_config=config, dtype=torch.float32)
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.dtype == torch.float32
    assert attention.k_proj.weight.dtype == torch.int8
