"""Special tokens written in rows: text, unless the recipe names them; then tokens, in training and in prompts alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, Prompter
from loraplug.testing import tiny_run, tiny_tokenizer
from loraplug_chat.formatter import ChatTemplate

TEXT = "see <|call|>now"


def tokenizer() -> Any:
    """The tiny one with two more special tokens."""
    from tokenizers import AddedToken

    made = tiny_tokenizer()
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|call|>", "<|done|>")])
    return made


def ids(given: Any, run: Any, **options: Any) -> list[int]:
    """Of a row that writes a token in a question and in its answer."""
    from datasets import Dataset

    talk = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": f"{TEXT}<|done|>"}]
    rows = Dataset.from_list([{"messages": talk}])
    found: list[int] = ChatTemplate(packing=False, **options).encode(rows, given, run).dataset[0]["input_ids"]
    return found


def test_only_the_named_ones_are_tokens(tmp_path: Path) -> None:
    """Without the option none is; with it the named one is, wherever it stands, and the log says so."""
    run, given = tiny_run(tmp_path), tokenizer()
    call, done = given.convert_tokens_to_ids(["<|call|>", "<|done|>"])
    plain = ids(tokenizer(), run)
    assert call not in plain and done not in plain
    found = ids(given, run, special_tokens=("<|call|>",))
    assert found.count(call) == 2 and done not in found
    assert "special tokens that are kept as tokens in rows: <|call|>" in run.reporter.lines
    expected = tokenizer().apply_chat_template([{"role": "user", "content": TEXT}], return_dict=False)
    assert found[: len(expected)] == expected


def test_prompts_read_the_same_tokens_as_the_rows(tmp_path: Path) -> None:
    """The saved tokenizer says which; a chat then makes the prompt that was trained."""
    from transformers import AutoTokenizer

    run, given = tiny_run(tmp_path), tokenizer()
    found = ids(given, run, special_tokens=("<|call|>",))
    given.save_pretrained(tmp_path / "saved")
    asked = [{"role": "user", "content": TEXT}]
    prompt = Prompter.of(AutoTokenizer.from_pretrained(tmp_path / "saved"), "x").ids(asked)
    assert prompt == found[: len(prompt)]
    closed = Prompter.of(tokenizer(), "x").ids(asked)
    assert given.convert_tokens_to_ids("<|call|>") not in closed


@pytest.mark.parametrize(
    ("token", "told"), [("<|none|>", "not a single token of the tokenizer"), ("<|im_end|>", "uses it around turns")]
)
def test_what_cannot_be_named(token: str, told: str, tmp_path: Path) -> None:
    """A token that there is not, and one with which a row could end its turn."""
    with pytest.raises(InputError, match=told):
        ids(tokenizer(), tiny_run(tmp_path), special_tokens=(token,))
