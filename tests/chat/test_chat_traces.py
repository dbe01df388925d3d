"""Rows of agents, as their sources make them, through chat templates that have a form for tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_help import templates, tokenizer_for

from loraplug import Run
from loraplug_chat.formatter import ChatTemplate
from loraplug_data.traces.source import TraceSource
from loraplug_swe.conversations.swe import SweSource

OUTPUT = "first line\n" + "middle " * 400 + "\nlast line"
MINI = {
    "trajectory_format": "mini-swe-agent-1",
    "messages": [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "I look.\n\n```bash\ncat nothing\n```"},
        {"role": "user", "content": "<returncode>1</returncode>\n<output>\nno such file\n</output>"},
        {"role": "assistant", "content": "I list.\n\n```bash\ncat all\n```"},
        {"role": "user", "content": f"<returncode>0</returncode>\n<output>\n{OUTPUT}\n</output>"},
        {"role": "assistant", "content": "I end.\n\n```bash\nsubmit\n```"},
    ],
}


def _trained(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != -100]))


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_a_trace_is_trained_but_for_its_failed_step(name: str, run: Run, tmp_path: Path) -> None:
    """Calls are rendered as the template writes them; what the rule names is shown and not trained."""
    (tmp_path / "one.traj").write_text(json.dumps(MINI))
    tokenizer = tokenizer_for(templates()[name])
    rows = TraceSource(path=tmp_path / "one.traj", untrained=("failed-commands",)).load(run)
    (encoded,) = ChatTemplate(packing=False, max_length=100_000).encode(rows, tokenizer, run).dataset
    whole, trained = tokenizer.decode(encoded["input_ids"]), _trained(tokenizer, encoded)
    assert "<tools>" in whole and '"name": "bash"' in whole and OUTPUT in whole
    assert "cat nothing" in whole and "cat nothing" not in trained
    assert "I list." in trained and '"command": "cat all"' in trained and "submit" in trained
    assert "first line" not in trained


@pytest.mark.parametrize("calls", ["tools", "as-written"])
def test_the_middle_of_outputs_goes_first(calls: Any, run: Run, tmp_path: Path) -> None:
    """Of results of tools as of those that the user says; every answer stays."""
    (tmp_path / "one.traj").write_text(json.dumps(MINI))
    tokenizer = tokenizer_for(templates()["qwen2_5"])
    rows = TraceSource(path=tmp_path / "one.traj", calls=calls).load(run)
    long = len(ChatTemplate(packing=False, max_length=100_000).encode(rows, tokenizer, run).dataset[0]["input_ids"])
    (encoded,) = ChatTemplate(packing=False, max_length=long - 300).encode(rows, tokenizer, run).dataset
    whole = tokenizer.decode(encoded["input_ids"])
    assert "first line" in whole and "last line" in whole and OUTPUT not in whole
    assert all(said in _trained(tokenizer, encoded) for said in ("I look.", "I list.", "I end."))


def test_turns_of_swe_as_calls(run: Run, tmp_path: Path) -> None:
    """Declared, called and trained."""
    patch = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
    task = {"instance_id": "acme__tool-1", "repo": "acme/tool", "base_commit": "a" * 40, "patch": patch,
            "problem_statement": "x is 1."}  # fmt: skip
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    tokenizer = tokenizer_for(templates()["qwen2_5"])
    rows = SweSource(tasks=str(tmp_path / "tasks.jsonl"), turns="tools").load(run)
    (encoded,) = ChatTemplate(packing=False, max_length=100_000).encode(rows, tokenizer, run).dataset
    whole, trained = tokenizer.decode(encoded["input_ids"]), _trained(tokenizer, encoded)
    assert "Runs a command with bash" in whole and "Runs a command with bash" not in trained
    assert trained.count("<tool_call>") == 2 and "git apply - <<" in trained and "+x = 2" in trained
    assert "<tool_response>\n<returncode>0</returncode>" in whole
