"""What my-part promises."""

from pathlib import Path

import my_package
from loraplug.testing import make_registry, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("transform", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a transform."""
    assert_conforms(MyPart(), tmp_path)


def test_long_rows_are_left_out(tmp_path: Path) -> None:
    """The others keep their order, and the longest is told of."""
    from datasets import Dataset

    rows, run = Dataset.from_dict({"text": ["one", "x" * 100, "three"]}), tiny_run(tmp_path)
    assert MyPart(max_characters=50).apply(rows=rows, run=run)["text"] == ["one", "three"]
    assert run.reporter.lines == ["my-part: the longest row has 112 characters"]
