"""What accelerate's launcher says of DeepSpeed, through the environment."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from loraplug import InputError
from loraplug_train.engine import zero

TABLE = {"stage": 1, "stage3_max_live_parameters": "auto"}
TEXT = json.dumps({"zero_optimization": TABLE})


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the machine's own environment says."""
    for name in ("ZERO_STAGE", "OFFLOAD_PARAM_DEVICE", "OFFLOAD_PARAM_NVME_PATH", "CONFIG_FILE"):
        monkeypatch.delenv(f"ACCELERATE_DEEPSPEED_{name}", raising=False)


def test_a_file_is_named_or_given_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a path, as JSON and as JSON in base64, like accelerate."""
    path = tmp_path / "deepspeed.json"
    path.write_text(TEXT, encoding="utf-8")
    for given in (str(path), TEXT, base64.urlsafe_b64encode(TEXT.encode()).decode()):
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", given)
        assert zero.settings() == TABLE


def test_keys_of_accelerate_make_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 2 where none is said, and where parameters are held."""
    assert zero.settings() == {"stage": 2}
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH", "/disk")
    assert zero.settings() == {"stage": 1, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("gone.json", "its DeepSpeed config gone.json cannot be read"),
        ("{}", "KeyError"),
        ('{"zero_optimization": 3}', "is not a JSON object"),
        ('{"zero_optimization": {"stage": "three"}}', "zero_stage is 'three', not 0, 1, 2 or 3"),
    ],
)
def test_a_file_of_no_use_is_refused(file: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is wrong."""
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", file)
    with pytest.raises(InputError, match=words):
        zero.settings()


def test_a_file_without_a_stage_has_deepspeeds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is 0."""
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", '{"zero_optimization": {}}')
    assert zero.settings() == {"stage": 0}
