"""`loraplug chat` as people use it: one prompt, a pipe, a terminal; and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command import Cli


def changed(folder: Path, to: Path, **files: bytes | None) -> Path:
    """A copy of a folder with some files written anew, or away; `__` in a name stands for a dot."""
    shutil.copytree(folder, to)
    for name, content in files.items():
        path = to / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    return to


def test_a_prompt_is_answered_and_reported(loraplug: Cli, inside: Cli, merged: Path) -> None:
    """Text on stdout, all else on stderr; --json gives the figures; --system reaches the model."""
    said = ["chat", merged, "--prompt", "what is 3 and one?", "--temperature", "0", "--max-tokens", "8"]
    plain, data = loraplug(*said), inside(*said, "--json")
    more = inside(*said, "--json", "--system", "be short")
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(data.stdout)
    assert plain.stdout == answer["text"] + "\n"
    assert answer["finish"] in ("stop", "length")
    assert answer["tokens"] <= 8
    assert json.loads(more.stdout)["prompt_tokens"] > answer["prompt_tokens"]


def test_a_pipe_is_a_prompt(merged: Path, tmp_path: Path, inside: Cli) -> None:
    """The same answer as with --prompt, many lines and other scripts included."""
    text = "zwei\nZeilen 🎉 <|im_end|>"
    words = ["chat", str(merged), "--temperature", "0", "--max-tokens", "6", "--json"]
    command = [sys.executable, "-m", "loraplug", *words]
    done = subprocess.run(command, input=text.encode(), capture_output=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    piped, given = json.loads(done.stdout), json.loads(inside(*words, "--prompt", text).stdout)
    assert (piped["text"], piped["prompt_tokens"]) == (given["text"], given["prompt_tokens"])
    bad = subprocess.run(command, input=b"\xff\xfe\x00", capture_output=True, cwd=tmp_path, timeout=300, check=False)
    assert bad.returncode == 2
    assert b"stdin: is not UTF-8" in bad.stderr


BAD = {
    "no weights": ({"adapter_model__safetensors": None}, "has no adapter_model.safetensors"),
    "a pickle": ({"adapter_model__safetensors": None, "adapter_model__bin": b"x"}, "has only pickled weights"),
    "not safetensors": ({"adapter_model__safetensors": b"no such format at all"}, "is damaged"),
    "no JSON": ({"adapter_config__json": b"{"}, "not JSON"),
    "no kind": ({"adapter_config__json": b'{"r": 4}'}, "has no peft_type"),
}


@pytest.mark.parametrize("kind", BAD)
def test_broken_adapters_are_refused(kind: str, adapter: Path, tmp_path: Path, inside: Cli) -> None:
    """One block, exit code 2, before the base is loaded."""
    files, words = BAD[kind]
    done = inside("chat", changed(adapter, tmp_path / "bad", **files), "--prompt", "x")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "million parameters" not in done.stderr


def test_truncated_and_infinite_weights_are_refused(adapter: Path, tmp_path: Path, inside: Cli) -> None:
    """Half a file, and one with a NaN."""
    import torch
    from safetensors.torch import load, save

    whole = (adapter / "adapter_model.safetensors").read_bytes()
    tensors = load(whole)
    name = next(iter(tensors))
    tensors[name][0, 0] = torch.nan
    for number, (content, words) in enumerate([(whole[: len(whole) // 2], "is damaged"), (save(tensors), "NaN")]):
        bad = changed(adapter, tmp_path / f"{number}", adapter_model__safetensors=content)
        done = inside("chat", bad, "--prompt", "x")
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


def test_an_adapter_needs_its_base(adapter: Path, merged: Path, tiny_model: Path, tmp_path: Path, inside: Cli) -> None:
    """Base gone, base of another shape, base with other layers; --base names another place of the right one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((adapter / "adapter_config.json").read_text())
    foreign = json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}).encode()
    lost = changed(adapter, tmp_path / "lost", recipe__lock__toml=None, adapter_config__json=foreign)
    done = inside("chat", lost, "--prompt", "x")
    assert done.returncode == 2, done.stderr
    assert "its base cannot be loaded" in done.stderr and "--base" in done.stderr
    nameless = json.dumps(config | {"base_model_name_or_path": None}).encode()
    changed(lost, tmp_path / "nameless", adapter_config__json=nameless)
    assert "names no base model" in inside("chat", tmp_path / "nameless", "--prompt", "x").stderr
    for name, changes in (("wide", {"hidden_size": 128}), ("short", {"num_hidden_layers": 1})):
        other = AutoConfig.from_pretrained(tiny_model, **changes)
        AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / name)
        done = inside("chat", lost, "--prompt", "x", "--base", tmp_path / name)
        assert done.returncode == 2, done.stderr
        assert "does not fit this base" in done.stderr
    words = ["--prompt", "what is 3 and one?", "--temperature", "0", "--max-tokens", "8"]
    found = inside("chat", lost, *words, "--base", tiny_model)
    assert found.returncode == 0, found.stderr
    assert found.stdout == inside("chat", adapter, *words).stdout == inside("chat", merged, *words).stdout


