"""What loading relies on in transformers, safetensors and torch: a failure says what a new version has changed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from loraplug_hf.compat import weights_opened_with

SEE = "see loraplug_hf/compat.py"


def test_models_are_loaded_through_the_name_that_is_replaced(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our options, in other threads too, and with its own again afterwards."""
    from transformers import AutoModelForCausalLM, modeling_utils

    asked: list[dict[str, Any]] = []
    own = modeling_utils.safe_open

    def opening(*file: Any, **options: Any) -> Any:
        asked.append(options)
        return own(*file, **options)

    monkeypatch.setattr(modeling_utils, "safe_open", opening)
    with weights_opened_with(backend="pread"):
        thread = threading.Thread(target=AutoModelForCausalLM.from_pretrained, args=[tiny_model])
        thread.start()
        thread.join()
    assert asked, f"transformers does not open weights by modeling_utils.safe_open any more: {SEE}"
    assert {options["backend"] for options in asked} == {"pread"} and modeling_utils.safe_open is opening


def test_safetensors_reads_without_mapping(tiny_model: Path) -> None:
    """`backend="pread"` gives the same values, and the file is nowhere in the process' maps."""
    import torch
    from safetensors import safe_open

    file = tiny_model / "model.safetensors"
    with safe_open(file, "pt") as mapped, safe_open(file, "pt", backend="pread") as read:
        name = next(iter(mapped.keys()))
        assert torch.equal(mapped.get_tensor(name), read.get_tensor(name)), SEE


def test_torch_tells_of_matrix_units() -> None:
    """`model.dtype = "auto"` asks for these; a machine that has them must not be told it has none."""
    import platform

    import torch

    told = torch.cpu.get_capabilities()
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    assert "amx_bf16" in told, "torch.cpu.get_capabilities() names matrix units otherwise: see loraplug_hf/loader.py"
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        assert told["amx_bf16"] == (" amx_bf16" in cpu.read_text())
