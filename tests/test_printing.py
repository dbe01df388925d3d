"""Nothing that data say steers the terminal: every way to it goes through one function."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import ROOT, Cli
from loraplug import echo, printable
from loraplug.printing import guard_libraries
from loraplug.terminal import TerminalReporter

TITLE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\x08\x7f\u202edrow\ud800"


def steers(text: str) -> list[str]:
    """Characters of a text that a terminal would act on, beside line feed and tab."""
    return [
        letter
        for letter in text
        if ((ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0) and letter not in "\n\t") or letter in "\u202e\u2066\ud800"
    ]


@given(st.text(st.characters(codec=None, categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L"])))
def test_what_is_printable_steers_nothing_and_is_read_back(text: str) -> None:
    """As JSON and as TOML it is the same text again; what has no control characters is left as it is."""
    shown = printable(text)
    assert not steers(shown) and printable(shown) == shown
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    plain = text.encode("utf-8", "ignore").decode()
    assert tomllib.loads(printable(f"a = {json.dumps(plain, ensure_ascii=False)}"))["a"] == plain
    if all(letter.isprintable() or letter in "\n\t" for letter in text):
        assert shown == text


def test_line_ends_of_windows_are_plain() -> None:
    assert printable("a\r\nb\rc") == "a\nb\\u000dc"


def test_echo_reporter_and_libraries(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, warnings, titles and figures of bars, log records and warnings of libraries."""
    from rich.console import Console

    reporter = TerminalReporter()
    drawn = io.StringIO()
    reporter.console = Console(file=drawn, force_terminal=True, color_system=None, width=500)
    reporter.say(TITLE)
    reporter.warn(f"[red]{TITLE}")
    with reporter.progress(f"[bold]{TITLE}", 3) as bar:
        bar.advance(3, name=TITLE)
    told = drawn.getvalue()
    assert "\\u001b]0;owned\\u0007" in told and "[bold]" in told, "no markup is read either"
    assert (
        not {"\x07", "\x9b", "\x08", "\x7f", "\u202e"} & set(told) and "\x1b]0" not in told and "\x1b[31m" not in told
    )

    echo(TITLE, err=True)
    stream = io.StringIO()
    logger = logging.Logger("library")
    logger.addHandler(logging.StreamHandler(stream))
    factory, written = logging.getLogRecordFactory(), warnings.formatwarning
    try:
        guard_libraries()
        logger.warning("in %s", TITLE)
        told = warnings.formatwarning(TITLE, UserWarning, f"{TITLE}.py", 1)
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = written
    assert not steers(stream.getvalue() + told + capsys.readouterr().err)


def test_counts_in_a_log_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and steps are counted as they are; bytes, of which there are hundreds of millions, as a share."""
    from rich.console import Console

    reporter = TerminalReporter()
    drawn = io.StringIO()
    reporter.console = Console(file=drawn, force_terminal=False, width=500, soft_wrap=True)
    for title, total in (("rows", 150_000), ("merging", 538_060_000)):
        with reporter.progress(title, total) as bar:
            bar.advance(total)
    assert drawn.getvalue().splitlines() == ["rows: 150000/150000", "merging: 100%"]
    drawn.truncate(0)
    drawn.seek(0)
    with reporter.progress("rows", 4) as bar:
        for figures in ({}, {"loss": 1.5}):
            now = time.monotonic()
            monkeypatch.setattr(bar, "begun", now - 10)
            monkeypatch.setattr(bar, "told", now - 10)
            bar.advance(1, **figures)
    assert drawn.getvalue().splitlines() == ["rows: 1/4, 30 s left", "rows: 2/4 loss 1.5, 10 s left"]


def test_nothing_is_printed_another_way() -> None:
    """`print`, `click.echo` and the streams themselves are for the one module alone."""
    ways = {("click", "echo"), ("click", "secho"), ("sys", "stdout"), ("sys", "stderr"), ("click", "style")}
    allowed = {
        "loraplug/printing.py",
        "plugins/loraplug_tools/runs/formatting.py",
        "plugins/loraplug_tools/inspect/preview.py",
    }  # the latter two ask for the encoding, and whether it is a terminal, alone
    inside = (
        "plugins/loraplug_swe/sandbox/worker.py",
        "plugins/loraplug_swe/sandbox/isolate/",
    )  # they talk to pipes, in the sandbox
    found = []
    for path in [*(ROOT / "loraplug").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if name in allowed or name.startswith(inside) or "package-templates" in name:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found += [f"{name}:{node.lineno}"] if (node.value.id, node.attr) in ways else []
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{name}:{node.lineno}")
    assert not found


def on_a_terminal(folder: Path, *words: object) -> str:
    """What a command writes to a terminal of its own."""
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    env = os.environ | {"LORAPLUG_CACHE": str(folder / "cache"), "NO_COLOR": "1", "COLUMNS": "300", "TERM": "dumb"}
    with subprocess.Popen(
        [sys.executable, "-m", "loraplug", *map(str, words)], cwd=folder, env=env, stdout=other, stderr=other,
        stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        os.close(other)
        told = b""
        while True:
            try:
                part = os.read(main, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            told += part
        process.wait(600)
    os.close(main)
    return told.decode("utf-8", "replace").replace("\r\n", "\n")


def test_rows_and_names_on_a_terminal(recipe: Path, tmp_path: Path, loraplug: Cli) -> None:
    """`preview` of hostile rows, and errors that name a hostile file and a hostile key, drawn on a real terminal."""
    row = {"instruction": f"show {TITLE[:-1]}", "response": "\x1b[2J\x1b]52;c;aGk=\x07 done", "task_id": "\x1b[31m"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    shown = on_a_terminal(tmp_path, "preview", recipe, "--set", "trainer.\x1b[2Jx=1")
    assert "\x1b]" not in shown and "\x9b" not in shown and "\\u001b[2Jx" in shown
    drawn = on_a_terminal(tmp_path, "preview", recipe)
    colours = re.compile(r"\x1b\[([0-9;]*)m")
    assert set(colours.findall(drawn)) <= {"0", "1", "7", "32"}, "our own alone"
    told = colours.sub("", drawn)
    assert "\\u001b]52;c;aGk=\\u0007 done" in told and "\\u009b2J" in told
    assert not {"\x07", "\x9b", "\x08", "\x7f", "\u202e"} & set(told) and "\x1b]" not in told and "\x1b[2J" not in told
    found = loraplug("preview", recipe, "--json")
    (listed,) = json.loads(found.stdout)
    assert "".join(token["text"] for token in listed["tokens"]).count("\x1b]52;c;aGk=\x07") == 1
    assert not steers(found.stdout)
    missing = on_a_terminal(tmp_path, "run", tmp_path / "\x1b[31mno\x07.toml")
    assert "no such recipe" in missing and "\x07" not in missing and "\\u001b[31mno" in missing
