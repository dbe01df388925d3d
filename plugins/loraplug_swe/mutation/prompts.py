"""The prompt and the answer's format, shared by training and evaluation so that they agree."""

from __future__ import annotations

from typing import Literal

from loraplug import InputError
from loraplug_swe.edits import Format, numbered
from loraplug_swe.mutation.functions import dedented
from loraplug_swe.mutation.language import Language

Context = Literal["function", "file", "none"]
_HOW: dict[Format, str] = {
    "diff": "Answer with a unified diff that fixes it.",
    "search-replace": "Answer with search/replace blocks that fix it.",
    "lines": "Answer with the corrected lines, each behind its number.",
    "function": "Answer with the corrected function.",
}


def ask(statement: str, path: str, text: str, function: str, language: Language, context: Context, edit: Format) -> str:
    """The instruction for one bug.

    Args:
        statement: the problem statement.
        path, text: the file with the bug.
        function: qualified name of the function the bug is in.
        context: how much of the code is shown.
        edit: the format of the answer.

    Raises:
        InputError: the answer is numbered lines, but the prompt shows no line numbers.
    """
    if edit == "lines" and context != "function":
        raise InputError('edit = "lines" needs the numbered lines of a function in the prompt', where="dataset.context",
                         todo='set context = "function", or choose another edit')  # fmt: skip
    parts = [statement]
    if context == "function":
        span = next(span for span in language.functions(text) if span.name == function)
        source = dedented(text.split("\n")[span.start : span.stop])
        source = numbered(source) if edit == "lines" else source
        parts.append(f"The bug is in `{function}` in `{path}`:\n\n```{language.name}\n{source}```")
    elif context == "file":
        parts.append(f"The bug is in `{path}`:\n\n```{language.name}\n{text}```")
    return "\n\n".join([*parts, _HOW[edit]])
