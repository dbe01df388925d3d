"""The sandbox: what a stranger's command can reach, what it may take, and what is left of it."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from loraplug import LoraplugError
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

PYTHON = sys.executable
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with a file, a folder, a link inside and one that leads out."""
    root = tmp_path / "tree"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "code.py").write_text("VALUE = 1\n")
    (root / "notes.txt").write_text("kept\n")
    (root / "inside").symlink_to("notes.txt")
    (root / "outside").symlink_to("/etc/passwd")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("[core]\n")
    return root


def digest(tree: Path) -> str:
    """A hash over names, bytes and times of all that is in a tree."""
    found = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        found.update(f"{path}{path.lstat().st_mtime_ns}".encode())
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


def test_runs_in_a_copy_and_gives_code_and_output(tree: Path) -> None:
    """Exit code, stdout and stderr come back, the package in the copy is importable, and the copy is gone after."""
    with Sandbox(tree) as box:
        done = box.run(
            [
                PYTHON,
                "-c",
                "import lib.code, sys; print(lib.code.VALUE, flush=True); print('err', file=sys.stderr); sys.exit(3)",
            ]
        )
        assert (done.returncode, done.output, done.killed) == (3, "1\nerr\n", None)
        assert done.seconds < 30
        assert (box.tree / "inside").read_text() == "kept\n"
        assert not os.path.lexists(box.tree / "outside")
        assert not (box.tree / ".git").exists()
    assert not box.root.exists()


def test_the_original_is_never_touched(tree: Path) -> None:
    """Whatever a command does to the copy, every byte and time of the tree stays, and restore brings the copy back."""
    before = digest(tree)
    with Sandbox(tree) as box:
        copy = digest(box.tree)
        spoil = (
            "import os, shutil, pathlib; shutil.rmtree('lib'); pathlib.Path('lib').write_text('x');"
            "pathlib.Path('new').mkdir(); pathlib.Path('new/f').write_text('y'); os.remove('notes.txt');"
            "pathlib.Path(os.environ['HOME'], 'h').write_text('z')"
        )
        assert box.run([PYTHON, "-c", spoil]).returncode == 0
        assert box.restore() == 4  # lib, lib/code.py, new/f, notes.txt
        assert [path.name for path in (box.root / "home").iterdir()] == []
        assert (box.tree / "lib" / "code.py").read_text() == "VALUE = 1\n"
        assert (box.tree / "notes.txt").read_text() == "kept\n"
        assert not (box.tree / "new" / "f").exists()
        assert box.restore() == 0
        assert box.run([PYTHON, "-c", "import os; os.remove('notes.txt'); os.mkdir('notes.txt')"]).returncode == 0
        assert box.restore() == 1 and (box.tree / "notes.txt").read_text() == "kept\n"
        box.write({"lib/code.py": "VALUE = 2\n", "notes.txt": None, "more/deep.txt": b"d"})
        assert box.restore() == 3
    assert digest(tree) == before
    assert copy != before  # the copy has other paths, so the comparison above can fail


def test_a_change_that_keeps_size_and_time_is_seen(tree: Path) -> None:
    """A file rewritten with the same length and its time set back is still put back."""
    with Sandbox(tree) as box:
        trick = (
            "import os; s = os.stat('notes.txt'); open('notes.txt', 'w').write('bent\\n');"
            "os.utime('notes.txt', ns=(s.st_atime_ns, s.st_mtime_ns))"
        )
        assert box.run([PYTHON, "-c", trick]).returncode == 0
        assert box.restore() == 1
        assert (box.tree / "notes.txt").read_text() == "kept\n"


def test_settled_files_stay(tree: Path) -> None:
    """What was there at settle stays; a settled cache file that was changed goes away."""
    with Sandbox(tree) as box:
        (box.tree / "__pycache__").mkdir()
        (box.tree / "__pycache__" / "a.pyc").write_text("1")
        (box.tree / "__pycache__" / "b.pyc").write_text("1")
        box.settle()
        (box.tree / "__pycache__" / "a.pyc").write_text("22")
        assert box.restore() == 1
        assert sorted(path.name for path in (box.tree / "__pycache__").iterdir()) == ["b.pyc"]
        assert box.restore() == 0


def test_no_way_out_by_name(tree: Path) -> None:
    """Paths that lead out of the tree are refused."""
    with Sandbox(tree) as box:
        for name in ("../x", "/tmp/x", "lib/../../x"):
            with pytest.raises(LoraplugError, match="leads out"):
                box.write({name: "x"})


