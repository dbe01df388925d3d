"""mini-swe-agent, as its users run it, at our server: it acts, reads what came of it, and submits."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_helpers import Served, serving

from calling import taught
from loraplug import Run
from loraplug_gguf.converter import run_converter

VERSIONS = ("mini-swe-agent==2.4.6", "litellm==1.110.2")
SYSTEM, TASK, SEEN = "You use a shell.", "Write 42 into answer.txt.", "returncode 0"
COMMANDS = ("echo 42 > answer.txt", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat answer.txt")
BASH = [{"type": "function", "function": {"name": "bash", "description": "d", "parameters": {"type": "object"}}}]
# the agent's own long texts are more than the tiny model's context
SHORT = f"""\
agent: {{system_template: "{SYSTEM}", instance_template: "{{{{task}}}}", step_limit: 4}}
model:
  observation_template: "returncode {{{{output.returncode}}}}"
  model_kwargs: {{temperature: 0, max_tokens: 200}}
"""


def call(command: str) -> str:
    """A tool call, as the template of the tiny model writes it."""
    return f'<tool_call>\n{{"name": "bash", "arguments": {{"command": "{command}"}}}}\n</tool_call>'


def block(command: str) -> str:
    """A command in text."""
    return f"```mswea_bash_command\n{command}\n```"


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was trained to write 42 and to submit, by tool calls and by text."""
    first = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}]
    called = {"id": "a", "type": "function", "function": {"name": "bash", "arguments": {"command": COMMANDS[0]}}}
    by_call = [*first, {"role": "assistant", "content": "", "tool_calls": [called]}, {"role": "tool", "content": SEEN}]
    by_text = [*first, {"role": "assistant", "content": block(COMMANDS[0])}, {"role": "user", "content": SEEN}]
    lessons: list[tuple[Any, Any, str]] = [
        (first, BASH, call(COMMANDS[0])), (by_call, BASH, call(COMMANDS[1])),
        (first, None, block(COMMANDS[0])), (by_text, None, block(COMMANDS[1])),
    ]  # fmt: skip
    return taught(tiny_model, tmp_path_factory.mktemp("agent") / "agent", lessons, steps=250)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent in an environment of its own, which sees this one's packages and changes none of them."""
    folder = tmp_path_factory.mktemp("mini")
    venv.create(folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    (site / "outer.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile", *VERSIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mini-swe-agent cannot be installed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return python.with_name("mini")


def act(mini: Path, address: str, folder: Path, *configs: str) -> dict[str, Any]:
    """Run it in an empty folder until it ends; gives what it has recorded."""
    work = folder / "work"
    work.mkdir()
    settings = {
        "MSWEA_GLOBAL_CONFIG_DIR": str(folder / "config"), "MSWEA_CONFIGURED": "true", "OPENAI_API_KEY": "none",
        "MSWEA_COST_TRACKING": "ignore_errors", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }  # fmt: skip
    words = ["-m", "openai/agent", "-t", TASK, "-y", "--exit-immediately", "-o", "../run.json"]
    for config in (*configs, f"model.model_kwargs.api_base={address}/v1"):
        words += ["-c", config]
    done = subprocess.run(
        [mini, *words], cwd=work, env=os.environ | settings, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (folder / "run.json").is_file(), said[-3000:]
    assert "Retrying" not in said, said[-3000:]
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


@pytest.fixture(scope="module", params=["sampler", "llama.cpp"])
def server(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each engine that is here."""
    folder = tmp_path_factory.mktemp("served")
    if request.param == "llama.cpp":
        if importlib.util.find_spec("xllamacpp") is None:
            pytest.skip("xllamacpp is not installed: pip install xllamacpp>=2026.10")
        file = folder / "agent.gguf"
        run_converter(Run("agent", outputs=folder), "convert", model, out=str(file), type="f32")
        model = file
    with serving(folder, f"agent={model}") as found:
        engine = request.param if request.param == "llama.cpp" else "loraplug's sampler"
        assert f"agent: served by {engine}" in found.log.read_text()
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("by", ["call", "text"])
def test_the_agent_acts_and_submits(by: str, server: Served, mini: Path, tmp_path: Path) -> None:
    """Commands come as tool calls, or as text; what they print goes back, and the second answer submits."""
    (tmp_path / "short.yaml").write_text(SHORT)
    text = ("mini_textbased.yaml", "model.model_class=litellm_textbased")
    told = act(mini, server.address, tmp_path, *(text if by == "text" else ("mini.yaml",)), "../short.yaml")
    assert (told["info"]["exit_status"], told["info"]["submission"]) == ("Submitted", "42\n")
    assert told["info"]["model_stats"]["api_calls"] == 2
    acted = [one["command"] for message in told["messages"] for one in message.get("extra", {}).get("actions", ())]
    assert acted == [*COMMANDS]
    first = next(message for message in told["messages"] if message["role"] == "assistant")
    assert bool(first.get("tool_calls")) == (by == "call") and bool(first["content"]) == (by == "text")
    assert (tmp_path / "work/answer.txt").read_text() == "42\n"


@pytest.mark.slow
def test_the_agent_understands_that_a_prompt_is_too_long(server: Served, mini: Path, tmp_path: Path) -> None:
    """Its own texts are longer than this model's context: it ends with that, and does not ask again and again."""
    told = act(mini, server.address, tmp_path, "mini.yaml")
    assert told["info"]["exit_status"] == "ContextWindowExceededError"
