"""What my-part promises."""

from pathlib import Path

import my_package
from loraplug.testing import make_registry
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A trainer's table can say `use = "my-part"`."""
    assert make_registry(my_package).find("optimizer", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of an optimizer: it learns, and goes on from a checkpoint as if nothing had happened."""
    assert_conforms(MyPart(), tmp_path)


def test_momentum_goes_on_without_a_gradient() -> None:
    """The step after one with a gradient, where there is none any more."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = MyPart(momentum=0.5).make(groups=[{"params": [weight], "weight_decay": 0.0}], learning_rate=1.0)
    for gradient in (1.0, 0.0):
        before = weight.item()
        weight.grad = torch.full((1,), gradient)
        optimizer.step()
    assert weight.item() - before == -0.25
