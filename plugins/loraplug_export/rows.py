"""Token ids to verify a merge on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraplug import ExportContext
from loraplug_export.folders import has_tokenizer

ROWS, LENGTH = 3, 64
_TEXTS = (
    "Write a Python function that returns the n-th Fibonacci number, and say what it costs.",
    "The capital of France is Paris, and about two million people live there.",
    "Traceback (most recent call last):\n  File \"app.py\", line 3, in <module>\nKeyError: 'name'\n",
)


def rows_for_proof(result: ExportContext, tokenizer_folder: Path, vocabulary: int) -> Sequence[Sequence[int]]:
    """Rows of the validation data if the run has kept some as samples, else a few built-in sentences.

    Args:
        tokenizer_folder: a folder with the tokenizer; without one the rows count through the vocabulary.
        vocabulary: number of rows in the embedding.
    """
    texts = [sample.prompt + sample.after for sample in result.samples] or list(_TEXTS)
    if not has_tokenizer(tokenizer_folder):
        return [[number * 7919 % vocabulary for number in range(row, row + LENGTH)] for row in range(ROWS)]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
    encoded = [tokenizer(text)["input_ids"][-LENGTH:] for text in texts[:ROWS]]
    return [[number for number in row if number < vocabulary] for row in encoded if row]


def rows_of_samples(result: ExportContext, folder: Path, length: int = 512) -> Sequence[Sequence[int]]:
    """The run's samples, prompt and answer, as token ids of the folder's tokenizer; else a few built-in sentences.

    Args:
        length: the maximum number of tokens of a row.
    """
    from transformers import AutoTokenizer

    texts = [sample.prompt + sample.after for sample in result.samples] or list(_TEXTS)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"][:length] for text in texts]
    return [row for row in rows if row]