def test_no_secrets_in_the_environment(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's variables do not get in; HOME and TMPDIR are the sandbox's."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Sandbox(tree, env={"MORE": "1"}) as box:
        done = box.run([PYTHON, "-c", "import os; print(dict(os.environ))"])
        assert "hf_secret" not in done.output and "'MORE': '1'" in done.output
        assert f"'HOME': '{box.root / 'home'}'" in done.output


def test_time_ends_the_whole_group(tree: Path) -> None:
    """A command over its time is killed with the children it started."""
    with Sandbox(tree, Limits(seconds=1.5)) as box:
        code = (
            "import subprocess, sys, time; print('begun', flush=True);"
            "subprocess.Popen([sys.executable, '-c', 'import time, pathlib; time.sleep(3);"
            ' pathlib.Path("late").touch()\']); time.sleep(60)'
        )
        done = box.run([PYTHON, "-c", code])
        assert done.killed == "time" and done.seconds < 5 and "begun" in done.output
        time.sleep(3)
        assert not (box.tree / "late").exists()


@linux
def test_children_left_behind_are_ended(tree: Path) -> None:
    """A process that makes its own session ends with the command all the same."""
    with Sandbox(tree) as box:
        code = (
            "import os, time, pathlib\n"
            "if os.fork() == 0:\n os.setsid()\n time.sleep(1.5)\n pathlib.Path('late').touch()\n os._exit(0)"
        )
        assert box.run([PYTHON, "-c", code]).returncode == 0
        if "processes" in box.gaps:
            pytest.skip("the system allows no own process table")
        time.sleep(2)
        assert not (box.tree / "late").exists()


def test_memory_is_limited(tree: Path) -> None:
    """A process that asks for more than it may have gets a MemoryError."""
    with Sandbox(tree, Limits(memory_mb=256)) as box:
        done = box.run([PYTHON, "-c", "x = bytearray(1 << 30); print('had it')"])
        assert done.returncode != 0 and "MemoryError" in done.output


@linux
def test_memory_of_all_together_and_processes_are_limited(tree: Path) -> None:
    """Many small processes, or many processes at all, end the command with the reason."""
    hogs = (
        "import os, time\nfor _ in range(6):\n if os.fork() == 0:\n  x = b'x' * (80 << 20)\n  time.sleep(9)\n"
        "time.sleep(9)"
    )
    forks = "import os, time\nfor _ in range(40):\n if os.fork() == 0:\n  time.sleep(9)\n  os._exit(0)\ntime.sleep(9)"
    with Sandbox(tree, Limits(memory_mb=256, processes=20, seconds=20)) as box:
        done = box.run([PYTHON, "-c", hogs])
        if "processes" in box.gaps:
            pytest.skip("the system allows no own process table")
        assert done.killed == "memory" and done.seconds < 8
        done = box.run([PYTHON, "-c", forks])
        assert done.killed == "processes" or "BlockingIOError" in done.output
        assert done.seconds < 8


@linux
def test_memory_in_files_that_no_process_holds_is_limited(tree: Path) -> None:
    """Memory files whose descriptors wait in a socket are nobody's, and count all the same."""
    code = (
        "import os, socket, time\na, b = socket.socketpair()\nfor _ in range(40):\n f = os.memfd_create('x')\n"
        " os.write(f, bytes(20 << 20))\n socket.send_fds(a, [b'x'], [f])\n os.close(f)\ntime.sleep(9)"
    )
    with Sandbox(tree, Limits(memory_mb=256, seconds=30)) as box:
        done = box.run([PYTHON, "-c", code])
        if "processes" in box.gaps:
            pytest.skip("the system allows no own process table")
        assert done.killed == "memory" and done.seconds < 20


def test_file_size_and_output_are_limited(tree: Path) -> None:
    """Files end at the limit; of long output the first and last part are kept."""
    with Sandbox(tree, Limits(file_mb=1, output_bytes=1000)) as box:
        done = box.run([PYTHON, "-c", "open('big', 'wb').write(b'x' * (3 << 20))"])
        assert done.returncode != 0
        assert (box.tree / "big").stat().st_size <= 1 << 20
        done = box.run([PYTHON, "-c", "print('a' * 5000 + 'end')"])
        assert done.output.startswith("aaa") and done.output.endswith("end\n") and "bytes ...]" in done.output
        assert len(done.output) < 1100


@linux
def test_no_network(tree: Path) -> None:
    """A server on this machine cannot be reached from inside, unless the network is left on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=server.accept, daemon=True).start()
        address = ("127.0.0.1", server.getsockname()[1])
        code = f"import socket; socket.create_connection({address}, 3); print('th' 'ere')"
        with Sandbox(tree) as box:
            done = box.run([PYTHON, "-c", code])
            if "network" in box.gaps:
                pytest.skip("the system allows no own network")
            assert done.returncode != 0 and "there" not in done.output
            own = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
            assert box.run([PYTHON, "-c", own]).returncode == 0  # tests may talk to themselves
        with Sandbox(tree, Limits(network=True)) as box:
            assert box.run([PYTHON, "-c", code]).output == "there\n"


@linux
def test_nothing_but_the_copy_can_be_written(tree: Path, tmp_path: Path) -> None:
    """The original, the system and the caller's files are read-only, also for one who tries to mount them back."""
    target = tree / "notes.txt"
    with Sandbox(tree) as box:
        code = (
            f"import ctypes; libc = ctypes.CDLL(None)\n"
            f"print(libc.mount(b'none', b'/', None, 0x1000 | 32, None), libc.umount2({str(tree)!r}.encode(), 2))\n"
            f"try: open({str(target)!r}, 'a').write('!')\nexcept OSError as error: print(error.strerror)"
        )
        done = box.run([PYTHON, "-c", code])
        if "files" in box.gaps:
            pytest.skip("the system allows no own mounts")
        assert done.output == "-1 -1\nNo such file or directory\n"
        signals = f"import os; os.kill({os.getpid()}, 0)"
        assert "ProcessLookupError" in box.run([PYTHON, "-c", signals]).output
    assert target.read_text() == "kept\n"


def test_a_command_that_is_not_there(tree: Path) -> None:
    """Told like a shell does."""
    with Sandbox(tree) as box:
        done = box.run(["no-such-command"])
        assert done.returncode == 127 and "no-such-command" in done.output
    with pytest.raises(LoraplugError, match="no such folder"):
        Sandbox(tree / "missing")


def test_every_limit_that_a_message_names_is_an_option() -> None:
    """What says `raise dataset.limits.output_mb` must be something that a recipe can say."""
    from loraplug import options
    from loraplug_swe.mutation.options import BoxLimits
    from loraplug_swe.sandbox.limits import LIMITS

    assert {name.removeprefix("limits.") for name in LIMITS.values()} <= {one.name for one in options(BoxLimits)}
