"""`recipe init`: what it proposes for a file of rows, what it refuses, and what it asks on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli

from command import Cli


def rows(path: Path, found: list[dict[str, Any]]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


CHAT = [
    {"messages": [{"role": "user", "content": "why? " * n}, {"role": "assistant", "content": "so " * 800}]}
    for n in range(1, 41)
]


def test_chats(tmp_path: Path, inside: Cli) -> None:
    """Source, formatter, length and share of a chat file; its path starts from the recipe's folder."""
    rows(tmp_path / "my chats.jsonl", CHAT)
    done = inside("recipe", "init", "--data", "my chats.jsonl", "--model", "a/b", "-o", "deep/mine.toml")
    assert done.returncode == 0, done.stderr
    assert "my chats.jsonl: 40 rows, shape messages, read by jsonl" in done.stdout
    text = (tmp_path / "deep/mine.toml").read_text(encoding="utf-8")
    made = tomli.loads(text)
    assert made["dataset"] == {"use": "jsonl", "path": "../my chats.jsonl"}
    # 800 times "so " and up to 40 times "why? ", at 3 characters a token, and two messages
    assert made["formatter"] == {"use": "chat-template", "train_on": "assistant", "max_length": 1024}
    assert "about 882 tokens" in text
    assert made["validation"] == {"fraction": 0.1} and "about 4 of 40 rows" in text
    assert made["model"]["id"] == "a/b" and "quantizer" not in made
    assert max(map(len, text.splitlines())) <= 120
    assert inside("recipe", "check", "--options", "deep/mine.toml").returncode == 0


def test_what_it_proposes_runs(tmp_path: Path, inside: Cli, tiny_model: Path) -> None:
    """On a tiny model, up to the tokens: every row is used."""
    rows(tmp_path / "rows.jsonl", [{"instruction": f"what is {n}?", "response": f"it is {n}"} for n in range(30)])
    assert inside("recipe", "init", "--data", "rows.jsonl", "--model", tiny_model).returncode == 0
    done = inside("run", "recipe.toml", "--until", "formatter", "--set", "model.dtype=float32")
    assert done.returncode == 0, done.stderr
    assert "encoded 27 of 27 rows" in done.stderr and "3 of 30 rows held out" in done.stderr


def test_texts_tasks_and_few_rows(tmp_path: Path, inside: Cli) -> None:
    """Plain texts get the formatter for them, bug-fix tasks the source for them, and few rows no validation."""
    (tmp_path / "texts.json").write_text(json.dumps([{"text": "abc " * 3000}] * 3))
    made = tomli.loads(inside("recipe", "init", "--data", "texts.json", "-o", "-").stdout)
    assert made["dataset"] == {"use": "json", "path": "texts.json"}
    assert made["formatter"] == {"use": "text", "max_length": 4096} and "validation" not in made
    rows(tmp_path / "t.jsonl", [{"problem_statement": "p", "repo": "a/b", "base_commit": "c", "patch": "d"}])
    made = tomli.loads(inside("recipe", "init", "--data", "t.jsonl", "-o", "-").stdout)
    assert (made["dataset"]["use"], made["dataset"]["tasks"]) == ("swe", "t.jsonl")
    rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "completion": "b"}] * 2)
    for purpose, formatter in (("chat", "chat-template"), ("text", "text")):
        made = tomli.loads(inside("recipe", "init", "--data", "pairs.jsonl", "--for", purpose, "-o", "-").stdout)
        assert made["formatter"]["use"] == formatter


def test_columns_by_other_names(tmp_path: Path, inside: Cli) -> None:
    """What they would have to be called is told, and --rename goes into the recipe."""
    (tmp_path / "qa.csv").write_text("question,answer\nwhat,that\nwho,they\n")
    refused = inside("recipe", "init", "--data", "qa.csv")
    assert refused.returncode == 2
    assert 'rename = { question = "instruction", answer = "response" }' in refused.stderr
    assert "--rename OLD=NEW" in refused.stderr and not (tmp_path / "recipe.toml").exists()
    renames = ("--rename", "question=instruction", "--rename", "answer=response")
    assert inside("recipe", "init", "--data", "qa.csv", *renames).returncode == 0
    made = tomli.loads((tmp_path / "recipe.toml").read_text(encoding="utf-8"))
    assert made["dataset"]["rename"] == {"question": "instruction", "answer": "response"}
    assert inside("recipe", "check", "--options", "recipe.toml").returncode == 0
    assert "is not OLD=NEW" in inside("recipe", "init", "--data", "qa.csv", "--rename", "x", "-o", "-").stderr


