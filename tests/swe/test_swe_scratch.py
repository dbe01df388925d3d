"""Folders to work in: removed after, and by the next process where theirs was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loraplug import LoraplugError
from loraplug_swe.sandbox.scratch import scratch_folder

HOLD = """
import sys
from pathlib import Path
from loraplug_swe.sandbox.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("done")
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(home: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder in `home` until it is told to end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(home)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_when_its_work_ends(tmp_path: Path) -> None:
    """One process may hold several at once; each removes its own, by an error too."""
    with scratch_folder(tmp_path / "new") as one, scratch_folder(tmp_path / "new") as two:
        assert one != two and one.is_dir() and two.is_dir()
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "new"):
        _ = 1 / 0
    assert not list((tmp_path / "new").iterdir())


def test_what_a_killed_process_left_goes_and_what_another_uses_stays(tmp_path: Path) -> None:
    """Whatever number the next process has: in a container it is often the same."""
    killed, left = holder(tmp_path)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL and (left / "half").is_file()
    earlier = tmp_path / f"work-{os.getpid()}"  # as an earlier version named it
    earlier.mkdir()
    alive, used = holder(tmp_path)
    with scratch_folder(tmp_path) as own:
        assert {path for path in tmp_path.iterdir() if path.is_dir()} == {own, used}
    alive.communicate("")
    assert alive.returncode == 0 and not list(tmp_path.iterdir())


def test_what_is_still_written_while_it_goes_is_removed(tmp_path: Path) -> None:
    """Code under test that outlives its process for a moment puts files where they were just removed."""
    ended, stop = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        at = 0
        while not stop.is_set():
            at += 1
            with contextlib.suppress(FileNotFoundError):
                (folder / str(at)).touch()
        ended.set()

    with scratch_folder(tmp_path) as folder:
        for at in range(500):
            (folder / f"old-{at}").touch()
        threading.Thread(target=write, args=[folder], daemon=True).start()
        threading.Timer(0.6, stop.set).start()
    assert ended.wait(10) and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """In the error, not as a traceback."""
    tmp_path.chmod(0o500)
    with pytest.raises(LoraplugError, match=str(tmp_path)), scratch_folder(tmp_path / "new"):
        pass
