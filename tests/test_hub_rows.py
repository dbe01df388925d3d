"""Rows of a hub data set, from a hub on the loopback."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset

from loopback_hub import Fault, Hub, point_at, serving
from loraplug import InputError, Run
from loraplug.testing import tiny_run
from loraplug_data.hub import HubSource


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that `datasets` asks, too, with a cache of its own."""
    import datasets

    with serving() as made:
        point_at(made.address, tmp_path / "hub", monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", made.address)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        yield made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny_run(tmp_path)


def _parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    Dataset.from_dict({"text": texts}).to_parquet(file, batch_size=100)
    return file.getvalue()


def test_a_whole_set_is_fetched_once(hub: Hub, run: Run) -> None:
    """A download that breaks off goes on where it stopped."""
    data = _parquet([f"row {number} {os.urandom(6000).hex()}" for number in range(2000)])
    hub.add("me/set", {"train.parquet": data})
    hub.faults.append(Fault("train.parquet", cut=len(data) - 100))
    source = HubSource(id="me/set")
    assert len(source.load(run)) == 2000
    spans = [span for method, path, span in hub.asked if method == "GET" and path.endswith("train.parquet")]
    assert len(spans) == 2 and re.fullmatch(r"bytes=[1-9]\d{7}-", spans[1])
    assert source.load(run)["text"][1].startswith("row 1 ")
    assert len([1 for method, path, _ in hub.asked if method == "GET" and path.endswith("train.parquet")]) == 2


def test_the_first_rows_alone(hub: Hub, run: Run) -> None:
    """With a limit, as a stream; kept by commit, so that later runs have the same, and a new commit gives new ones."""
    lines = "".join(json.dumps({"text": f"row {n}", "messages": [{"role": "user"}]}) + "\n" for n in range(1000))
    repository = hub.add("me/lines", {"train.jsonl": lines.encode()})
    source = HubSource(id="me/lines", limit=3, rename={"text": "body"})
    rows = source.load(run)
    assert (rows["body"][:], rows["messages"][0]) == (["row 0", "row 1", "row 2"], [{"role": "user"}])
    count = len(hub.downloads())
    assert source.load(run)["body"][:] == ["row 0", "row 1", "row 2"]
    assert len(hub.downloads()) == count
    before = next(iter(repository.commits))
    repository.commit({"train.jsonl": lines.replace("row", "new").encode()})
    assert source.load(run)["body"][0] == "new 0"
    assert HubSource(id="me/lines", limit=3, revision=before).load(run)["text"][0] == "row 0"


@pytest.mark.parametrize("limit", [None, 3])
def test_no_access_is_told(hub: Hub, run: Run, limit: int | None) -> None:
    """As no such set, which a private one looks like."""
    hub.add("me/private", {"train.jsonl": b'{"text": "a"}\n'}, private=True)
    for name in ("me/private", "me/none"):
        with pytest.raises(InputError, match=rf"(?s)dataset.id {name}: cannot be loaded.*HF_TOKEN"):
            HubSource(id=name, limit=limit).load(run)
    hub.add("me/set", {"train.jsonl": b'{"text": "a"}\n'})
    with pytest.raises(InputError, match=r"dataset\.id me/set"):
        HubSource(id="me/set", split="nope", limit=limit).load(run)


@pytest.mark.parametrize("limit", [None, 5])
def test_a_hub_that_does_not_answer_is_told_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, limit: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole or the first rows alone; without a line for each retry."""
    import datasets

    point_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(InputError, match="the hub could not be reached"):
        HubSource(id="me/set", limit=limit).load(run)
    assert "Retrying" not in caplog.text
