"""Attacks on the machine outside the sandbox, each harmless: what is reachable, and where the host can be led."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, LoraplugError
from loraplug_swe.sandbox.checkout import stage
from loraplug_swe.sandbox.copies import Copy
from loraplug_swe.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox around a tree of a file and a folder, where the system can shut one in."""
    tree = tmp_path / "code"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib" / "code.py").write_text("VALUE = 1\n")
    (tree / "notes.txt").write_text("kept\n")
    with Sandbox(tree) as made:
        if made.gaps:
            pytest.skip(f"the system does not shut in: {made.gaps}")
        yield made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's with a file that has a namesake in the tree."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "code.py").write_text("the user's own\n")
    return folder


def is_untouched(outside: Path) -> bool:
    """Whether the user's folder is as it was."""
    (file,) = outside.iterdir()
    return file.read_text() == "the user's own\n"


def told(box: Sandbox, code: str) -> Any:
    """What a program inside prints, as JSON."""
    done = box.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.output
    return json.loads(done.output)


def test_sockets_pipes_and_descriptors_of_the_host_are_out_of_reach(box: Sandbox, tmp_path: Path) -> None:
    """A unix socket by its path and by its abstract name, a FIFO, a descriptor that is left to be inherited, vsock."""
    os.mkfifo(tmp_path / "fifo")
    listener = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    left = os.open(tmp_path / "outside.txt", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(left, True)
    name = f"loraplug-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
            short = Path(f"/tmp/lp-{os.getpid()}")  # a socket's path has 107 characters at most
            by_path.bind(str(short))
            by_name.bind("\0" + name)
            for one in (by_path, by_name):
                one.listen()
            code = (
                "import json, os, socket\nreached = []\n"
                "def attempt(what, how):\n    try: how(); reached.append(what)\n    except OSError: pass\n"
                f"attempt('path', lambda: socket.socket(socket.AF_UNIX).connect({str(short)!r}))\n"
                f"attempt('name', lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + {name!r}))\n"
                f"attempt('fifo', lambda: os.open({str(tmp_path / 'fifo')!r}, os.O_WRONLY | os.O_NONBLOCK))\n"
                "attempt('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))\n"
                "for fd in range(3, 256): attempt(fd, lambda: os.fstat(fd))\n"
                "attempt('own', socket.socketpair)\nprint(json.dumps(reached))"
            )
            try:
                assert subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, pass_fds=[left], check=True
                ).stdout.startswith('["path", "name", "fifo"'), "it works where nothing shuts it in"
                assert told(box, code) == ["own"]
            finally:
                short.unlink()
    finally:
        os.close(listener)
        os.close(left)


CLOSED = [
    "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/kcore", "/dev/kmsg",
    "/dev/loop-control", "/dev/mem", "/dev/fuse", "/dev/kvm", "/etc/passwd", "/usr/loraplug-test", "/loraplug-test",
]  # fmt: skip
DEVICES = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"}


def test_the_system_cannot_be_changed_or_looked_through(box: Sandbox) -> None:
    """Kernel settings, devices, keys, homes, other users' names; who is root outside is nobody inside."""
    code = (
        "import ctypes, json, os\nopened, libc = [], ctypes.CDLL(None, use_errno=True)\n"
        f"for path in {CLOSED}:\n"
        "    try: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)); opened.append(path)\n    except OSError: pass\n"
        "number = {'x86_64': 248, 'aarch64': 217, 'riscv64': 217}[os.uname().machine]\n"
        "key = libc.syscall(number, b'user', b'loraplug-test', b'x', 1, -3)\n"
        "seen = {path: os.listdir(path) for path in ('/home', '/root', '/run', '/sys')}\n"
        "users = [line.split(':')[0] for line in open('/etc/passwd')]\n"
        "print(json.dumps([opened, key, seen, sorted(os.listdir('/dev')), users, os.getuid() == 0,\n"
        "                  [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 50]]))"
    )
    opened, key, seen, devices, users, is_root, processes = told(box, code)
    interpreter = {Path(sys.executable).resolve().parts[:2], Path(sys.prefix).resolve().parts[:2]}
    for path, names in seen.items():  # an interpreter in a home folder is there, by its own path alone
        assert not names or (Path(path).parts in interpreter and len(names) == 1), (path, names)
    assert (opened, key, users, processes) == ([], -1, ["root", "nobody"], [])
    assert set(devices) <= DEVICES
    assert not is_root or os.geteuid() != 0


