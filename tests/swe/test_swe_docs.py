"""The recipes in docs/swe-data.md are true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import attrs
import cattrs
import pytest

from loraplug_swe import loraplug_dataset_sources
from loraplug_swe.conversations.templates import read_templates

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "swe-data.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "[dataset]" in block])
def test_every_recipe_is_accepted(block: str) -> None:
    """Each table makes a component, unknown keys refused."""
    table = tomllib.loads(block)["dataset"]
    sources = {source.name: source for source in loraplug_dataset_sources()}
    source = attrs.resolve_types(sources[table.pop("use")])
    assert cattrs.Converter(forbid_extra_keys=True).structure(table, source).tasks == table["tasks"]


def test_the_template_file_is_accepted(tmp_path: Path) -> None:
    """The example of a template file."""
    (block,) = (block for block in BLOCKS if "[agent]" in block)
    (tmp_path / "mine.toml").write_text(block)
    assert read_templates(tmp_path / "mine.toml", "agent").ask("{{x}}") == "Solve this issue:\n\n{{x}}\n"


def test_every_reason_is_in_the_table() -> None:
    """Every code that a reject can carry is explained, and no other."""
    folder = Path(__file__).resolve().parents[2] / "plugins" / "loraplug_swe"
    rooms = ("tasks", "repositories", "patches", "conversations")
    code = "".join(path.read_text() for room in rooms for path in (folder / room).glob("*.py"))
    used = set(re.findall(r'Reject\(\s*"([a-z0-9-]+)"', code)) | set(re.findall(r'reason: str = "([a-z-]+)"', code))
    used |= set(re.findall(r'reason="([a-z-]+)"', code)) | set(re.findall(r'"((?:gold-|bug-)?does-not-apply)"', code))
    used |= {"corrupt-patch"}
    table = TEXT.split("## What makes no row")[1].split("## On several")[0]
    told = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+|duplicate|irreversible)`", table))
    assert told == used - {"no-answer"} | {"revert-bug"}
