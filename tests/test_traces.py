"""Agents' traces as conversations: every format told and read, what may be two refused, steps left untrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, Run, conversation, iter_rows
from loraplug.testing import from_table, tiny_run
from loraplug_data.traces.source import TraceSource

ASK = {"role": "user", "content": "Fix it."}
SYSTEM = {"role": "system", "content": "You are an agent."}


def _call(name: str, arguments: Any, own: str) -> dict[str, Any]:
    return {"id": own, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


OPENAI = {
    "instance_id": "acme__tool-7",
    "resolved": True,
    "messages": [
        SYSTEM, ASK,
        {"role": "assistant", "content": "I look.", "tool_calls": [_call("bash", {"command": "ls"}, "a1")]},
        {"role": "tool", "tool_call_id": "a1", "content": "main.py"},
        {"role": "assistant", "content": None, "tool_calls": [_call("submit", {}, "a2")]},
    ],
}  # fmt: skip
BLOCKS = {
    "id": "b",
    "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "bash", "description": "Runs it.", "input_schema": {"type": "object", "properties": {}}}],
    "messages": [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "t2", "name": "bash", "input": {"command": "cat x"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "main.py"}]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "no x", "is_error": True},
            {"type": "text", "text": "Go on."},
        ]},
        {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
    ],
}  # fmt: skip
SWE_AGENT = {
    "environment": "swe_main",
    "trajectory": [{"action": "ls\n", "observation": "main.py", "response": "…", "thought": "I look."}],
    "history": [
        {"role": "system", "content": "Write one block.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": "A demonstration …", "is_demo": True, "message_type": "demonstration"},
        {"role": "assistant", "content": "Shown.\n```\nls demo\n```", "is_demo": True},
        {"role": "user", "content": "Fix it.", "message_type": "observation"},
        {"role": "assistant", "content": "I forgot the block.", "message_type": "action"},
        {"role": "user", "content": "Your output was not formatted correctly.", "message_type": "observation"},
        {"role": "assistant", "content": "I look.\n```\nls\n```", "action": "ls\n", "message_type": "action"},
        {"role": "user", "content": "main.py\n(Open file: n/a)\nbash-$", "message_type": "observation"},
        {
            "role": "assistant",
            "content": "I send it.\n```\nsubmit\n```",
            "action": "submit\n",
            "message_type": "action",
        },
    ],
    "info": {"exit_status": "submitted", "submission": "diff", "model_stats": {"api_calls": 3}},
}
SWE_AGENT_TOOLS = {
    "trajectory": [{"action": "ls", "observation": "main.py"}],
    "history": [
        {**SYSTEM, "message_type": "system_prompt"}, {"role": "user", "content": [{"type": "text", "text": "Fix it."}]},
        {"role": "assistant", "content": "I look.", "tool_calls": [_call("bash", {"command": "ls"}, "s1")],
         "thinking_blocks": []},
        {"role": "tool", "content": [{"type": "text", "text": "OBSERVATION:\nmain.py"}], "tool_call_ids": ["s1"]},
        {"role": "assistant", "content": "So:\n```\nx = 1\n```", "tool_calls": None},
        {"role": "user", "content": "No tool calls found in the response."},
    ],
    "info": {},
}  # fmt: skip
MINI = {
    "trajectory_format": "mini-swe-agent-1",
    "info": {"mini_version": "1.9", "exit_status": "Submitted", "submission": "diff"},
    "messages": [
        SYSTEM, ASK,
        {"role": "assistant", "content": "THOUGHT: I look.\n\n```bash\ncat x\n```", "extra": {"cost": 0.1}},
        {"role": "user", "content": "<returncode>1</returncode>\n<output>\ncat: x\n</output>"},
        {"role": "assistant", "content": "Two.\n```bash\na\n```\n```bash\nb\n```"},
        {"role": "user", "content": "Please always provide EXACTLY ONE action"},
        {"role": "assistant", "content": "THOUGHT: I list.\n\n```bash\nls\n```"},
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\nmain.py\n</output>"},
        {"role": "assistant", "content": "Out.\n\n```bash\necho COMPLETE\n```"},
        {"role": "user", "content": ""},
    ],
}  # fmt: skip
MINI_2 = {
    "trajectory_format": "mini-swe-agent-1.1",
    "messages": [
        SYSTEM, ASK,
        {"role": "assistant", "content": "I look.", "extra": {}, "tool_calls": [_call("bash", {"command": "ls"}, "m")]},
        {"role": "tool", "tool_call_id": "m", "content": "out", "extra": {"returncode": 2}},
        {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted"}},
    ],
}  # fmt: skip
_REPLY = {
    "id": "r1",
    "choices": [{"message": {"role": "assistant", "content": "I look twice.", "tool_calls": [
        _call("execute_bash", {"command": "ls"}, "o1"), _call("execute_bash", {"command": "cat x"}, "o2")]}}],
}  # fmt: skip
OPENHANDS_SDK = [
    {"kind": "ConversationStateUpdateEvent", "source": "environment", "key": "full_state", "value": {}},
    {"kind": "SystemPromptEvent", "source": "agent", "system_prompt": {"type": "text", "text": "You are an agent."},
     "dynamic_context": {"type": "text", "text": "The repository is at /x."}, "tools": [{"kind": "TerminalTool"}]},
    {"kind": "MessageEvent", "source": "user",
     "llm_message": {"role": "user", "content": [{"type": "text", "text": "Fix it."}]}},
    {"kind": "ActionEvent", "source": "agent", "thought": [{"type": "text", "text": "I look twice."}], "id": "e1",
     "action": {"kind": "TerminalAction", "command": "ls"}, "tool_name": "terminal", "tool_call_id": "c1",
     "tool_call": {"id": "c1", "name": "terminal", "arguments": "{\"command\": \"ls\"}"}, "llm_response_id": "r1"},
    {"kind": "ActionEvent", "source": "agent", "thought": [], "id": "e2", "action": {"kind": "TerminalAction"},
     "tool_name": "terminal", "tool_call_id": "c2", "llm_response_id": "r1", "tool_call": {
         "id": "c2", "type": "function", "function": {"name": "terminal", "arguments": "{\"command\": \"cat x\"}"}}},
    {"kind": "ObservationEvent", "source": "environment", "tool_name": "terminal", "tool_call_id": "c1",
     "observation": {"kind": "TerminalObservation", "exit_code": 0,
                     "content": [{"type": "text", "text": "main.py"}]}},
    {"kind": "ObservationEvent", "source": "environment", "tool_name": "terminal", "tool_call_id": "c2",
     "observation": {"kind": "TerminalObservation", "content": [{"type": "text", "text": "cat: x: No such file"}],
                     "metadata": {"exit_code": 1}}},
    {"kind": "ActionEvent", "source": "agent", "thought": [], "id": "e3", "action": None, "tool_name": "editor",
     "tool_call_id": "c3", "llm_response_id": "r2",
     "tool_call": {"id": "c3", "name": "editor", "arguments": "{\"path\": \"main.py\"}"}},
    {"kind": "AgentErrorEvent", "source": "agent", "tool_call_id": "c3", "error": "no such tool"},
    {"kind": "MessageEvent", "source": "agent",
     "llm_message": {"role": "assistant", "content": [{"type": "text", "text": "Done."}]}},
]  # fmt: skip
OPENHANDS = {
    "instance_id": "acme__tool-8",
    "history": [
        {"id": 0, "source": "agent", "action": "system", "args": {"content": "You are an agent.", "tools": None}},
        {"id": 1, "source": "user", "action": "message", "args": {"content": "Fix it."}},
        {"id": 2, "source": "user", "observation": "recall", "content": "…", "extras": {}},
        {"id": 3, "source": "agent", "action": "run", "args": {"command": "ls", "thought": "I look twice."},
         "tool_call_metadata": {"function_name": "execute_bash", "tool_call_id": "o1", "model_response": _REPLY}},
        {"id": 4, "source": "agent", "action": "run", "args": {"command": "cat x", "thought": ""},
         "tool_call_metadata": {"function_name": "execute_bash", "tool_call_id": "o2", "model_response": _REPLY}},
        {"id": 5, "source": "agent", "observation": "run", "content": "main.py", "cause": 3,
         "extras": {"metadata": {"exit_code": 0}}},
        {"id": 6, "source": "agent", "observation": "run", "content": "cat: x", "cause": 4,
         "extras": {"metadata": {"exit_code": 1}}},
        {"id": 7, "source": "agent", "action": "edit", "args": {"path": "main.py", "content": "x", "thought": "Mend.",
         "security_risk": 0}},
        {"id": 8, "source": "agent", "observation": "edit", "content": "edited", "cause": 7, "extras": {}},
        {"id": 9, "source": "environment", "observation": "agent_state_changed", "content": "", "extras": {}},
        {"id": 10, "source": "agent", "action": "finish", "args": {"final_thought": "Done.", "thought": ""}},
    ],
}  # fmt: skip
XML = {
    "messages": [
        SYSTEM, ASK,
        {"role": "assistant", "content": "I see.\n\n<function=edit>\n<parameter=path>/x</parameter>\n<parameter=new>\n"
         "  a < b\n\n</parameter>\n</function>"},
        {"role": "user", "content": "OBSERVATION:\nERROR: no such file"},
        {"role": "assistant", "content": "<function=submit>\n</function>"},
    ],
}  # fmt: skip


def _load(tmp_path: Path, trace: Any, **options: Any) -> tuple[dict[str, Any], Run]:
    file = tmp_path / "one.traj"
    file.write_text(json.dumps(trace))
    run = tiny_run(tmp_path)
    (row,) = iter_rows(TraceSource(path=file, **options).load(run))
    return row, run


def _shape(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Role, text and calls of each message, as formatters see them."""
    return [
        (
            one["role"],
            one["content"],
            *((c["function"]["name"], c["function"]["arguments"]) for c in one.get("tool_calls", ())),
        )
        for one in conversation(row, "messages", 0).messages
    ]