def test_what_is_put_back_goes_through_no_link(box: Sandbox, outside: Path) -> None:
    """Folders, files and folders of folders that became links to the user's own, or locked: the copy is as it was."""
    spoil = (
        f"import os, shutil\nshutil.rmtree('lib'); os.symlink({str(outside)!r}, 'lib')\n"
        f"os.remove('notes.txt'); os.symlink({str(outside / 'code.py')!r}, 'notes.txt')\n"
        f"os.makedirs('new/deep'); os.symlink({str(outside)!r}, 'new/deep/away'); os.chmod('new/deep', 0)\n"
        f"os.symlink({str(outside)!r}, os.environ['HOME'] + '/away')\n"
    )
    assert box.run([sys.executable, "-c", spoil]).returncode == 0
    with pytest.raises(LoraplugError):
        box.write({"lib/code.py": "led astray\n"})
    box.restore()
    assert is_untouched(outside)
    assert (box.tree / "lib" / "code.py").read_text() == "VALUE = 1\n" and not (box.tree / "lib").is_symlink()
    assert (box.tree / "notes.txt").read_text() == "kept\n" and not (box.tree / "new").exists()


SWAP = (
    "import ctypes, os, sys\nlibc, top, count = ctypes.CDLL(None), sys.argv[1].encode(), 0\n"
    "print('on', flush=True)\nwhile os.getppid() == int(sys.argv[2]):\n"
    "    libc.renameat2(-100, top + b'/d', -100, top + b'/l', 2)\n"
    "    try: os.symlink(sys.argv[3], top + b'/l')\n    except OSError: pass\n"
)


def test_a_process_that_swaps_folders_for_links_leads_nothing_astray(tmp_path: Path, outside: Path) -> None:
    """While the host writes, looks, removes and empties, `d` is exchanged with a link, thousands of times a second."""
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "l").symlink_to(outside)
    copy, refused, done = Copy(top), 0, 0
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAP, str(top), str(os.getpid()), str(outside)], stdout=subprocess.PIPE
    )
    try:
        assert swapper.stdout is not None and swapper.stdout.readline()
        end = time.monotonic() + 4
        while time.monotonic() < end and (refused < 50 or done < 50):
            for step in (
                lambda: copy.write("d/code.py", b"chosen by the repository\n"),
                copy.stamps,
                lambda: copy.remove("d/code.py"),
                lambda: copy.remove("l"),
                copy.clear,
                lambda: copy.folder("d", 0o700),
            ):
                try:
                    step()
                    done += 1
                except OSError:
                    refused += 1
    finally:
        swapper.kill()
        swapper.wait()
        swapper.stdout.close()  # type: ignore[union-attr]
    assert refused and done, "nothing was swapped in between"
    assert is_untouched(outside)
    assert outside.stat().st_mode & 0o777 != 0o700


@pytest.mark.parametrize(("names", "said"), [(("lib", "lib"), "'lib' and 'lib/'"), (("Lib", "lib"), "'Lib"),
                                             (("caf\u00e9", "cafe\u0301"), "two entries of one name")])  # fmt: skip
def test_a_commit_with_two_entries_of_one_name_is_refused(
    names: tuple[str, str], said: str, tmp_path: Path, outside: Path
) -> None:
    """A link and a folder that are one here, or on other disks (letters of another size, accents composed or not)."""
    repo = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", repo], check=True)

    def made(*arguments: str, given: bytes = b"") -> str:
        command = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout.decode().strip()

    def tree(*entries: tuple[str, str, str]) -> str:
        raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(number) for mode, name, number in entries)
        return made("hash-object", "-w", "--literally", "-t", "tree", "--stdin", given=raw)

    def blob(data: bytes) -> str:
        return made("hash-object", "-w", "--stdin", given=data)

    inner = tree(("100644", "code.py", blob(b"led astray\n")))
    whole = tree(("120000", names[0], blob(os.fsencode(outside))), ("40000", names[1], inner))
    made("update-ref", "HEAD", made("commit-tree", whole, "-m", "x"))
    with pytest.raises(InputError, match="the commit has two entries of one name") as error:
        stage(str(repo), "HEAD", None, None, tmp_path / "out")
    assert said in str(error.value)
    assert is_untouched(outside)
    with contextlib.suppress(FileNotFoundError):
        assert not (tmp_path / "out" / "tree" / names[0]).is_symlink()
