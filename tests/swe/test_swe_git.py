"""Clones, limits and the walls around git."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from swe_helpers import Repo, commands, row, write_tasks

from loraplug import LoraplugError, Run
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.repositories.clones import get_clone
from loraplug_swe.repositories.git import environment, run_git
from loraplug_swe.repositories.objects import Objects
from loraplug_swe.tasks.options import GitLimits, transport
from loraplug_swe.tasks.rejects import Reject


def make_rows(folder: str, tasks: str, url: str) -> int:
    run = Run("x", outputs=Path(folder) / str(os.getpid()), cache=Path(folder) / "cache")
    return len(list(SweSource(tasks=tasks, mode="code-context", clone_url=url).rows(run)))


def partial_source(repo: Repo) -> str:
    """Let the repository serve partial clones and return its file:// address template."""
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return f"file://{repo.folder.parents[1]}/{{repo}}"


def test_a_partial_clone_fetches_contents_in_one_batch(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Without blobs at first; those of all tasks come in one fetch, and no other."""
    base = repo.commit({f"f{n}.py": f"{n}\n" for n in range(30)})
    rows = [row(base, repo.patch(base, {f"f{n}.py": "new\n"}), instance_id=str(n)) for n in range(10)]
    url = partial_source(repo)
    clone = get_clone(run, url, "ada/lib", GitLimits())
    blob = {n: repo.git("rev-parse", f"{base}:f{n}.py").strip() for n in range(30)}
    here = lambda n: clone.git_dir.joinpath("objects", blob[n][:2], blob[n][2:]).exists()  # noqa: E731

    def known() -> set[int]:
        found = run_git(
            ["cat-file", "--batch-all-objects", "--batch-check"],
            git_dir=clone.git_dir,
            timeout=60,
            max_output=1 << 20,
            cwd=tmp_path,
        ).out.decode()
        return {n for n in range(30) if blob[n] in found or here(n)}

    assert known() == set()
    before = len(list((clone.git_dir / "objects" / "pack").glob("*.pack")))
    made = list(SweSource(tasks=write_tasks(tmp_path, rows), mode="code-context", clone_url=url).rows(run))
    assert len(made) == 10
    assert known() == set(range(10))
    assert len(list((clone.git_dir / "objects" / "pack").glob("*.pack"))) <= before + 1
    again = list(SweSource(tasks=write_tasks(tmp_path, rows), mode="code-context", clone_url=url).rows(run))
    assert again == made


def test_a_commit_that_came_after_the_clone_is_fetched(repo: Repo, run: Run, tmp_path: Path) -> None:
    """The cached clone grows by what a task needs."""
    first = repo.commit({"a.py": "1\n"})
    tasks = [row(first, repo.patch(first, {"a.py": "2\n"}))]
    source = SweSource(tasks=write_tasks(tmp_path, tasks), mode="code-context", clone_url=partial_source(repo))
    assert len(list(source.rows(run))) == 1
    later = repo.commit({"a.py": "3\n", "b.py": "b\n"})
    write_tasks(tmp_path, [row(later, repo.patch(later, {"b.py": "c\n"}))])
    (made,) = source.rows(run)
    assert "a.py\nb.py\n" in commands(made["messages"])[0][1]


def test_parallel_workers_make_one_clone(repo: Repo, tmp_path: Path) -> None:
    """Four processes at once: all get their rows, one clone is made."""
    base = repo.commit({"a.py": "1\n"})
    tasks = write_tasks(tmp_path, [row(base, repo.patch(base, {"a.py": "2\n"}))])
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.starmap(make_rows, [(str(tmp_path), tasks, str(tmp_path / "{repo}"))] * 4)
    assert made == [1] * 4
    assert len([path for path in (tmp_path / "cache" / "swe" / "repos").iterdir() if path.is_dir()]) == 1


def test_an_interrupted_clone_is_made_anew(repo: Repo, run: Run, tmp_path: Path) -> None:
    """What lies beside the place from a clone that was killed is never used."""
    repo.commit({"a.py": "1\n"})
    url = str(tmp_path / "{repo}")
    place = get_clone(run, url, "ada/lib", GitLimits()).git_dir
    place.rename(place.with_name(place.name + ".part"))
    (place.with_name(place.name + ".part") / "HEAD").unlink()
    clone = get_clone(run, url, "ada/lib", GitLimits())
    assert clone.git_dir == place
    assert (place / "HEAD").exists()
    assert not place.with_name(place.name + ".part").exists()


def test_a_failed_clone_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """Git's words, and no folder that looks like a clone."""
    (tmp_path / "ada" / "lib").mkdir(parents=True)
    with pytest.raises(Reject, match=r"does not appear to be a git repository|not a git repository|does not exist"):
        get_clone(run, str(tmp_path / "{repo}"), "ada/lib", GitLimits())
    assert [path.suffix for path in (run.cache / "swe" / "repos").iterdir()] == [".lock"]


def test_transports() -> None:
    """The recipe's own address decides the one transport; none that runs commands."""
    assert [
        transport(url) for url in ("https://x/{repo}", "ssh://x/y", "me@host:{repo}", "/a/{repo}", "file:///a")
    ] == ["https", "ssh", "ssh", "file", "file"]
    assert environment()["GIT_ALLOW_PROTOCOL"] == "none"


def test_the_users_settings_and_hooks_do_not_count(
    repo: Repo, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a hostile environment and global settings nor hooks of the source are run or change a row."""
    base = repo.commit({"a.py": "1\n"})
    tasks = write_tasks(tmp_path, [row(base, repo.patch(base, {"a.py": "2\n"}))])
    source = SweSource(tasks=tasks, mode="code-context", clone_url=str(tmp_path / "{repo}"))
    plain = list(source.rows(run))
    alarm = tmp_path / "alarm"
    script = tmp_path / "hooks" / "evil"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ntouch {alarm}\ncat\n")
    script.chmod(0o755)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (script.parent / hook).symlink_to(script)
        (repo.folder / ".git" / "hooks").mkdir(exist_ok=True)
        (repo.folder / ".git" / "hooks" / hook).symlink_to(script)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\n\thooksPath = {script.parent}\n\tfsmonitor = {script}\n\tabbrev = 30\n[diff]\n\texternal = {script}\n"
        f"\tnoprefix = true\n[apply]\n\twhitespace = error-all\n[init]\n\ttemplateDir = {script.parent}\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(script))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    other = Run("other", outputs=run.outputs, cache=tmp_path / "other-cache")
    assert list(source.rows(other)) == plain
    assert not alarm.exists()


def test_limits_end_git(tmp_path: Path) -> None:
    """A call that takes too long or writes too much is ended, with what it started."""
    start = time.monotonic()
    with pytest.raises(LoraplugError, match=r"longer than 0\.5 s"):
        run_git(["-c", "alias.x=!sleep 60", "x"], git_dir=None, timeout=0.5, max_output=10, cwd=tmp_path)
    with pytest.raises(LoraplugError, match="more than 1,000 bytes"):
        run_git(["-c", "alias.x=!yes", "x"], git_dir=None, timeout=30, max_output=1000, cwd=tmp_path)
    assert time.monotonic() - start < 10


def test_objects_tell_what_is_missing(repo: Repo) -> None:
    """A missing object is told; a git that has ended is an error, not a wait."""
    repo.commit({"a.py": "1\n"})
    with Objects(repo.folder / ".git", 5) as objects:
        assert objects.info("0" * 40) is None
        with pytest.raises(Reject, match="missing-object"):
            objects.read("0" * 40)
        assert objects.read(repo.git("rev-parse", "HEAD:a.py").strip()) == b"1\n"
        objects._process.kill()
        with pytest.raises(LoraplugError, match="ended early"):
            objects.read("0" * 40)
