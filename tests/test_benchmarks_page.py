"""The page of figures is made from what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, whose benchmarks and results lie in a folder of the test's."""
    spec: Any = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_the_page_is_as_it_is_made() -> None:
    """Nobody typed a figure into it."""
    spec: Any = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == module.PAGE.read_text(encoding="utf-8"), "run python benchmarks/record.py"


def test_what_a_script_prints_is_kept_with_where_and_when(record: Any, tmp_path: Path) -> None:
    """A result says machine, versions and date, and stands on the page as it was printed."""
    (tmp_path / "one.py").write_text('"""How fast it is.\n\nMore.\n"""\nimport sys\nprint("3 rows", *sys.argv[1:])\n')
    path = record.record("one.py", ["--rows", "3"])
    told = json.loads(path.read_text())
    assert path.name == "one-rows-3.json" and told["output"] == ["3 rows --rows 3"]
    assert told["machine"]["cores"] >= 1 and told["versions"]["torch"] and told["date"] > "2026"
    made = record.page()
    assert "## one.py --rows 3\n\nHow fast it is.\n\n```text\n3 rows --rows 3\n```" in made
    assert told["date"] in made and f"torch {told['versions']['torch']}" in made


def test_a_script_that_fails_leaves_no_result(record: Any, tmp_path: Path) -> None:
    """Half a table is none."""
    (tmp_path / "two.py").write_text('"""Breaks."""\nprint("half")\nraise SystemExit(3)\n')
    with pytest.raises(SystemExit, match=r"two\.py ended with 3"):
        record.record("two.py", [])
    assert not (tmp_path / "results").exists()
    assert "- `two.py`: Breaks." in record.page()
