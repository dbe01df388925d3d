"""What the README shows works when it is pasted, and what it names is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from command import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands under a heading."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(title: str, language: str) -> str:
    """The first fenced block of a language under a heading."""
    found = re.search(rf"^```{language}\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run(*words: object, cwd: Path, path: Path) -> str:
    """The output of a Python module that must succeed, with a folder in front of the path."""
    env = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_plugin_works_when_it_is_pasted(tmp_path: Path) -> None:
    """Both files, installed by pip, and a recipe that uses the component."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    code = block("Your own plugin", "python")
    (source / "sums.py").write_text(code, encoding="utf-8")
    (source / "pyproject.toml").write_text(block("Your own plugin", "toml"), encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    pip = ("pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site)
    run(*pip, source, cwd=tmp_path, path=site)
    assert "sums" in run("loraplug", "plugins", "list", cwd=tmp_path, path=site)
    (tmp_path / "recipe.toml").write_text('[dataset]\nuse = "sums"\ncount = 3\n', encoding="utf-8")
    run("loraplug", "data", "recipe.toml", "-o", "rows.jsonl", cwd=tmp_path, path=site)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"prompt": f"{n} + {n} =", "completion": f"{2 * n}"} for n in range(3)]


def test_the_recipe_is_the_quickstart() -> None:
    """The block has the values of recipes/quickstart.toml, and no other."""
    shown = tomllib.loads(block("A recipe", "toml"))
    assert shown == tomllib.loads((ROOT / "recipes" / "quickstart.toml").read_text(encoding="utf-8"))


def test_links_and_recipes_are_there() -> None:
    """Every relative link leads to a file; every recipe of the table and of the commands is in recipes/."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if not link.startswith("https:")]
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []
    named = set(re.findall(r"recipes/(\w+\.toml)", TEXT)) | set(re.findall(r"`(\w+\.toml)`", section("A recipe")))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / "recipes" / name).is_file()] == []


def pages() -> list[str]:
    """The README and every page of the documentation that is written by hand."""
    found = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page.relative_to(ROOT).as_posix() for page in found]


def commands(text: str) -> list[list[str]]:
    """The words of every loraplug command in a code block, without what a shell would not hand over."""
    fenced = re.findall(r"^```(?:bash|console)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .+$", text, re.MULTILINE)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    found = (re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?loraplug (?=[a-z-])([^#|>]+)", line) for line in lines)
    return [one[1].split() for one in found if one]


def test_commands_are_found_in_blocks() -> None:
    """Fenced and indented, over several lines; not in prose, not the usage lines of help."""
    text = "loraplug is here\n```\nloraplug run a.toml \\\n    --fresh  # a word\n```\n\n    loraplug doctor | less\n"
    assert commands(text) == [["run", "a.toml", "--fresh"], ["doctor"]]


@pytest.mark.parametrize("place", pages())
def test_commands_and_options_are_there(place: str) -> None:
    """Every command in a block exists, and knows the options that it is given."""
    from loraplug.cli import cli

    context = cli.make_context("loraplug", ["doctor"])
    for words in commands((ROOT / place).read_text(encoding="utf-8")):
        command, rest = cli, list(words)
        while rest and isinstance(command, click.Group):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, words
            command = found
        known = {name for option in command.params for name in option.opts} | {"--help"}
        given = {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)}
        assert given <= known, words
