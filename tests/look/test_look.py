"""`preview` and `plan`: what they print, as text, as JSON and as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from datasets import Dataset

import loraplug_tools.inspect
from loraplug import Run, load_registry
from loraplug.cli import cli
from loraplug_tools.inspect.near import near
from loraplug_tools.inspect.tokens import tokens


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command in this process, with the commands of `loraplug_tools.inspect`."""
    registry = load_registry()
    if not any(command.name == "plan" for command, _ in registry.commands):
        registry = load_registry(extra=[("look", loraplug_tools.inspect)])
    monkeypatch.setitem(cli.__dict__, "registry", registry)
    monkeypatch.setenv("LORAPLUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)

    return run


@pytest.fixture
def chats(tmp_path: Path, tiny_model: Path) -> Path:
    """A recipe on forty rows of chat, four of them nearly alike."""
    rows = [
        {
            "instance_id": f"row-{n}",
            "messages": [
                {"role": "user", "content": f"question number {n} about " + " ".join(f"w{n}{k}" for k in range(20))},
                {"role": "assistant", "content": f"héllo <|im_end|> {n} 😀" if n == 0 else f"answer {n}"},
            ],
        }
        for n in range(40)
    ]
    rows += [{**rows[9], "instance_id": "twin"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'run_name = "look"\n[dataset]\nuse = "json"\npath = "rows.json"\n[formatter]\nuse = "chat-template"\n'
        f'max_length = 512\n[model]\nuse = "transformers"\nid = "{tiny_model}"\ndtype = "float32"\n'
        '[trainer]\nuse = "sft"\n'
        '[[exporter]]\nuse = "adapter"\n',
        encoding="utf-8",
    )
    return recipe


def test_preview_as_json(call: Any, chats: Path) -> None:
    """`[{id, tokens: [{id, text, trained}]}]`; the texts together are the row, letters whole."""
    done = call("preview", chats, "-n", 2, "--json")
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    assert (first["id"], second["id"]) == ("row-0", "row-1")
    assert set(first["tokens"][0]) == {"id", "text", "trained"}
    text = "".join(token["text"] for token in first["tokens"])
    assert text.endswith("<|im_start|>assistant\nhéllo <|im_end|> 0 😀<|im_end|>\n")
    assert "".join(t["text"] for t in first["tokens"] if t["trained"]) == "héllo <|im_end|> 0 😀<|im_end|>"


def test_preview_as_text_and_page(call: Any, chats: Path, tmp_path: Path) -> None:
    """Counts and name of each row; the page holds everything itself and escapes what rows bring."""
    done = call("preview", chats, "-n", 1)
    assert done.exit_code == 0
    assert re.search(r"row-0: \d+ tokens, \d+ trained \(\d+%\)", done.stdout)
    assert "<|im_start|>user\nquestion number 0" in done.stdout
    assert re.search(r"<\|im_start\|>assistant\n«[^«»]+<\|im_end\|>»\n", done.stdout)
    assert done.stdout.endswith("«trained»  not trained\n")
    page = tmp_path / "page.html"
    assert call("preview", chats, "-n", 1, "--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "&lt;|im_end|&gt;" in text and 'class="t' in text
    assert "http" not in text and "<script" not in text


def test_plan_counts_what_a_run_would_use(call: Any, chats: Path) -> None:
    """Rows, tokens, histogram, truncation, duplicates."""
    done = call("plan", chats, "--no-measure", "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    train = figures["train"]
    assert train["rows"] == train["documents"] == figures["rows"] == 41
    assert sum(count for _, _, count in train["histogram"]) == 41
    assert 0 < train["trained_tokens"] < train["tokens"]
    assert figures["near_duplicates"] == {"within_train": 1, "across_split": 0}
    assert train["escaped_special"] == 1
    text = call("plan", chats, "--no-measure", "--set", "formatter.packing=true").stdout
    assert re.search(r"packs +\d+, \d+% full", text)
    assert "41 of 41" in text


def test_plan_and_preview_show_what_was_cut(call: Any, chats: Path, tmp_path: Path) -> None:
    """Figures of shortened rows and split texts; the marker stands in the shown row."""
    ask, said = {"role": "user", "content": "look"}, {"role": "assistant", "content": "ls"}
    shown = {"role": "user", "content": "a file\n" * 100, "cuttable": True}
    rows = [{"messages": [ask, said, shown, said]}, {"messages": [ask, said] * 60}]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = ["--set", "formatter.max_length=200"]
    train = json.loads(call("plan", chats, "--no-measure", "--json", *settings).stdout)["train"]
    assert (train["documents"], train["truncated"], train["cut_outputs"]) == (2, 2, 1)
    plain = call("plan", chats, "--no-measure", *settings).stdout
    assert re.search(r"rows +2 of 2, 2 truncated\n  truncated lose \d+ characters of tool outputs, \d+ turns, ", plain)
    assert f"{train['cut_characters']} characters of tool outputs, {train['removed_turns']} turns" in plain
    marker = f"[… {train['cut_characters']} characters left out …]"
    assert marker in call("preview", chats, *settings).stdout
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "a word " * 300}]), encoding="utf-8")
    settings += ["--set", "formatter.use=text"]
    train = json.loads(call("plan", chats, "--no-measure", "--json", *settings).stdout)["train"]
    assert (train["split"], train["pieces"]) == (1, train["documents"])
    plain = call("plan", chats, "--no-measure", *settings).stdout
    assert f"rows           1 of 1, 0 truncated\n  split          1 texts into {train['pieces']} rows\n" in plain


def test_near_duplicates_across_the_split(tmp_path: Path) -> None:
    """A row that differs by a word is found; other rows are not."""
    base = "the parser fails when a file has no line at its end and then it reads " + " ".join(
        f"x{k}" for k in range(40)
    )
    train = Dataset.from_list([{"text": base}, {"text": " ".join(f"other{k}" for k in range(50))}])
    held = Dataset.from_list([{"text": base + " now"}, {"text": " ".join(f"third{k}" for k in range(50))}])
    found = near(train, held, Run("test", cache=tmp_path))
    assert found.across == [(0, 0)]
    assert found.within == []


@pytest.mark.parametrize("text", ["plain words", "é漢字😀x", "a\n\n b", "😀"])
def test_token_texts_make_up_the_row(tiny_model: Path, text: str) -> None:
    """Joined, they are what the ids decode to; each token is there once."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer(text)["input_ids"]
    made = tokens(tokenizer, ids, ids)
    assert [token.id for token in made] == ids
    assert "".join(token.text for token in made) == text
