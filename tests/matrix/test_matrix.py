"""A part of the precision matrix: every two values of number format, kernel, adapter and layout that can meet.

`make matrix` runs all of it and writes the table of docs/precision.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix_cells import LAYOUTS, Cell, every, is_refused, subset
from matrix_launch import launched
from matrix_worker import run_cell

ALONE = [cell for cell in subset() if cell.layout == "one process"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A tiny model's products are too small to share."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_part_holds_every_two_values_that_can_meet() -> None:
    """And is small enough for every test run."""
    cells = subset()
    assert len(cells) <= 40
    assert len({*map(str, cells)}) == len(cells)
    together = {(one, other) for cell in cells for one in cell.table().values() for other in cell.table().values()}
    for cell in every():
        known = cell.format in {one.format for one in cells} and not is_refused(cell)
        values = cell.table().values()
        assert not known or all((one, other) in together for one in values for other in values)


@pytest.mark.parametrize("cell", ALONE, ids=str)
def test_one_process(cell: Cell, tmp_path: Path, tiny_model: Path, one_thread: None) -> None:
    """Trained, validated, answered, saved, exported, put on its base anew, gone on with from a checkpoint."""
    result = run_cell(cell, tmp_path / "cell", tiny_model)
    assert result["verdict"] == "passed", result["reason"] + "\n" + result.get("trace", "")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one process"])
def test_two_processes(layout: str, tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest) -> None:
    """The same by two processes for each layout; quantised weights that would have to be shared out are refused."""
    cells = [cell for cell in subset() if cell.layout == layout]
    server = request.getfixturevalue("deepspeed_server" if layout == "ZeRO-3" else "server")
    wrong = []
    for cell, result in zip(cells, launched(cells, tmp_path / "cells", tiny_model, {}, server=server), strict=True):
        told = "a quantised model cannot be sharded" in result.get("reason", "")
        right = (result["verdict"] == "refused" and told) if is_refused(cell) else result["verdict"] == "passed"
        if not right:
            wrong.append(f"{cell}: {result['verdict']} {result.get('reason', '')}\n{result.get('trace', '')}")
    assert not wrong, "\n".join(wrong)
