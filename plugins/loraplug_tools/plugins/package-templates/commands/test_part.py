"""What `loraplug my-part` promises."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import my_package
from loraplug import InputError
from loraplug.testing import make_registry, tiny_trained
from my_package.part import command, read_config


def test_it_is_found_by_name() -> None:
    """`loraplug my-part` exists."""
    ((found, _),) = make_registry(my_package).commands
    assert found.name == "my-part"
    assert found.help


def test_it_tells_what_an_adapter_is(tmp_path: Path) -> None:
    """Rank, modules and size, as JSON and as text."""
    adapter = tiny_trained(tmp_path).adapter
    done = CliRunner().invoke(command, [str(adapter), "--json"])
    told = json.loads(done.stdout)
    assert told["rank"] == 4
    assert "q_proj" in told["modules"]
    assert told["bytes"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert "rank     4" in CliRunner().invoke(command, [str(adapter)]).stdout


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    """The error names the file that is missing."""
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path)