def test_rows_that_cannot_be_used_are_told(tmp_path: Path, inside: Cli) -> None:
    """A few with their reasons; a file of nothing else is refused."""
    rows(tmp_path / "some.jsonl", [*CHAT[:3], {"messages": [], "id": "seven"}])
    told = inside("recipe", "init", "--data", "some.jsonl", "-o", "-")
    assert told.returncode == 0 and "1 of the first rows cannot be used" in told.stderr and "seven" in told.stderr
    rows(tmp_path / "none.jsonl", [{"messages": []}] * 2)
    refused = inside("recipe", "init", "--data", "none.jsonl", "-o", "-")
    assert refused.returncode == 2 and "none of its rows can be used; row 0: has no messages" in refused.stderr


@pytest.mark.parametrize(
    ("name", "holds", "what"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file"),
        ("empty.jsonl", b"", "has no rows"),
        ("blank.json", b"  \n", "is empty"),
        ("list.json", b"[]", "has no rows"),
        ("bytes.jsonl", b"\xff\xfe\x00", "is not UTF-16"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', "broken.jsonl:2: is not JSON"),
        ("paper.pdf", b"%PDF", "has a file type that no dataset source reads"),
        ("rows.parquet", b"PAR1", "rows.parquet"),
        (
            "mixed.jsonl",
            b'{"text": "a"}\n{"instruction": "a", "response": "b"}\n{"text": "c"}\n{"other": 1}\n',
            "holds rows of 3 shapes (text: rows 0, 2; instruction-response: row 1; no known shape: row 3)",
        ),
    ],
)  # fmt: skip
def test_files_it_cannot_use(name: str, holds: bytes | None, what: str, tmp_path: Path, inside: Cli) -> None:
    """One clear block each, exit status 2, and no recipe."""
    if holds is not None:
        (tmp_path / name).write_bytes(holds)
    refused = inside("recipe", "init", "--data", name)
    assert refused.returncode == 2, refused.stdout
    assert what in refused.stderr and "next: " in refused.stderr and "Traceback" not in refused.stderr
    assert refused.stderr.count("error: ") == 1 and not (tmp_path / "recipe.toml").exists()


def test_what_must_be_said_where_nobody_can_be_asked(tmp_path: Path, inside: Cli) -> None:
    """Neither purpose nor data, or two that do not go together."""
    refused = inside("recipe", "init")
    assert refused.returncode == 2 and "needs to know the kind of rows" in refused.stderr
    rows(tmp_path / "chat.jsonl", CHAT)
    refused = inside("recipe", "init", "--data", "chat.jsonl", "--for", "text")
    assert refused.returncode == 2 and "holds rows for chat (shape messages), not for text" in refused.stderr
    refused = inside("recipe", "init", "--for", "text", "--rename", "a=b")
    assert refused.returncode == 2 and "needs --data" in refused.stderr


def typed(folder: Path, text: str, *words: str) -> tuple[int, str]:
    """Exit status and all that is said on a terminal on which this is typed."""
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    command = [sys.executable, "-m", "loraplug", "recipe", "init", *words]
    env = os.environ | {"LORAPLUG_CACHE": str(folder / "cache"), "TERM": "dumb"}
    with subprocess.Popen(command, cwd=folder, env=env, stdin=other, stdout=other, stderr=other) as process:
        os.close(other)
        os.write(main, text.encode())
        told = b""
        try:
            while part := os.read(main, 1 << 16):
                told += part
        except OSError:  # the other end is closed
            pass
        status = process.wait(120)
    os.close(main)
    return status, told.decode("utf-8", "replace")


def test_questions_on_a_terminal(tmp_path: Path) -> None:
    """Answers go into the recipe, an empty one takes what is offered; --yes asks nothing."""
    rows(tmp_path / "chat.jsonl", CHAT)
    status, told = typed(tmp_path, "chat.jsonl\n\ny\ntried\n")
    assert status == 0, told
    assert "File with your rows" in told and "Load the base in 4 bits" in told
    made = tomli.loads((tmp_path / "recipe.toml").read_text(encoding="utf-8"))
    assert (made["run_name"], made["quantizer"]["bits"]) == ("tried", 4)
    assert made["model"]["id"] == "HuggingFaceTB/SmolLM2-360M-Instruct" and made["dataset"]["path"] == "chat.jsonl"
    status, told = typed(tmp_path, "", "--yes", "--data", "chat.jsonl", "-o", "other.toml")
    assert status == 0 and "Name of the run" not in told
    status, told = typed(tmp_path, "\ntext\nmy/model\nn\n\n", "-o", "third.toml")
    assert status == 0, told
    made = tomli.loads((tmp_path / "third.toml").read_text(encoding="utf-8"))
    assert made["model"]["id"] == "my/model" and made["formatter"]["use"] == "text" and "quantizer" not in made
