"""Whatever is thrown at it: taken, or refused with an error of ours; no hang, no file outside."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, try_one

EXAMPLES = {"rows": 60, "tasks": 40, "git": 8}
SECONDS = 60


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(SECONDS * 5, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few inputs of each kind, the same ones every time; `long.py` tries many, and others."""
    monkeypatch.chdir(tmp_path)

    @settings(
        max_examples=EXAMPLES.get(name, 200), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        try_one(name, data.draw(TARGETS[name][0]), tmp_path)

    attempt()
