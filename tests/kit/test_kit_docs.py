"""The pages for plugin authors: one for each hook, every example run, every generated part up to date."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from command import ROOT
from loraplug import load_registry
from loraplug.context import Event
from loraplug.plugin import hookspecs

DOCS = ROOT / "docs"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("loraplug_"))
GENERATED = sorted(path for path in DOCS.rglob("*.md") if "[[[cog" in path.read_text(encoding="utf-8"))


def test_the_hooks_are_thirteen() -> None:
    """Should a hook be added, this list and the pages follow it by themselves."""
    assert len(HOOKS) == 13


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_page_with_its_signature(hook: str) -> None:
    """The page says the signature, when it is called, and shows a whole example; the overview links it."""
    page = (DOCS / "hooks" / f"{hook}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {hook}\n")
    assert f"def {hook}() -> Sequence[" in page
    assert "Called once, without arguments" in page
    assert "## A whole example" in page
    assert f"(hooks/{hook}.md)" in (DOCS / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_every_hook_runs(hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the section, in order, as one module; the plugin in it brings what the page is about."""
    text = (DOCS / "hooks" / f"{hook}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text.split("## A whole example")[1], re.S)
    assert len(blocks) == 2
    module = ModuleType(f"example_{hook}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, hook, "exec"), module.__dict__)  # noqa: S102 - our own pages
    assert callable(getattr(module, hook))
    assert "assert" in blocks[1]


def test_every_built_in_component_and_command_has_its_section() -> None:
    """With every option; a component without a section would be found by nobody."""
    from loraplug import options

    registry = load_registry()
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    own = [entry for entry in registry.entries if entry.plugin.distribution == "loraplug"]
    assert len(own) >= 17
    for entry in own:
        _, found, section = page.partition(f"\n## {entry.kind} {entry.name}\n")
        assert found, f"{entry.kind} {entry.name} has no section"
        section = section.split("\n## ")[0]
        assert all(f"| `{option.name}` |" in section for option in options(entry.cls)), entry.name
    help_page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for command, plugin in registry.commands:
        assert plugin.distribution != "loraplug" or f"\n## loraplug {command.name}\n" in help_page


@pytest.mark.parametrize("width", ["40", "200"])
def test_generated_parts_are_up_to_date(width: str) -> None:
    """`make docs` was run; and what it writes does not depend on terminal, colours or plugins switched off."""
    import os

    environment = os.environ | {"COLUMNS": width, "FORCE_COLOR": "1", "LORAPLUG_DISABLE": "chat,kit"}
    command = [sys.executable, "-m", "cogapp", "--check", "--diff", "-I", str(DOCS), *map(str, GENERATED)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `make docs`\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert len(GENERATED) >= 10


def test_the_page_on_events_tells_every_kind() -> None:
    """The kinds that `Event` names stand in the table of the page."""
    page = (DOCS / "hooks" / "loraplug_events.md").read_text(encoding="utf-8")
    kinds = re.findall(r'"([a-z-]+)"', inspect.getdoc(Event) or "")
    assert len(kinds) >= 4
    assert all(f"| `{kind}` |" in page for kind in kinds)


def test_links_between_the_pages_lead_somewhere() -> None:
    """Relative links name files that exist, and headings that the page has."""
    for path in [*DOCS.glob("*.md"), *DOCS.glob("hooks/*.md"), *DOCS.glob("examples/*/*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
            place = (path.parent / target) if target else path
            assert place.exists(), f"{path.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.M)
                anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{path.name}: {target}#{anchor}"
