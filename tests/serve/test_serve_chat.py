"""`loraplug chat` with reasoning and calls, of a model in memory and of one at a URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from serve_helpers import serving

from calling import ASKED
from command import Cli
from loraplug import InputError
from loraplug_serve.remote import RemoteModel

WORDS = ("--prompt", ASKED[0]["content"], "--system", "tools: add", "--temperature", "0")


def test_reasoning_and_calls_are_shown_apart(inside: Cli, caller: Path) -> None:
    """Reasoning on stderr, the call on stdout; --json has the very text, too."""
    plain = inside("chat", caller, *WORDS)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == 'calls add {"a": 3, "b": 1}\n' and plain.stderr.rstrip().endswith("hm")
    told = json.loads(inside("chat", caller, *WORDS, "--json").stdout)
    assert told["text"].startswith("<think>\nhm\n</think>\n\n<tool_call>") and told["reasoning"] == "hm"
    assert told["calls"] == [{"name": "add", "arguments": '{"a": 3, "b": 1}'}]
    assert told["finish"] == "stop" and told["tokens_per_second"] > 0


def test_a_server_at_a_url_answers(inside: Cli, caller: Path, tiny_model: Path, tmp_path: Path) -> None:
    """As the model in memory does; one of several is named, and what the server says of errors is told."""
    env = {"LORAPLUG_SERVE_KEY": "words"}
    with serving(tmp_path, caller, tiny_model, env=env) as server:
        known = {"LORAPLUG_API_KEY": "words"}
        address = f"{server.address}/v1"
        done = inside("chat", address, *WORDS, env=known)
        assert done.returncode == 2 and "has several models" in done.stderr and "#caller" in done.stderr
        done = inside("chat", address, *WORDS)
        assert done.returncode == 2 and "status 401" in done.stderr and "LORAPLUG_API_KEY" in done.stderr
        told = json.loads(inside("chat", f"{address}#caller", *WORDS, "--json", env=known).stdout)
        assert told["reasoning"] == "hm" and told["finish"] == "stop" and told["tokens"] > 5
        assert told["content"].startswith(
            '<tool_call>\n{"name": "add"'
        )  # no tools were given, so nothing is taken apart
        done = inside("chat", f"{address}#caller", "--prompt", "raise", env=known)
        assert done.returncode == 2 and "this template does not like it" in done.stderr
        done = inside("chat", f"{address}#other", *WORDS, env=known)
        assert done.returncode == 2 and "has no model 'other'" in done.stderr
    with pytest.raises(InputError, match="cannot be reached"):
        RemoteModel.at(address)
    assert "LORAPLUG_API_KEY" not in os.environ


def test_nothing_heavy_is_loaded_for_the_help() -> None:
    """Neither torch nor a web server, with the command itself."""
    code = (
        "import sys, loraplug_serve; bad = {'torch', 'starlette', 'uvicorn', 'httpx2', 'gradio'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code + "sys.exit(str(bad) if bad else 0)"], check=False)
    assert done.returncode == 0
