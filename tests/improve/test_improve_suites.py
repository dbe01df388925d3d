"""Repositories whose tests are not to be relied on: what fails or wavers is left out and counted, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from improve_helpers import RECIPE, TESTS, Script, make_repository

from loraplug import LoraplugError
from loraplug.cli import cli
from loraplug_swe.improve.start import start

RED = """

def test_never():
    assert sums.mean([1, 2]) == 7


def test_neither():
    assert sums.clamp(3) == 4
"""
FLAKY = """

def test_now_and_then():  # the first of two runs is watched by coverage, so it always wavers
    import sys

    assert sums.spread([1, 4]) == 3 and "coverage" not in sys.modules
"""


@pytest.fixture
def repository(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of tests, to be changed; commands run beside it."""
    make_repository(tmp_path / "sums")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=tiny_model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAPLUG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "sums" / "tests" / "test_sums.py"


def work(rule: Any, *settings: str) -> dict[str, Any]:
    """The report of one round."""
    start(cli, Path("recipe.toml"), ("improve.rounds=1", "dataset.count=8", *settings), False, False, Script(rule))  # type: ignore[arg-type]
    told: dict[str, Any] = json.loads(Path("outputs/improve/small/report.json").read_text())
    return told


def test_a_suite_that_is_red_is_refused(repository: Path) -> None:
    """Where no test passes as it is, that is said, with how they fail, before anything is trained."""
    repository.write_text("import sums\n" + RED)
    with pytest.raises(LoraplugError) as error:
        work(lambda *_: "right")
    assert "test" in error.value.what and "pass" in str(error.value) and error.value.todo
    assert not [*Path("outputs").glob("adapters/*")]


def test_tests_that_fail_or_waver_are_left_out_and_counted(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The rows of bugs are made, and none of the bugs is told by such a test."""
    repository.write_text(TESTS + RED + FLAKY)
    list(cli.pipeline(Path("recipe.toml"), ("dataset.count=8",)).load_rows())  # type: ignore[attr-defined]
    said = " ".join(capfd.readouterr().err.split())
    assert "2 tests are left out: they fail on the unchanged code (tests/test_sums.py::test_" in said
    assert "1 tests are left out: their results differ between runs (tests/test_sums.py::test_now_and_then" in said
    for task in [*Path("outputs").rglob("task_*.json")]:
        text = task.read_text()
        assert not any(f"::{name}" in text for name in ("test_never", "test_neither", "test_now_and_then"))
    assert [*Path("outputs").rglob("task_*.json")]
