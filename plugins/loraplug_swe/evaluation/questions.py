"""General questions with checkable answers: the file format, and the checks, which run in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError
from loraplug_swe.evaluation.judge import Verdict
from loraplug_swe.sandbox.sandbox import Sandbox

_WAYS = ("answer", "pattern", "check")
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SECONDS = 10.0
_PROGRAM = """\
import json, os
with open("given.json", encoding="utf-8") as file:
    given = json.load(file)
os.remove("given.json")
end = given.pop("end")
exec(compile(given.pop("check"), "check", "exec"), given)
print(end)
"""


@frozen
class Question:
    """A question and the check of its answer.

    Attributes:
        messages: the prompt; the last message is the user's.
        way: `answer`, one of the texts in `wanted`; `pattern`, a regular expression found in the answer; `check`,
            Python that ends without an error, given `answer` and `code`: its first fenced block, or all of it.
        kind: the group it is counted in.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    way: str
    wanted: tuple[str, ...]
    kind: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a .jsonl file.

    Raises:
        InputError: it cannot be read, or some lines are not questions; lists all of them.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, todo="name a .jsonl file of questions") from None
    found: dict[str, Question] = {}
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = _question(json.loads(line), str(number))
            if one.id in found:
                raise ValueError(f"another question has the id {one.id}")
            found[one.id] = one
        except (ValueError, TypeError, SyntaxError, re.error) as error:
            wrong.append(f"line {number}: {error}")
    if wrong or not found:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        what = "\n  ".join(wrong[:5]) + more if wrong else "no question in it"
        todo = 'write a line such as {"prompt": "2 + 2?", "answer": "4"} for each; docs/eval.md tells the other keys'
        raise InputError(what, where=path, todo=todo)
    return list(found.values())


def _question(row: Any, number: str) -> Question:
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    if unknown := sorted(row.keys() - {"id", "prompt", "messages", "kind", *_WAYS}):
        raise ValueError(f"unknown key {unknown[0]}")
    ways = [way for way in _WAYS if way in row]
    if len(ways) != 1:
        raise ValueError(f"needs one of {', '.join(_WAYS)}; has {' and '.join(ways) or 'none'}")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError("needs one of prompt and messages")
    messages = row.get("messages", [{"role": "user", "content": row.get("prompt")}])
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise TypeError("prompt is a text, or messages a list of {role, content}")
    if messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's")
    [way], wanted = ways, row[ways[0]]
    texts = wanted if isinstance(wanted, list) and way == "answer" else [wanted]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TypeError(f"{way} is a text that is not empty" + (", or a list of them" if way == "answer" else ""))
    if way == "pattern":
        re.compile(wanted)
    if way == "check":
        compile(wanted, "check", "exec")
    names = {key: row.get(key, default) for key, default in (("id", number), ("kind", way))}
    if not all(isinstance(name, str | int) for name in names.values()):
        raise TypeError("id and kind are texts")
    return Question(str(names["id"]), tuple(messages), way, tuple(texts), str(names["kind"]))


def _is_message(one: Any) -> bool:
    roles = ("system", "user", "assistant")
    return (
        isinstance(one, dict) and one.keys() == {"role", "content"} and one["role"] in roles
        and isinstance(one["content"], str)
    )  # fmt: skip


def checked(question: Question, answer: str, box: Sandbox) -> Verdict:
    """Check an answer: `resolved`, else `invalid` with the reason.

    Patterns and checks run in a process of their own in the sandbox, for at most 10 seconds. A check passes if it
    runs to its end; malicious code in an answer that it runs could forge that.
    """
    if question.way == "answer":
        same = answer.strip() in {text.strip() for text in question.wanted}
        return Verdict("resolved") if same else Verdict("invalid", "is another answer", _short(answer))
    [wanted] = question.wanted
    program = f"import re\nassert re.search({wanted!r}, answer)" if question.way == "pattern" else wanted
    block = _BLOCK.search(answer)
    end = secrets.token_hex(16)
    given = {"answer": answer, "code": block[1] if block else answer, "check": program, "end": end}
    try:
        box.write({"given.json": json.dumps(given), "program.py": _PROGRAM})
        done = box.run([sys.executable, "program.py"], _SECONDS)
    finally:
        box.restore()
    if done.killed is not None:
        return Verdict("invalid", f"exceeds its {done.killed}")
    if done.returncode == 0 and done.output.rstrip().endswith(end):
        return Verdict("resolved")
    if question.way == "pattern":
        return Verdict("invalid", "does not match", _short(answer))
    last = done.output.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    return Verdict("invalid", "the check fails", _short(last))


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