CASES = {
    "openai": (OPENAI, "openai", [
        ("system", "You are an agent."), ("user", "Fix it."), ("assistant", "I look.", ("bash", {"command": "ls"})),
        ("tool", "main.py"), ("assistant", None, ("submit", {}))]),
    "blocks": (BLOCKS, "content-blocks", [
        ("system", "You are an agent."), ("user", "Fix it."),
        ("assistant", "I look.", ("bash", {"command": "ls"}), ("bash", {"command": "cat x"})),
        ("tool", "main.py"), ("tool", "no x"), ("user", "Go on."), ("assistant", "Done.")]),
    "swe-agent": (SWE_AGENT, "swe-agent", [
        ("system", "Write one block."), ("user", "A demonstration …"),
        ("assistant", "Shown.", ("bash", {"command": "ls demo"})), ("user", "Fix it."),
        ("assistant", "I forgot the block."), ("user", "Your output was not formatted correctly."),
        ("assistant", "I look.", ("bash", {"command": "ls"})), ("tool", "main.py\n(Open file: n/a)\nbash-$"),
        ("assistant", "I send it.", ("bash", {"command": "submit"}))]),
    "swe-agent with tools": (SWE_AGENT_TOOLS, "swe-agent", [
        ("system", "You are an agent."), ("user", "Fix it."), ("assistant", "I look.", ("bash", {"command": "ls"})),
        ("tool", "OBSERVATION:\nmain.py"), ("assistant", "So:\n```\nx = 1\n```"),
        ("user", "No tool calls found in the response.")]),
    "mini": (MINI, "mini-swe-agent", [
        ("system", "You are an agent."), ("user", "Fix it."),
        ("assistant", "THOUGHT: I look.", ("bash", {"command": "cat x"})),
        ("tool", "<returncode>1</returncode>\n<output>\ncat: x\n</output>"),
        ("assistant", "Two.\n```bash\na\n```\n```bash\nb\n```"), ("user", "Please always provide EXACTLY ONE action"),
        ("assistant", "THOUGHT: I list.", ("bash", {"command": "ls"})),
        ("tool", "<returncode>0</returncode>\n<output>\nmain.py\n</output>"),
        ("assistant", "Out.", ("bash", {"command": "echo COMPLETE"}))]),
    "mini with tools": (MINI_2, "mini-swe-agent", [
        ("system", "You are an agent."), ("user", "Fix it."), ("assistant", "I look.", ("bash", {"command": "ls"})),
        ("tool", "out")]),
    "openhands": (OPENHANDS, "openhands", [
        ("system", "You are an agent."), ("user", "Fix it."),
        ("assistant", "I look twice.", ("execute_bash", {"command": "ls"}), ("execute_bash", {"command": "cat x"})),
        ("tool", "main.py"), ("tool", "cat: x"), ("assistant", "Mend.", ("edit", {"path": "main.py", "content": "x"})),
        ("tool", "edited"), ("assistant", None, ("finish", {"final_thought": "Done."}))]),
    "openhands sdk": (OPENHANDS_SDK, "openhands", [
        ("system", "You are an agent.\nThe repository is at /x."), ("user", "Fix it."),
        ("assistant", "I look twice.", ("terminal", {"command": "ls"}), ("terminal", {"command": "cat x"})),
        ("tool", "main.py"), ("tool", "cat: x: No such file"),
        ("assistant", None, ("editor", {"path": "main.py"})), ("tool", "no such tool"),
        ("assistant", "Done.")]),
    "xml": (XML, "swe-smith-xml", [
        ("system", "You are an agent."), ("user", "Fix it."),
        ("assistant", "I see.", ("edit", {"path": "/x", "new": "  a < b\n"})),
        ("tool", "OBSERVATION:\nERROR: no such file"),
        ("assistant", None, ("submit", {}))]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_format_is_told_and_read(case: str, tmp_path: Path) -> None:
    """Into messages with calls, whose results name them; the format is said."""
    trace, kind, shape = CASES[case]
    row, run = _load(tmp_path, trace)
    assert _shape(row) == shape
    assert any(line.startswith(f"traces: 1 read as {kind} (") for line in run.reporter.lines)
    messages = row["messages"]
    ids = {call["id"] for one in messages for call in one.get("tool_calls", ())}
    answered = [one["tool_call_id"] for one in messages if one["role"] == "tool"]
    assert set(answered) <= ids and len(set(answered)) == len(answered)
    assert conversation(row, "messages", 0).tools


def test_what_is_told_of_a_trace(tmp_path: Path) -> None:
    """Its name, its group, how it ended, what it thought, and the tools, its own or those of its calls."""
    row, run = _load(tmp_path, OPENAI)
    assert (row["instance_id"], row["group"], row["resolved"]) == ("acme__tool-7", ["acme/tool", "acme__tool-7"], True)
    assert [one["function"]["name"] for one in row["tools"]] == ["bash", "submit"]
    assert row["tools"][0]["function"]["parameters"] == {
        "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"],
    }  # fmt: skip
    assert any("without descriptions of tools" in line for line in run.reporter.lines)
    row, run = _load(tmp_path, BLOCKS)
    assert row["messages"][2]["reasoning_content"] == "Hm."
    assert row["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert not any("inferred from calls" in line for line in run.reporter.lines)
    row, run = _load(tmp_path, SWE_AGENT)
    assert (row["instance_id"], row["exit_status"]) == ("one", "submitted")
    assert [one.get("weight") for one in row["messages"] if one["role"] == "assistant"] == [0.0, None, None, None]
    (tmp_path / "tools.json").write_text('[{"type": "function", "function": {"name": "mine"}}]')
    row, run = _load(tmp_path, OPENAI, tools=tmp_path / "tools.json")
    assert [one["function"]["name"] for one in row["tools"]] == ["mine"]


def test_the_first_versions_of_mini_are_told_by_what_the_shell_answers(tmp_path: Path) -> None:
    """They left a bare list of messages."""
    row, run = _load(tmp_path, MINI["messages"])
    assert _shape(row) == CASES["mini"][2]
    assert "traces: 1 read as mini-swe-agent (<returncode> in what follows a command)" in run.reporter.lines


def test_calls_can_stay_as_they_were_written(tmp_path: Path) -> None:
    """Texts as in the trace, results as the user's turns, which may be cut; no tools."""
    row, _ = _load(tmp_path, MINI, calls="as-written")
    assert [(one["role"], one["content"]) for one in row["messages"]] == [
        (one["role"], one["content"]) for one in MINI["messages"][:-1]
    ]
    assert [one.get("cuttable") for one in row["messages"]][3] is True and row["tools"] is None


@pytest.mark.parametrize(
    ("trace", "rules", "untrained"),
    [
        (MINI, ("failed-commands",), [0]),
        (MINI, ("format-errors",), [1]),
        (MINI, ("failed-commands", "format-errors"), [0, 1]),
        (MINI_2, ("failed-commands",), [0]),
        (OPENHANDS, ("failed-commands",), [0]),
        (BLOCKS, ("failed-commands",), [0]),
        (XML, ("failed-commands",), [0]),
        (SWE_AGENT, ("format-errors",), [0, 1]),  # the first is an example that was shown
        (SWE_AGENT_TOOLS, ("format-errors",), [1]),
        (SWE_AGENT_TOOLS, ("after-last-success",), [1]),
        (OPENAI, ("failed-commands", "format-errors", "after-last-success"), []),
        ({**MINI_2, "messages": [*OPENAI["messages"][:4], *MINI_2["messages"][2:4]]}, ("after-last-success",), [1]),
    ],
)
def test_steps_are_left_untrained(tmp_path: Path, trace: Any, rules: tuple[Any, ...], untrained: list[int]) -> None:
    """They are shown and have the weight 0; each rule tells how many."""
    row, run = _load(tmp_path, trace, untrained=rules)
    own = [one for one in conversation(row, "messages", 0).messages if one["role"] == "assistant"]
    assert [number for number, one in enumerate(own) if one.get("weight") == 0] == untrained
    for rule in rules:
        assert any(f"of {len(own)} answers are not trained because of {rule}" in line for line in run.reporter.lines)


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ({"messages": [SYSTEM, ASK]}, r"unknown format; it has: keys messages; messages are 2 tables with role"),
        ({"steps": [1]}, r"unknown format; it has: keys steps\n.*known formats are \"openai\""),
        ({**SWE_AGENT, **MINI}, r"is ambiguous: it could be swe-agent .*; mini-swe-agent .*\n.*format = \"swe-agent\""),
        ({"messages": [*OPENAI["messages"], *BLOCKS["messages"]]}, r"is ambiguous: it could be openai .*; "
            "content-blocks"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]},
         r"the arguments of a call of x are not JSON"),
        ({"messages": [{"role": "tool", "content": [{"type": "image_url"}]}]}, r"part of the type image_url"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused(tmp_path: Path, trace: Any, told: str) -> None:
    """By name, with what was seen, and by preflight."""
    with pytest.raises(InputError, match=rf"/one\.traj: .*{told}"):
        _load(tmp_path, trace)
    (problem,) = TraceSource(path=tmp_path / "one.traj").preflight(tiny_run(tmp_path), None)
    assert problem.message.startswith(f"{tmp_path}/one.traj: ")


def test_the_recipe_says_which(tmp_path: Path) -> None:
    """Of a trace that may be two, and of one that tells too little."""
    both = {**SWE_AGENT, "messages": MINI["messages"], "info": MINI["info"]}
    assert len(_load(tmp_path, both, format="mini-swe-agent")[0]["messages"]) == 9
    row, _ = _load(tmp_path, {"messages": SWE_AGENT["history"]}, format="swe-agent")
    assert sum(one["role"] == "tool" for one in row["messages"]) == 1


def test_files_of_every_layout(tmp_path: Path) -> None:
    """A folder of folders, a list, lines of traces, and lines that are the events of one."""
    for name in ("b", "a"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / f"{name}.traj").write_text(json.dumps(SWE_AGENT))
        (tmp_path / "out" / name / "config.json").write_text("{}")
    (tmp_path / "list.json").write_text(json.dumps([OPENAI, BLOCKS]))
    (tmp_path / "lines.jsonl").write_text(json.dumps(OPENAI) + "\n" + json.dumps(XML) + "\n")
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in OPENHANDS["history"]))
    (tmp_path / "events.json").write_text(json.dumps(OPENHANDS["history"]))
    run = tiny_run(tmp_path)

    def names(path: Any, **options: Any) -> list[str]:
        return list(TraceSource(path=path, **options).load(run)["instance_id"])

    assert names(tmp_path / "out") == ["a", "b"]
    assert names(tmp_path / "list.json") == ["acme__tool-7", "b"]
    assert names(tmp_path / "lines.jsonl") == ["acme__tool-7", "lines[1]"]
    assert names(tmp_path / "lines.jsonl", limit=1) == ["acme__tool-7"]
    (tmp_path / "bad.jsonl").write_text(json.dumps(OPENAI) + '\n{"steps": 1}\n')
    with pytest.raises(InputError, match=r"/bad\.jsonl\[1\]: is a trace of unknown format"):
        names(tmp_path / "bad.jsonl")
    assert names(tmp_path / "events.jsonl") == names(tmp_path / "events.json") == ["events"]
    assert TraceSource.reads(path="x.traj") and not TraceSource.reads(path="x.jsonl")


def test_rows_of_another_source_can_be_traces(tmp_path: Path) -> None:
    """Such as a parquet file of a hub set, whose messages are JSON text; a second load takes what the first made."""
    from datasets import Dataset

    rows = [{"instance_id": "x", "messages": json.dumps(XML["messages"]), "resolved": False}]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    made, problems = from_table(
        TraceSource,
        {"source": {"use": "parquet", "path": str(tmp_path / "rows.parquet")}, "untrained": ["failed-commands"]},
    )
    assert not problems and made is not None
    run = tiny_run(tmp_path)
    (row,) = iter_rows(made.load(run))
    assert (row["resolved"], [one["role"] for one in row["messages"]][-2:]) == (False, ["tool", "assistant"])
    said = list(run.reporter.lines)
    (again,) = iter_rows(made.load(run))
    assert again == row and run.reporter.lines == said + said
    assert [str(one) for one in from_table(TraceSource, {})[1]] == ["dataset: needs exactly one of path and source"]
