"""What breaks on Windows or macOS, looked for in the source of everything we ship; CRLF, tried for real.

Tested machines are Linux. These checks hold the rules that make the others likely to work: no POSIX-only name is used
unguarded, text files say their encoding, nothing goes through a shell, no process is forked.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import ROOT, Cli

LINUX = {*(ROOT / "plugins/loraplug_swe/sandbox/isolate").glob("*.py")}  # a program of its own, not started on Windows
SOURCES = sorted({*(ROOT / "loraplug").glob("**/*.py"), *(ROOT / "plugins").glob("**/*.py")} - LINUX)
POSIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "crypt", "syslog"}
POSIX_NAMES = {
    "fork", "forkpty", "killpg", "getuid", "geteuid", "getpgid", "setsid", "mkfifo", "nice", "wait3", "wait4", "uname",
    "sched_getaffinity", "getloadavg", "SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "alarm", "setitimer",
    "statvfs",
}  # fmt: skip
NOT_FILES = ("files.write_text", "write_text", "webbrowser.open", "os.open")


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call, and the last part of the called name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield node, name


def functions_around(tree: ast.Module, node: ast.AST) -> str:
    """Source of the innermost function that holds a node; "" at module level."""
    line = getattr(node, "lineno", 0)
    holding = [
        part
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.lineno <= line <= (part.end_lineno or 0)
    ]
    return ast.unparse(max(holding, key=lambda part: part.lineno)) if holding else ""


def problems(source: str) -> list[str]:
    """Line and reason of everything that would not work elsewhere."""
    tree = ast.parse(source)
    found = [f"{node.lineno}: {reason}" for node in ast.walk(tree) for reason in _names(tree, node)]
    return found + [f"{call.lineno}: {reason}" for call, name in calls(tree) for reason in _call(call, name)]


def _names(tree: ast.Module, node: Any) -> Iterator[str]:
    names = [node.module] if isinstance(node, ast.ImportFrom) else []
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
    posix = POSIX_MODULES & {str(name).split(".")[0] for name in names}
    if posix and "sys.platform" not in functions_around(tree, node):
        yield f"{names[0]} is imported without asking sys.platform"
    if (
        isinstance(node, ast.Attribute)
        and node.attr in POSIX_NAMES
        and getattr(node.value, "id", "") in ("os", "signal")
    ):
        guards = ("hasattr(os, ", "hasattr(signal, ", "sys.platform")
        if not any(guard in functions_around(tree, node) for guard in guards):
            yield f"{ast.unparse(node)} is used unguarded"


def _call(call: ast.Call, name: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    whose = ast.unparse(call.func)
    if "shell" in given or (name in ("system", "popen") and whose.startswith(("os.", "subprocess."))):
        yield "a shell"
    if name in ("get_context", "set_start_method") and "fork" in ast.unparse(call):
        yield "a forked process"
    if "encoding" in given or whose in NOT_FILES:
        return
    if (name == "read_text" and not call.args) or name == "write_text":
        yield f"{name} without encoding"
    mode = call.args[0] if call.args else given.get("mode", ast.Constant("r"))
    text = isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value
    if name == "open" and isinstance(call.func, ast.Attribute) and text:
        yield "a text file is opened without encoding"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_makes_no_assumption_on_the_system(path: Path) -> None:
    """Not one of the rules above is broken."""
    assert not problems(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import resource",
        "def f():\n    import fcntl",
        "import os\nos.killpg(1, 9)",
        "import signal\nsignal.SIGKILL",
        "path.read_text()",
        "path.write_text('x')",
        "path.open()",
        "path.open('a')",
        "run(x, shell=True)",
        "os.system('x')",
        "get_context('fork')",
    ],
)
def test_the_check_finds_what_it_is_for(source: str) -> None:
    """Each rule, broken."""
    assert len(problems(source)) == 1


def test_paths_that_windows_has_no_room_for_are_refused_as_run_names(recipe: Path) -> None:
    """A run's name is a plain file name everywhere: no separators of either kind, no drive, no dots alone."""
    from loraplug import InputError, load_registry
    from loraplug.recipe.building import build
    from loraplug.recipe.layers import read_layers

    for name in ("a/b", "a\\b", "..", "c:x", "", "a\nb", "a*", 'a"b'):
        with pytest.raises(InputError):
            build(read_layers(recipe, [f"run_name={name!r}"], environ=False), load_registry())


@pytest.mark.slow
def test_crlf_makes_the_same_adapter(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """Recipe, rows and `.env` as a Windows editor saves them, with a byte order mark: the same weights."""
    assert loraplug("run", recipe).returncode == 0
    for path in (recipe, tmp_path / "rows.jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / ".env").write_bytes(b"RUN_NAME=crlf\r\nHF_TOKEN=x\r\n")
    done = loraplug("run", recipe)
    assert done.returncode == 0, done.stderr
    weights = [tmp_path / f"outputs/adapters/{name}/adapter_model.safetensors" for name in ("tiny", "crlf")]
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in weights)
    assert first == second
