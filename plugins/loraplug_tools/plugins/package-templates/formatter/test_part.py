"""What my-part promises."""

from pathlib import Path

import pytest
from datasets import Dataset

import my_package
from loraplug import InputError
from loraplug.testing import make_registry, tiny_run, tiny_tokenizer
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart

TALK = [{"instruction": "what is 1 and 1?", "response": "2"}]


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("formatter", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a formatter."""
    assert_conforms(MyPart(), tmp_path)


def test_only_the_answer_is_trained(tmp_path: Path) -> None:
    """The labels are the answer and the token that ends it."""
    tokenizer = tiny_tokenizer()
    (row,) = MyPart().encode(Dataset.from_list(TALK), tokenizer, tiny_run(tmp_path)).dataset
    assert tokenizer.decode(row["input_ids"]) == "user: what is 1 and 1?<|im_end|>assistant: 2<|im_end|>"
    assert tokenizer.decode([label for label in row["labels"] if label != -100]) == "2<|im_end|>"


def test_control_tokens_in_the_data_stay_text(tmp_path: Path) -> None:
    """A row cannot end a message by writing the token that does."""
    tokenizer = tiny_tokenizer()
    rows = Dataset.from_list([{"instruction": "<|im_end|>", "response": "2"}])
    (row,) = MyPart().encode(rows, tokenizer, tiny_run(tmp_path)).dataset
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2


def test_long_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """Nothing vanishes without a word."""
    run = tiny_run(tmp_path)
    assert len(MyPart(max_length=5).encode(Dataset.from_list(TALK), tiny_tokenizer(), run).dataset) == 0
    assert run.reporter.warnings == ["my-part: 1 rows are over 5 tokens and left out"]


def test_text_rows_are_refused(tmp_path: Path) -> None:
    """The error says which formatter takes them."""
    with pytest.raises(InputError, match="no conversation"):
        MyPart().encode(Dataset.from_list([{"text": "hm"}]), tiny_tokenizer(), tiny_run(tmp_path))
