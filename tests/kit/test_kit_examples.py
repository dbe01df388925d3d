"""The example plugins of the docs, installed by pip into an environment of their own and used by real recipes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from command import ROOT

EXAMPLES = sorted(path.parent for path in (ROOT / "docs" / "examples").glob("*/pyproject.toml"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that sees this one's packages, with the examples installed in it."""
    folder = tmp_path_factory.mktemp("examples")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    # not a second copy of torch: this environment's packages, and the checkout that is installed in it
    shown = [sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "plugins")]
    (site / "outer.pth").write_text("\n".join(shown))
    assert len(EXAMPLES) == 7
    for example in EXAMPLES:
        shutil.copytree(example, folder / example.name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", *(str(folder / example.name) for example in EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, folder: Path, *words: object) -> str:
    done = subprocess.run([python, "-m", *map(str, words)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_pass_their_own_tests_when_installed(python: Path, tmp_path: Path) -> None:
    """Their tests import what pip installed, not the sources beside them."""
    files = [str(path) for example in EXAMPLES for path in example.glob("tests/test_*.py")]
    told = run(python, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, *files)
    assert " passed" in told
    ask = "import loraplug_fim, loraplug_git_log, loraplug_zip; print(loraplug_fim.__file__)"
    where = subprocess.check_output([python, "-c", ask], cwd=tmp_path, text=True)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_recipes_use_them(python: Path, recipe: Path, tmp_path: Path) -> None:
    """Commits through the chat template, then source files through fim; both leave a zip file and a lock."""
    listed = json.loads(run(python, tmp_path, "loraplug", "plugins", "list", "--json"))
    names = ("git-log", "fim", "zip")
    ours = {part["name"]: part["distribution"] for part in listed["components"] if part["plugin"] in names}
    assert ours == {
        "git-log": "loraplug-git-log",
        "fim": "loraplug-fim",
        "source-files": "loraplug-fim",
        "zip": "loraplug-zip",
    }
    sources = tmp_path / "sources"
    sources.mkdir()
    git = ["git", "-C", str(sources), "-c", "user.name=nobody", "-c", "user.email=nobody"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(6):
        (sources / f"part_{number}.py").write_text(f"def part():\n    return {number}\n")
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Add the part number {number}"], check=True)
    text = recipe.read_text().replace('use = "jsonl"\npath = "rows.jsonl"', 'use = "git-log"\npath = "sources"')
    text = text.replace('use = "merged"', 'use = "zip"').replace("max_steps = 4", "max_steps = 1\nbatch_size = 2")
    text = text.replace("max_length = 256", "max_length = 512")
    recipe.write_text(text)
    run(python, tmp_path, "loraplug", "run", recipe)
    fim = tmp_path / "fim.toml"
    changed = text.replace('use = "git-log"', 'use = "source-files"').replace('use = "chat-template"', 'use = "fim"')
    fim.write_text(changed.replace('run_name = "tiny"', 'run_name = "fim"'))
    run(python, tmp_path, "loraplug", "run", fim)
    for name, parts in (("tiny", ("loraplug-git-log",)), ("fim", ("loraplug-fim",))):
        with zipfile.ZipFile(tmp_path / "outputs" / "zip" / f"{name}.zip") as archive:
            assert archive.testzip() is None
            assert {"adapter_model.safetensors", "SHA256SUMS"} <= set(archive.namelist())
            lock = archive.read("recipe.lock.toml").decode()
        assert all(f'{part} = "0.1.0"' in lock for part in (*parts, "loraplug-zip"))
