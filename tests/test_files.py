"""Atomic files, locks, hashes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from loraplug.errors import InputError, LoraplugError
from loraplug.files import atomic_output, exclusive_lock, hash_rows, recover, wrap_os_errors, write_text


def test_a_place_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failing export leaves what was there, and nothing beside it."""
    place = tmp_path / "merged" / "run"
    with atomic_output(place) as out:
        out.mkdir()
        (out / "a").write_text("old")
    with pytest.raises(ValueError, match="boom"), atomic_output(place) as out:
        out.mkdir()
        (out / "a").write_text("half")
        raise ValueError("boom")
    assert (place / "a").read_text() == "old"
    with atomic_output(place) as out:
        out.write_text("a file now")
    assert place.read_text() == "a file now"
    assert [path.name for path in place.parent.iterdir()] == ["run"]


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    """What was moved aside comes back if nothing took its place."""
    place = tmp_path / "run"
    aside = tmp_path / ".run.old"
    aside.mkdir()
    recover(place)
    assert place.is_dir()
    assert not aside.exists()


def test_a_full_disk_says_so() -> None:
    """ENOSPC becomes one block that names the place and the way on."""
    with pytest.raises(LoraplugError, match="No space left") as caught, wrap_os_errors(Path("x")):
        raise OSError(errno.ENOSPC, "No space left on device", "/x/y")
    assert caught.value.where == "/x/y"
    assert "free disk space" in str(caught.value)


def test_two_runs_of_one_name_cannot_work_at_once(tmp_path: Path) -> None:
    """The second is refused, the first goes on."""
    with (
        exclusive_lock(tmp_path, "tiny"),
        pytest.raises(InputError, match="another run of this name"),
        exclusive_lock(tmp_path, "tiny"),
    ):
        pass
    with exclusive_lock(tmp_path, "tiny"):
        pass


def test_rows_hash_by_content() -> None:
    """Key order does not matter, values and their order do; half a surrogate pair does not break it."""
    assert hash_rows([{"a": 1, "b": 2}]) == hash_rows([{"b": 2, "a": 1}])
    assert hash_rows([{"a": 1}, {"a": 2}]) != hash_rows([{"a": 2}, {"a": 1}])
    assert hash_rows([{"a": "\ud800"}])


def test_text_is_written_whole(tmp_path: Path) -> None:
    """No temporary file stays."""
    write_text(tmp_path / "deep" / "file", "text\n")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
