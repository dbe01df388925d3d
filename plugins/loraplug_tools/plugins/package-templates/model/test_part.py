"""What my-part promises."""

from pathlib import Path

import pytest

import my_package
from loraplug import InputError
from loraplug.testing import make_registry, tiny_model, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("model", "my-part") is MyPart


def test_it_conforms(folder: Path, tmp_path: Path) -> None:
    """Everything loraplug asks of a model loader."""
    assert_conforms(MyPart(path=folder), tmp_path)


def test_it_computes_in_the_dtype_asked_for(folder: Path, tmp_path: Path) -> None:
    """Options reach the model."""
    import torch

    assert MyPart(path=folder, dtype="bfloat16").load_model(tiny_run(tmp_path)).dtype == torch.bfloat16


def test_a_spoilt_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """Weights cut short are named, not loaded in part."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    with pytest.raises(InputError, match="cannot be loaded"):
        MyPart(path=tmp_path).load_model(tiny_run(tmp_path))
