"""What my-part promises."""

from pathlib import Path

import my_package
from loraplug.testing import make_registry
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A trainer's table can say `use = "my-part"`."""
    assert make_registry(my_package).find("scheduler", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a scheduler."""
    assert_conforms(MyPart(), tmp_path)


def test_the_rate_falls_by_stages() -> None:
    """Behind the warmup."""
    part = MyPart(stages=2, gamma=0.5)
    assert [part.factor(step=step, steps=7, warmup=2) for step in range(8)] == [0, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5]
