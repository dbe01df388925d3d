"""Trackers are told through transformers' own integrations; all here without a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from command import Cli
from loraplug_train.engine.trackers import tracker_names
from loraplug_train.trainer import Sft

WANDB = ("WANDB_API_KEY", "WANDB_MODE")


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("auto", {}, []),
        ("auto", {"WANDB_API_KEY": "disabled"}, []),
        ("auto", {"WANDB_API_KEY": "0123"}, ["wandb"]),
        ("auto", {"WANDB_MODE": "offline"}, []),
        (("wandb", "tensorboard"), {}, ["tensorboard"]),
        (("wandb",), {"WANDB_API_KEY": "disabled", "WANDB_MODE": "offline"}, []),
        (("wandb",), {"WANDB_MODE": "offline"}, ["wandb"]),
        ((), {"WANDB_API_KEY": "0123"}, []),
    ],
)
def test_who_is_told(
    given: str | tuple[str, ...], environment: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb needs a key or to be offline; the key `disabled` turns it off whatever the recipe says."""
    pytest.importorskip("wandb")
    for name in WANDB:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracker_names(Sft(report_to=given)) == expected  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "environment", "left"),
    [
        ("wandb", {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}, "wandb/offline-run-*/run-*.wandb"),
        ("tensorboard", {}, "outputs/runs/tiny/checkpoints/runs/*/events.out.tfevents.*"),
        ("trackio", {"TRACKIO_DIR": "trackio", "HF_HUB_OFFLINE": "1"}, "trackio/*.db"),
    ],
)
def test_a_tracker_gets_every_step(
    tracker: str, environment: dict[str, str], left: str, loraplug: Cli, recipe: Path, tmp_path: Path
) -> None:
    """The real library runs offline beside the training and leaves its file with the loss in it."""
    pytest.importorskip(tracker)
    for name, value in environment.items():
        environment = {**environment, name: str(tmp_path / value) if name.endswith("_DIR") else value}
    keys = {name: "" for name in WANDB if name not in environment}
    done = loraplug(
        "run", recipe, "--set", f'trainer.report_to=["{tracker}"]', env={**os.environ, **keys, **environment}
    )
    assert done.returncode == 0, done.stderr
    found = [path for path in tmp_path.glob(left) if path.stat().st_size]
    assert found, [str(path) for path in tmp_path.rglob("*")]
    assert any(b"train" in path.read_bytes() and b"loss" in path.read_bytes() for path in found)
