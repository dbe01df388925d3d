"""What my-part promises."""

import json
from pathlib import Path

import my_package
from loraplug.testing import make_registry, tiny_run, tiny_trained
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("exporter", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of an exporter: the same bytes twice, spoilt adapters refused."""
    assert_conforms(MyPart(), tmp_path)


def test_it_tells_what_the_adapter_holds(tmp_path: Path) -> None:
    """Rank, figures and the shape of every tensor."""
    told = json.loads(MyPart().export(tiny_trained(tmp_path), tmp_path / "told.json").read_text(encoding="utf-8"))
    assert (told["rank"], told["alpha"], told["figures"]["steps"]) == (4, 8, 4.0)
    assert any(name.endswith("lora_A.weight") and shape[0] == 4 for name, shape in told["tensors"].items())


def test_it_lies_where_it_says(tmp_path: Path) -> None:
    """Beside the other outputs, by the run's name."""
    assert MyPart().place(tiny_run(tmp_path)) == tmp_path / "outputs" / "my-part" / "tiny.json"
