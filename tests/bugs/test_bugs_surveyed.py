"""A survey told from inside the sandbox: what it names is in the tree, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import Cli
from loraplug import LoraplugError
from loraplug_swe.mutation.language import BaselineRun
from loraplug_swe.mutation.survey import checked, checked_report, regular_files

LINES = {2: [0], 3: [0]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two files, and links to a file and a folder outside."""
    made = tmp_path / "tree"
    (made / "pkg").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/vault.py").write_text("def password():\n    key = 12345\n    return key + 1\n")
    (made / "mod.py").write_text("def add(a, b):\n    return a + b\n")
    (made / "pkg/inner.py").write_text("")
    (made / "link.py").symlink_to(tmp_path / "secret/vault.py")
    (made / "away").symlink_to(tmp_path / "secret")
    return made


def test_files_of_the_tree_pass_and_those_the_tests_made_are_left_out(tree: Path) -> None:
    assert regular_files(tree) == {"mod.py", "pkg/inner.py"}
    told = BaselineRun({"t": 0.1}, lines={"mod.py": LINES, "pkg/inner.py": {}, "pkg/_version.py": LINES})
    assert checked(told, tree, "x").lines == {"mod.py": LINES, "pkg/inner.py": {}}


@pytest.mark.parametrize(
    "path",
    ["{out}/vault.py", "../secret/vault.py", "pkg/../../secret/vault.py", "link.py", "away/vault.py", "pkg", "away",
     "/etc/passwd", "C:\\secret.py", "C:secret.py",
     "..\\secret\\vault.py", "a\0b.py", "", ".", "./mod.py", "pkg//inner.py"],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(path: str, tree: Path) -> None:
    """Absolute ones, dots, symbolic links of the tree, and what another system would follow."""
    path = path.format(out=tree.parent / "secret")
    with pytest.raises(LoraplugError, match="code that is not in the tree"):
        checked(BaselineRun({"t": 0.1}, lines={"mod.py": LINES, path: LINES}), tree, "x")


@pytest.mark.parametrize("at", [-2, 1, 10**9])
def test_tests_that_are_none_are_refused(at: int, tree: Path) -> None:
    with pytest.raises(LoraplugError, match="tests that do not exist"):
        checked(BaselineRun({"t": 0.1}, lines={"mod.py": {1: [at]}}), tree, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("code", "outcomes", "seconds", "lines", "modules", "broken", "failures")
REPORT = {"code": 0, "outcomes": {"t": "passed"}, "seconds": {"t": 0.1}, "lines": {"mod.py": {"2": [0]}}, "modules": [],
          "broken": [], "failures": []}  # fmt: skip


def test_a_report_as_it_is_told_stays_as_it_is() -> None:
    assert checked_report(REPORT, "x") == {**REPORT, "lines": {"mod.py": {2: [0]}}}


@given(st.one_of(JSON, st.builds(lambda more: REPORT | more, st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2))))
def test_whatever_a_report_says_it_is_a_report_or_refused(told: Any) -> None:
    """No other error, and what passes has the types that are reckoned with."""
    try:
        found = checked_report(told, "x")
    except LoraplugError:
        return
    assert set(found["outcomes"].values()) <= {"passed", "failed", "skipped"}
    assert all(isinstance(key, str) for key in found["outcomes"]) and all(
        0 <= one < 1e400 for one in found["seconds"].values()
    )
    assert all(isinstance(line, int) for by_line in found["lines"].values() for line in by_line)


FORGE = """
import json

def pytest_sessionfinish(session):
    told = json.loads({told!r})
    import coverage
    coverage.Coverage.get_data = lambda self: Data(told)

class Data:
    def __init__(self, told):
        self.told = told
    def measured_files(self):
        return list(self.told)
    def contexts_by_lineno(self, path):
        return {{int(line): [{test!r}] for line in self.told[path]}}
"""


def test_a_forged_survey_puts_no_file_of_the_machine_into_rows(tmp_path: Path, loraplug: Cli) -> None:
    """The tests patch what measures their lines, from inside; the command refuses and leaves no row."""
    code, secret = tmp_path / "code", tmp_path / "secret"
    code.mkdir()
    secret.mkdir()
    (secret / "vault.py").write_text("def password():\n    key = 12345\n    return key + 1\n")
    (code / "mod.py").write_text("def add(a, b):\n    total = a + b\n    return total\n")
    (code / "test_mod.py").write_text("from mod import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n")
    told = {str(secret / "vault.py"): [2, 3]}
    forge = FORGE.format(told=json.dumps(told), test="test_mod.py::test_add")
    (code / "conftest.py").write_text(forge)
    (tmp_path / "recipe.toml").write_text(
        f'[dataset]\nuse = "swe-bugs"\npath = "{code}"\ncount = 2\nworkers = 1\nsandbox = "weak"\n'
    )
    done = loraplug("data", "recipe.toml", "-o", "rows.jsonl")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "code that is not in the tree" in done.stderr and "vault.py" in done.stderr
    assert not (tmp_path / "rows.jsonl").exists() and "12345" not in done.stderr
