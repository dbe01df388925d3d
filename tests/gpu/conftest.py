"""Acceptance on a GPU: run by `make gpu` or `pytest -m gpu` alone, and told in gpu-report.md.

`LORAPLUG_GPU_TESTS=cpu` runs on the CPU what can be run there; without it and without a GPU all are skipped.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from loraplug import Encoded, Run, TrainingResult
from loraplug_train.trainer import Sft

HERE = Path(__file__).parent
LIBRARIES = (
    "torch", "triton", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "flash-attn", "liger-kernel",
    "deepspeed",
)  # fmt: skip
_outcomes: dict[str, str] = {}
_lines: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They are not part of other test runs: a machine with a GPU would run them for minutes."""
    if "gpu" in config.option.markexpr:
        return
    ours = [item for item in items if item.get_closest_marker("gpu")]
    if ours:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session")
def device() -> str:
    """ "cuda" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("LORAPLUG_GPU_TESTS") != "cpu":
        pytest.skip("no GPU; LORAPLUG_GPU_TESTS=cpu runs on the CPU what can be run there")
    return "cpu"


@pytest.fixture
def told() -> Callable[[str], None]:
    """Adds a line to the report."""
    return _lines.append


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A random Llama of 10 million parameters with the tiny model's tokenizer: large enough to be measured."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide-model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
            num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train(device: str, wide_model: Path, tmp_path: Path) -> Callable[..., tuple[TrainingResult, Run]]:
    """Trains on the device; `name` is the run's, `attention` and `dtype` the model's, options are the trainer's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def run(name: str, rows: Any, dtype: str = "bfloat16", attention: str = "sdpa", **options: Any) -> Any:
        where = {"device_map": {"": 0}} if device == "cuda" else {}
        model = AutoModelForCausalLM.from_pretrained(wide_model, dtype=dtype, attn_implementation=attention, **where)
        given = Run(name, outputs=tmp_path / "outputs")
        given.folder.mkdir(parents=True)
        settings = {"samples": 0, "learning_rate": 1e-3, "max_steps": 3, "batch_size": 4, **options}
        tokenizer = AutoTokenizer.from_pretrained(wide_model)
        return Sft(**settings).train(given, lambda _: model, tokenizer, Encoded(rows), None), given

    return run


def pytest_runtest_logreport(report: Any) -> None:
    """Keep what became of each of our tests."""
    if "tests/gpu/" not in report.nodeid.replace(os.sep, "/") and not report.nodeid.startswith("test_gpu"):
        return
    if report.when == "call" or report.outcome != "passed":
        reason = report.longrepr[2] if report.skipped else str(report.longrepr or "").strip().splitlines()[-1:]
        text = reason if isinstance(reason, str) else " ".join(reason)
        _outcomes[report.nodeid.partition("::")[2]] = f"{report.outcome} | {text.replace('|', '/')[:200]}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write gpu-report.md into the folder that the tests are run from."""
    if not _outcomes or all(outcome.startswith("skipped") for outcome in _outcomes.values()):
        return
    rows = [f"| `{name}` | {outcome} |" for name, outcome in _outcomes.items()]
    lines = ["# GPU acceptance", "", f"{date.today().isoformat()}, {_machine()}", "", _versions(), ""]
    lines += [*_lines, "", "| test | outcome | why |", "|---|---|---|", *rows, ""]
    Path("gpu-report.md").write_text("\n".join(lines), encoding="utf-8")


def _machine() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"**no GPU: run on the CPU** ({platform.machine()}), which says nothing of CUDA"
    cards = ", ".join(torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count()))
    driver = Path("/proc/driver/nvidia/version")
    return f"{cards}; {driver.read_text().splitlines()[0] if driver.exists() else ''}; CUDA {torch.version.cuda}"


def _versions() -> str:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
