"""What git-log promises, on a repository made here."""

import os
import subprocess
from pathlib import Path

import loraplug_git_log
import pytest
from loraplug_git_log.source import GitLog, without_trailers

from loraplug import InputError
from loraplug.testing import from_table, make_registry, tiny_run
from loraplug_tools.plugins.conformance import assert_conforms


def git(folder: Path, *words: str) -> None:
    """Run git as a person of no importance."""
    who = {f"GIT_{role}_{what}": "nobody" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, env=os.environ | who)


def commit(folder: Path, message: str, **files: bytes) -> None:
    """Write files (`_` in a name for a dot) and commit them."""
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "-m", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Five commits, of which two make rows."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "Add the greeting\n\nIt was missing.\n\nSigned-off-by: A <a@example.org>", a_py=b"print('hello')\n")
    commit(folder, "Add a picture of it", b_png=b"\x89PNG\0\0\1")
    commit(folder, "Touch nothing at all")
    commit(folder, "fix", a_py=b"print('hello!')\n")
    commit(folder, "Greet the whole world", a_py="print('hello, world \N{EARTH GLOBE AMERICAS}')\n".encode())
    return folder


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "git-log"`."""
    assert make_registry(loraplug_git_log).find("dataset", "git-log") is GitLog


def test_it_conforms(repository: Path, tmp_path: Path) -> None:
    """Everything loraplug asks of a dataset source, either way round."""
    assert_conforms(GitLog(path=repository), tmp_path / "one")
    assert_conforms(GitLog(path=repository, answer="patch"), tmp_path / "two")


def test_commits_become_rows_and_the_rest_is_counted(repository: Path, tmp_path: Path) -> None:
    """The newest first; the message without its trailers; every other commit with the reason."""
    run = tiny_run(tmp_path)
    rows = GitLog(path=repository).load(run)
    assert rows["response"] == ["Greet the whole world", "Add the greeting\n\nIt was missing."]
    assert "+print('hello, world \N{EARTH GLOBE AMERICAS}')" in rows[0]["input"]
    assert len(rows[0]["instance_id"]) == 40
    assert run.reporter.lines == [
        "git-log: 1 of 5 commits left out: changes a binary file",
        "git-log: 1 of 5 commits left out: changes nothing",
        "git-log: 1 of 5 commits left out: the message is under 10 characters",
    ]


def test_a_patch_that_is_the_answer_applies(repository: Path, tmp_path: Path) -> None:
    """What the model learns to write, git takes."""
    rows = GitLog(path=repository, answer="patch", revision="HEAD").load(tiny_run(tmp_path))
    git(repository, "checkout", "-q", "HEAD~1")
    (tmp_path / "it.diff").write_text(rows[0]["response"], encoding="utf-8", newline="\n")
    git(repository, "apply", "--check", str(tmp_path / "it.diff"))


def test_a_repository_can_start_no_program(repository: Path, tmp_path: Path) -> None:
    """A hostile checkout names programs for diffs, text conversion and the pager; none is run."""
    proof = tmp_path / "it-ran"
    (repository / ".gitattributes").write_text("*.py diff=evil\n")
    for key in ("diff.evil.command", "diff.evil.textconv", "diff.external", "core.pager", "core.fsmonitor"):
        git(repository, "config", key, f"touch {proof} #")
    GitLog(path=repository).load(tiny_run(tmp_path))
    assert not proof.exists()


def test_a_revision_is_never_an_option(repository: Path, tmp_path: Path) -> None:
    """A word that begins with a dash is refused by the recipe; one that git does not know, by git."""
    made, problems = from_table(GitLog, {"path": str(repository), "revision": "--output=stolen"})
    assert made is None
    assert problems[0].path == "dataset.revision"
    with pytest.raises(InputError, match="not-there"):
        GitLog(path=repository, revision="not-there").load(tiny_run(tmp_path))


def test_only_trailers_at_the_end_are_cut() -> None:
    """A line of that form in the middle of a message belongs to it."""
    assert without_trailers("Fix: it\n\nReviewed-by: x\nis a trailer\n\nCo-authored-by: y\n") == (
        "Fix: it\n\nReviewed-by: x\nis a trailer"
    )
