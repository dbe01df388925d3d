"""`loraplug plugins new`: packages that pass their own tests at once, and names that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import ROOT, Cli
from loraplug import InputError
from loraplug_tools.plugins.commands import KINDS
from loraplug_tools.plugins.scaffold import names, write_package


@pytest.mark.slow
def test_a_package_of_every_kind_passes_its_own_tests(loraplug: Cli, tmp_path: Path) -> None:
    """As written, with no hand laid on it; typed strictly, too."""
    for kind in KINDS:
        done = loraplug("plugins", "new", f"loraplug-try-{kind}", "--kind", kind, "--into", "made")
        assert done.returncode == 0, done.stderr
        assert f"loraplug-try-{kind}" in done.stdout
    folders = sorted((tmp_path / "made").iterdir())
    assert len(folders) == len(KINDS)
    path = os.pathsep.join([*(str(folder / "src") for folder in folders), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *map(str, folders)]
    tested = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout
    typed = [sys.executable, "-m", "mypy", "--config-file", str(folders[0] / "pyproject.toml")]
    typed += [str(folder / "src") for folder in folders]
    ours = {"MYPYPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}  # an editable install is not seen by mypy
    checked = subprocess.run(typed, cwd=tmp_path, env=environment | ours, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_is_left(tmp_path: Path, kind: str) -> None:
    """Every placeholder is filled, the entry point names the module, and the package is marked as typed."""
    folder = write_package("Loraplug_Some.Thing", kind, tmp_path)
    assert folder.name == "loraplug-some-thing"
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}
    for path, text in texts.items():
        for word in ("my_package", "my-package", "my-part", "MyPart", "MY_PACKAGE", "SUMMARY", "USAGE"):
            assert word not in text, f"{word} in {path}"
        if path.suffix == ".py":
            compile(text, path, "exec")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert "pytest" in str(project["project"]["optional-dependencies"]["dev"])  # pip before 25.1 knows no groups
    assert project["project"]["entry-points"]["loraplug"] == {"some-thing": "loraplug_some_thing"}
    assert (folder / "src/loraplug_some_thing/py.typed").is_file()
    assert (folder / ".gitignore").is_file()


def test_what_is_there_is_never_overwritten(loraplug: Cli, tmp_path: Path) -> None:
    """A folder of that name is refused and stays as it was, and nothing is left beside it."""
    (tmp_path / "loraplug-mine").mkdir()
    (tmp_path / "loraplug-mine" / "precious").touch()
    done = loraplug("plugins", "new", "loraplug-mine", "--kind", "dataset")
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["loraplug-mine", "precious"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is not a valid name"),
        ("../up", "is not a valid name"),
        ("-x", "is not a valid name"),
        ("straße", "is not a valid name"),
        ("two words", "is not a valid name"),
        ("x" * 101, "is not a valid name"),
        ("3d", "module 3d could not be imported"),
        ("class", "module class could not be imported"),
        ("json", "would hide the existing module json"),
        ("loraplug", "would hide the existing module loraplug"),
        ("PyTest", "would hide the existing module pytest"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """Names are PyPI's, modules Python's; the error says which rule was broken."""
    with pytest.raises(InputError, match=said):
        write_package(name, "dataset", tmp_path)
    assert not list(tmp_path.iterdir())


@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.from_regex(r"[A-Za-z0-9._/\\-]{1,20}", fullmatch=True))
def test_any_text_is_a_sound_name_or_refused(given_name: str) -> None:
    """No name leads out of the folder, or to a module or component that could not be used."""
    try:
        called = names(given_name)
    except InputError:
        return
    assert "/" not in called.distribution
    assert ".." not in called.distribution
    assert called.module.isidentifier()
    assert called.placeholders["MyPart"].isidentifier()
    assert called.placeholders["my-part"][0].isalnum()
