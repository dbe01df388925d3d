"""What my-part promises."""

from pathlib import Path

import pytest

import my_package
from loraplug import InputError
from loraplug.testing import make_registry, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three paragraphs."""
    path = tmp_path / "some.txt"
    path.write_text("one\n\ntwo lines\nof it\n\n\nthree\n", encoding="utf-8")
    return path


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("dataset", "my-part") is MyPart


def test_it_conforms(file: Path, tmp_path: Path) -> None:
    """Everything loraplug asks of a dataset source."""
    assert_conforms(MyPart(path=file), tmp_path / "checks")


def test_paragraphs_become_rows(file: Path, tmp_path: Path) -> None:
    """Short ones are left out, and counted."""
    run = tiny_run(tmp_path)
    assert MyPart(path=file, min_length=4).load(run)["text"] == ["two lines\nof it", "three"]
    assert run.reporter.lines == ["my-part: 1 paragraphs are under 4 characters"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error names the option and the file."""
    with pytest.raises(InputError, match="cannot be read") as caught:
        MyPart(path=tmp_path / "missing.txt").load(tiny_run(tmp_path))
    assert "missing.txt" in str(caught.value.where)
