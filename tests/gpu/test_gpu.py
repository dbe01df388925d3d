"""What a GPU must do, on the GPU that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from gpu_speed import speeds
from matrix_cells import LAYOUTS, Cell, every, subset
from matrix_launch import launched
from matrix_worker import run_cell
from sft_rows import encoded

from loraplug import TrainingResult

pytestmark = pytest.mark.gpu

Told = Callable[[str], None]
CELLS = [cell for cell in every() if cell.layout == "one process"]
SHORT = {str(cell) for cell in subset()}


def losses(result: TrainingResult) -> list[float]:
    """The loss of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines[:-1]]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_format_kernel_and_adapter(cell: Cell, device: str, tmp_path: Path, tiny_model: Path) -> None:
    """The matrix in one process; on the CPU only the part that every test run takes."""
    if device == "cpu" and str(cell) not in SHORT:
        pytest.skip("on the CPU `make matrix` runs it")
    result = run_cell(cell, tmp_path / "cell", tiny_model)
    assert result["verdict"] == "passed", result["reason"] + "\n" + result.get("trace", "")


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one process"])
def test_two_gpus(layout: str, device: str, tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest) -> None:
    """Two processes over NCCL, each with a GPU of its own."""
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two GPUs; over gloo tests/matrix does it")
    env = request.getfixturevalue("deepspeed") if layout == "ZeRO-3" and not find_spec("deepspeed") else {}
    cells = [cell for cell in every() if cell.layout == layout and cell.kernel == "plain"]
    for result in launched(cells, tmp_path / "cells", tiny_model, env):
        assert result["verdict"] in ("passed", "refused"), result


def test_a_lack_of_memory_halves_the_rows_at_once(train: Any, device: str, told: Told) -> None:
    """With most of the card's memory taken away the run goes on with fewer rows, to the same losses."""
    import torch

    if device == "cpu":
        pytest.skip("on the CPU tests/sft/test_training.py does it, in a process whose memory is limited")
    rows = encoded(32, longest=1000)
    whole, _ = train("whole", rows, batch_size=16, micro_batch=16, gradient_checkpointing=False)
    most = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6 * most / total)
    try:
        narrow, run = train("narrow", rows, batch_size=16, micro_batch=16, gradient_checkpointing=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    warned = [line for line in run.reporter.warnings if "out of memory at step" in line]
    assert warned
    assert losses(narrow) == pytest.approx(losses(whole), rel=5e-3)
    told(f"Out of memory: {warned[-1]}.")


def test_gradient_checkpointing(train: Any, device: str, told: Told) -> None:
    """The same losses with less memory."""
    import torch

    rows, peaks = encoded(8, longest=1500 if device == "cuda" else 200), []
    found = []
    for wanted in (False, True):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found.append(losses(train(f"{wanted}", rows, gradient_checkpointing=wanted)[0]))
        peaks.append(torch.cuda.max_memory_allocated() if device == "cuda" else 0)
    assert found[1] == pytest.approx(found[0], rel=5e-3)
    if device == "cuda":
        assert peaks[1] < peaks[0]
        told(f"Gradient checkpointing: {peaks[0] / 1e6:.0f} MB without, {peaks[1] / 1e6:.0f} MB with.")


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2"])
def test_packed_documents_do_not_see_each_other(attention: str, train: Any, device: str) -> None:
    """Rows packed into one give the losses that they give apart, by every attention there is."""
    from datasets import Dataset

    if attention == "flash_attention_2" and (device == "cpu" or not find_spec("flash_attn")):
        pytest.skip("flash-attn is not installed, or there is no GPU")
    rows = encoded(8)
    packed = {
        "input_ids": [list(chain(*rows["input_ids"]))],
        "labels": [list(chain(*rows["labels"]))],
        "row": [list(chain(*rows["row"]))],
        "seq_lengths": [list(map(len, rows["input_ids"]))],
    }
    apart, _ = train("apart", rows, attention=attention, batch_size=8, micro_batch=1, kernel="plain")
    together, _ = train("together", Dataset.from_dict(packed), attention=attention, batch_size=1, kernel="plain")
    assert losses(together) == pytest.approx(losses(apart), rel=5e-3)


def test_liger(train: Any, device: str) -> None:
    """The losses of the plain kernel."""
    if device == "cpu" or not find_spec("liger_kernel"):
        pytest.skip("liger-kernel is not installed, or there is no GPU")
    rows = encoded(8, longest=200)
    plain, _ = train("plain", rows, kernel="plain")
    liger, run = train("liger", rows, kernel="liger")
    assert any("liger" in line for line in run.reporter.lines)
    assert losses(liger) == pytest.approx(losses(plain), rel=5e-3)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_8bit"])
def test_optimizers_of_bitsandbytes(optimizer: str, train: Any) -> None:
    """They train; the first loss is that of any optimizer."""
    rows = encoded(8, longest=100)
    found, plain = (losses(train(name, rows, optimizer=name)[0]) for name in (optimizer, "adamw_torch"))
    assert found[0] == pytest.approx(plain[0], rel=1e-3)
    assert found[-1] != found[0]


def test_merge_and_gguf_of_a_bfloat16_base(device: str, recipe: Path, wide_model: Path, inside: Any) -> None:
    """One recipe: trained in bfloat16, merged with its proof, written as GGUF."""
    from gguf import GGUFReader

    text = recipe.read_text(encoding="utf-8") + '[[exporter]]\nuse = "gguf"\n'
    recipe.write_text(text, encoding="utf-8")
    done = inside("run", recipe, "--set", "model.dtype=bfloat16", "--set", f"model.id={wide_model}")
    assert done.returncode == 0, done.stderr
    outputs = recipe.parent / "outputs"
    assert json.loads((outputs / "merged/tiny/loraplug.json").read_text(encoding="utf-8"))["proof"]
    (file,) = outputs.rglob("*.gguf")
    assert any(tensor.name == "blk.0.attn_q.weight" for tensor in GGUFReader(file).tensors)


def test_speed_and_memory_beside_trl(device: str, wide_model: Path, tmp_path: Path, told: Told) -> None:
    """The table of tokens a second and peak memory; losses of both sides are the same."""
    found = speeds(device, wide_model, tmp_path)
    told("\n| | tokens/s | peak memory | first loss | last loss |\n|---|---|---|---|---|")
    for side, one in found.items():
        memory = f"{one['peak'] / 1e9:.2f} GB"
        told(f"| {side} | {one['speed']:,.0f} | {memory} | {one['losses'][0]:.4f} | {one['losses'][-1]:.4f} |")
    first, *others = (one["losses"] for one in found.values())
    for other in others:
        assert other == pytest.approx(first, rel=1e-2)
