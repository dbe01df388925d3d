"""One of each kind of model through all that `make families` does with all of them; and what is told of the result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from loraplug import BaseFacts
from loraplug_tools.inspect.models import family_row, sentence

ROOT = Path(__file__).parents[1]
KINDS = ("qwen3", "lfm2", "gpt_oss", "qwen3_moe", "xlstm")
# dense, convolutions, experts in one tensor, experts stored singly, recurrent


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_families", ROOT / "benchmarks/model_families.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_one_of_each_kind(name: str, benchmark: ModuleType, tmp_path: Path) -> None:
    """No cell is wrong, and each is what docs/models.md says of it, measures within a few percent."""
    cells = benchmark.row(name, tmp_path)
    assert not [f"{column}: {cell.text}" for column, cell in cells.items() if cell.verdict == "wrong"]
    told = json.loads(benchmark.DATA.read_text())["rows"][name]["cells"]
    assert {column: cell.verdict for column, cell in cells.items()} == {
        column: cell["verdict"] for column, cell in told.items()
    }
    for column in ("covered", "packs", "merge", "kernel", "nf4"):
        assert cells[column].text == told[column]["text"], column


def test_a_failure_is_a_wrong_cell_and_a_refusal_is_not(benchmark: ModuleType) -> None:
    """What a user would see as a traceback counts as wrong."""
    from loraplug import InputError

    def refuse() -> None:
        raise InputError("experts are not written", where="exporter", todo="use another")

    refused, wrong = benchmark._cell(refuse), benchmark._cell(lambda: 1 / 0)
    assert (refused.verdict, wrong.verdict) == ("refused", "wrong")
    assert refused.text == "no: experts are not written" and "ZeroDivisionError" in wrong.text


def test_the_page_is_that_of_the_data(benchmark: ModuleType) -> None:
    """docs/models.md is written from what `plan` reads, and by nobody's hand."""
    data = json.loads(benchmark.DATA.read_text())
    assert benchmark.PAGE.read_text() == benchmark.page(data)
    assert set(data["rows"]) == set(benchmark.KNOWN)


def facts(**config: object) -> BaseFacts:
    return BaseFacts(Path(), config)


def test_plan_finds_the_row() -> None:
    """By the family's own name, by the text part of a model that sees; a family nobody has tried has none."""
    row = family_row(facts(model_type="qwen3"))
    assert row is not None and row["family"] == "qwen3" and sentence(row).startswith("qwen3, by a tiny one")
    seeing = family_row(facts(model_type="gemma3", text_config={"model_type": "gemma3_text"}))
    assert seeing is not None and seeing["family"] == "gemma3"
    phi3 = family_row(facts(model_type="phi3"))
    assert phi3 is not None and phi3["family"] == "phi3", "not its sibling with longrope"
    further = family_row(facts(model_type="stablelm"))
    assert further is not None and further["family"] == "stablelm"
    assert family_row(facts(model_type="t5")) is None and family_row(None) is None