def test_what_is_no_model_is_told(merged: Path, tmp_path: Path, inside: Cli) -> None:
    """An unknown architecture, a pickled model, no template, no such place, an empty prompt."""
    config = json.loads((merged / "config.json").read_text())
    strange = json.dumps(config | {"model_type": "nonsense"}).encode()
    for name, files, words in (
        ("strange", {"config__json": strange}, "nonsense"),
        ("pickled", {"model__safetensors": None, "pytorch_model__bin": b"x"}, "pickled ones are not loaded"),
        ("cut", {"model__safetensors": (merged / "model.safetensors").read_bytes()[:5000]}, "truncated or damaged"),
        ("silent", {"chat_template__jinja": None}, "has no chat template"),
    ):
        done = inside("chat", changed(merged, tmp_path / name, **files), "--prompt", "x")
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert "no such folder" in inside("chat", "./nowhere", "--prompt", "x").stderr
    assert "the prompt is empty" in inside("chat", merged, "--prompt", " ").stderr


class Terminal:
    """A command at a real terminal (a pty); reads what it shows, types and sends ctrl-c as a person would."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.shown = self.before = ""
        child, self.tty = pty.fork()
        if child == 0:
            os.chdir(folder)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell ignores for what it runs in the background
            os.execv(command[0], command)  # noqa: S606 - the interpreter that runs the tests
        self.child = child

    def wait_for(self, done: Callable[[str], bool], seconds: float = 60) -> str:
        """What was shown since the last call, once `done` says so of it; fails where the program ends before."""
        until = time.monotonic() + seconds
        while not done(self.shown):
            assert time.monotonic() < until, self.before + self.shown
            assert self.read(), f"the program ended with {self.code()} after {self.before + self.shown!r}"
        return self.taken()

    def rest(self) -> str:
        """What is shown until the program ends."""
        until = time.monotonic() + 120
        while self.read():
            assert time.monotonic() < until, self.before + self.shown
        return self.taken()

    def read(self) -> bool:
        """Add what is shown within a second; False when the program has ended."""
        if select.select([self.tty], [], [], 1)[0]:
            try:
                self.shown += os.read(self.tty, 4096).decode("utf-8", "replace")
            except OSError:
                return False
        return True

    def taken(self) -> str:
        """What was shown since the last call."""
        shown, self.shown = self.shown, ""
        self.before += shown
        return shown

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.tty, text.encode())

    def leave(self) -> None:
        """Press ctrl-c at the prompt until the program ends.

        Once is not always enough: CPython's input() sleeps on when the signal comes after the prompt is shown and
        before its select(), until the next key.
        """
        for _ in range(6):
            self.type("\x03")
            if select.select([self.tty], [], [], 10)[0]:  # heard: a line feed, or the terminal is closed
                self.rest()
                return
        raise AssertionError("ctrl-c at the prompt does not end it")

    def code(self) -> int:
        """Wait for the end."""
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


@pytest.fixture
def terminal(endless: Path, tmp_path: Path) -> Iterator[Terminal]:
    """`loraplug chat` on it, at its first prompt."""
    words = ["-m", "loraplug", "chat", str(endless), "--temperature", "0", "--max-tokens", "500000"]
    made = Terminal([sys.executable, *words], tmp_path)
    made.wait_for(lambda shown: shown.endswith("> "))
    yield made
    try:
        os.kill(made.child, signal.SIGKILL)
        os.waitpid(made.child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    os.close(made.tty)


def test_ctrl_c_stops_the_answer_and_then_the_program(terminal: Terminal) -> None:
    """Streams, stops at ctrl-c, takes another prompt, stops again; ctrl-c at the prompt leaves with code 0."""
    for text in ("go on\r", '"""two\r'):
        terminal.type(text)
        if text.startswith('"'):
            terminal.wait_for(lambda shown: shown.endswith(". "))
            terminal.type('lines"""\r')
        terminal.wait_for(lambda shown: len(shown) > 200)
        terminal.type("\x03")
        assert "(stopped)" in terminal.wait_for(lambda shown: shown.endswith("> "))
    terminal.leave()
    assert terminal.code() == 0


def test_ctrl_d_leaves(terminal: Terminal) -> None:
    """As in any shell."""
    terminal.type("\x04")
    assert "Traceback" not in terminal.rest()
    assert terminal.code() == 0
