"""What the observer promises."""

import json
from pathlib import Path

import pytest

import my_package
from loraplug import Event
from loraplug.testing import make_registry
from loraplug_tools.plugins.kind_checks import observe
from my_package.part import FILE, MyPart


def test_it_is_found() -> None:
    """Runs will tell it what happens."""
    ((observer, _),) = make_registry(my_package).observers
    assert isinstance(observer, MyPart)


def test_it_takes_every_kind_of_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the future, too; a finished stage becomes a line."""
    monkeypatch.setenv(FILE, str(tmp_path / "stages.jsonl"))
    observe(MyPart())
    (line,) = (tmp_path / "stages.jsonl").read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert (told["run"], told["stage"], told["component"], told["loss"]) == ("tiny", "trainer", "sft", 2.5)


def test_it_writes_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable there is no file, and a stage that never began is no error."""
    monkeypatch.delenv(FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    observe(MyPart())
    MyPart()(Event("stage-end", "tiny", {"stage": "dataset", "component": "csv"}))
    assert not list(tmp_path.iterdir())
