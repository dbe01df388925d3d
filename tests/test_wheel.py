"""Installed from a wheel, and from an sdist, away from the checkout: everything is there and found."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from command import ROOT

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of what git holds, an sdist of it, and the wheel that comes out of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    run("git", "clone", "--quiet", ROOT, folder / "clone", cwd=folder)
    build = "from setuptools import build_meta as b; print(b.build_{}({!r}))"
    run(sys.executable, "-c", build.format("sdist", str(folder)), cwd=folder / "clone")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    (source,) = folder.glob("*.tar.gz")
    run(*pip, "-w", folder / "one", folder / "clone", cwd=folder)
    run(*pip, "-w", folder / "two", source, cwd=folder)
    return {"wheel": next((folder / "one").iterdir()), "sdist": next((folder / "two").iterdir())}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_outside_the_checkout(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    """Commands, components, package templates and starters are there; a starter passes its check."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    # the dependencies, but not the editable checkout: its finder is not run by a path
    (place / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[kind], cwd=tmp_path)
    loraplug = tmp_path / "venv/bin/loraplug"
    where = run(
        python, "-c", "import loraplug, loraplug_train; print(loraplug.__file__, loraplug_train.__file__)", cwd=tmp_path
    )
    assert all(Path(path).is_relative_to(tmp_path) for path in where.split())
    listed = run(loraplug, "plugins", "list", cwd=tmp_path)
    for name in ("swe-bugs", "chat-template", "transformers", "bitsandbytes", "sft", "merged"):
        assert name in listed
    assert "broken" not in listed
    run(loraplug, "plugins", "new", "loraplug-mine", "--kind", "formatter", cwd=tmp_path)
    for wanted in ("swe", "chat", "text"):
        run(loraplug, "recipe", "init", "--for", wanted, "-o", f"{wanted}.toml", cwd=tmp_path)
        run(loraplug, "recipe", "check", "--options", f"{wanted}.toml", cwd=tmp_path)
    run(loraplug, "recipe", "schema", "-o", "schema.json", cwd=tmp_path)
