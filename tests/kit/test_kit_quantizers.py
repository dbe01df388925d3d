"""The quantizers do what every one must, and tell what weights become by them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from loraplug_bnb.quantizer import BitsAndBytes
from loraplug_tools.plugins.conformance import assert_conforms
from loraplug_torchao.quantizer import TorchAo


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(bits: int, tmp_path: Path) -> None:
    """In 4 and 8 bits."""
    assert_conforms(BitsAndBytes(bits=bits), tmp_path)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_torchao(tmp_path: Path) -> None:
    """Weights of 8 bits, which are no tensors of 8 bits to look at; how much is quantised is seen all the same."""
    pytest.importorskip("torchao")
    import torch
    from transformers import AutoModelForCausalLM

    from loraplug import quantised_share
    from loraplug.testing import tiny_model

    part = TorchAo()
    assert_conforms(part, tmp_path)
    base = tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=part.config(torch.float32))
    assert quantised_share(model).share == 1.0


def test_torchao_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setattr("loraplug_torchao.quantizer.find_spec", lambda _: None)
    (problem,) = TorchAo().check(SimpleNamespace())
    assert "pip install" in problem.message
