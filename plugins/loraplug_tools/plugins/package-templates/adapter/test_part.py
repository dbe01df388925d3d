"""What my-part promises."""

from pathlib import Path

import my_package
from loraplug.testing import make_registry, tiny_model
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A trainer's table can say `use = "my-part"`."""
    assert make_registry(my_package).find("adapter", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of an adapter: what is trained is saved and comes back."""
    assert_conforms(MyPart(), tmp_path)


def test_only_the_chosen_layers_get_factors(tmp_path: Path) -> None:
    """Two layers of the tiny model, one factor vector each."""
    from transformers import AutoModelForCausalLM

    part = MyPart(target_modules=("k_proj",), feedforward_modules=())
    model = part.attach(AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path)))
    assert len(part.trainable(model)) == 2
