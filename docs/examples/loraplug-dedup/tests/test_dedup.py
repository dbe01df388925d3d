"""What dedup promises."""

from pathlib import Path

import loraplug_dedup
import pytest
from loraplug_dedup import Dedup

from loraplug import InputError
from loraplug.testing import make_registry, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "dedup"`."""
    assert make_registry(loraplug_dedup).find("transform", "dedup") is Dedup


@pytest.mark.parametrize("column", ["text", "messages"])
def test_it_conforms(tmp_path: Path, column: str) -> None:
    """Everything loraplug asks of a transform, with a column of text and one of objects."""
    assert_conforms(Dedup(column=column), tmp_path)


@pytest.mark.parametrize(("near", "kept"), [(1.0, [0, 2, 3]), (0.6, [0, 3])])
def test_the_first_of_each_kind_is_kept(tmp_path: Path, near: float, kept: list[int]) -> None:
    """Case and spaces never tell rows apart; how many words may differ is an option."""
    from datasets import Dataset

    texts = ["The last line is wrong", "the LAST  line is wrong", "the last line is right", "nothing like it"]
    rows = Dataset.from_dict({"text": texts})
    made = Dedup(column="text", near=near).apply(rows=rows, run=tiny_run(tmp_path))
    assert made["text"] == [texts[index] for index in kept]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """With those there are."""
    from datasets import Dataset

    with pytest.raises(InputError, match='no column "body"') as caught:
        Dedup(column="body").apply(rows=Dataset.from_dict({"text": ["one"]}), run=tiny_run(tmp_path))
    assert caught.value.todo == "columns: text"
