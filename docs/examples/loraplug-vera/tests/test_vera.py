"""What vera promises."""

from pathlib import Path

import loraplug_vera
from loraplug_vera import Vera

from loraplug.testing import make_registry, tiny_model
from loraplug_tools.plugins.conformance import assert_conforms


def test_it_is_found_by_name() -> None:
    """The table of a trainer can say `use = "vera"`."""
    assert make_registry(loraplug_vera).find("adapter", "vera") is Vera


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of an adapter."""
    assert_conforms(Vera(r=8), tmp_path)


def test_two_vectors_a_layer_are_trained(tmp_path: Path) -> None:
    """Whatever the rank, their number stays the same."""
    from transformers import AutoModelForCausalLM

    counts = []
    for rank in (4, 16):
        part = Vera(r=rank, target_modules=("q_proj",))
        model = part.attach(AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / str(rank))))
        counts.append(len(part.trainable(model)))
    assert counts == [4, 4]
