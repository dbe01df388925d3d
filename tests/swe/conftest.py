"""Fixtures of the SWE tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from swe_helpers import Repo

from loraplug import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with its outputs and cache in a temporary folder."""
    return Run("test", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """An empty repository `ada/lib`; `clone_url` is `{tmp_path}/{repo}`."""
    return Repo(tmp_path / "ada" / "lib")
