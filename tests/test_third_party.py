"""A plugin of somebody else's, as a real package in a real environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that sees this one's packages, with the third-party package installed by pip."""
    folder = tmp_path_factory.mktemp("third-party")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    # not a second copy of torch: this environment's packages, and the checkout that is installed in it
    shown = [sysconfig.get_path("purelib"), str(HERE.parent), str(HERE.parent / "plugins")]
    (site / "outer.pth").write_text("\n".join(shown))
    source = folder / "source"
    shutil.copytree(HERE / "third_party", source)
    command = [python, "-m", "pip", "install", "--no-deps", "--quiet", str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return python


def loraplug(python: Path, folder: Path, *words: object) -> str:
    command = [python, "-m", "loraplug", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_third_party_source_is_listed_shown_and_used(environment: Path, recipe: Path, tmp_path: Path) -> None:
    """pip install, and a recipe can say `use = "yaml"`."""
    listed = json.loads(loraplug(environment, tmp_path, "plugins", "list", "--json"))
    plugin = next(plugin for plugin in listed["plugins"] if plugin["name"] == "yaml")
    assert (plugin["distribution"], plugin["version"], plugin["status"]) == ("loraplug-yaml", "0.3", "ok")
    assert plugin["url"] == "https://example.test/loraplug-yaml/issues"
    shown = loraplug(environment, tmp_path, "plugins", "show", "yaml")
    assert "provided by loraplug-yaml 0.3" in shown
    assert "what the list of rows stands under" in shown

    rows = "".join(f"- prompt: {n} and 1\n  completion: '{n + 1}'\n" for n in range(12))
    (tmp_path / "rows.yaml").write_text(f"examples:\n{rows}")
    text = recipe.read_text().replace('use = "jsonl"', 'use = "yaml"\nkey = "examples"')
    text = text.replace("rows.jsonl", "rows.yaml")
    recipe.write_text(text)
    assert "dataset    yaml" in loraplug(environment, tmp_path, "recipe", "check", recipe)
    loraplug(environment, tmp_path, "run", recipe, "--set", "trainer.max_steps=1")
    lock = (tmp_path / "outputs/adapters/tiny/recipe.lock.toml").read_text()
    assert 'use = "yaml"' in lock
    assert 'loraplug-yaml = "0.3"' in lock
