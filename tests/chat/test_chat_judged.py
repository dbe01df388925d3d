"""Rows that judge answers: each side has the mask of its conversation, prompts are cut alike, bad rows are told."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from chat_help import CHATML, TOOLS, answer, inference, system, talk, templates, tokenizer_for, user
from datasets import Dataset

from loraplug import Conversation, InputError, Run, preference
from loraplug.data.preferences import labelled
from loraplug_chat.formatter import ChatTemplate
from loraplug_chat.text import Text

TEMPLATES = ("qwen3", "llama3", "deepseekv3")
CALLED = [user("search it"), answer("", tool_calls=[{"type": "function", "id": "abc123def",
          "function": {"name": "search", "arguments": {"query": "sky"}}}])]  # fmt: skip
RESULT = {"role": "tool", "name": "search", "tool_call_id": "abc123def", "content": "found: 3"}
PAIRS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "What?", "chosen": "This.", "rejected": "That, or this."},
    "messages": {"prompt": [system(), user()], "chosen": [answer("a b")], "rejected": [answer("c")]},
    "implicit": {"chosen": [user(), answer("a"), user("b"), answer("c")],
                 "rejected": [user(), answer("a"), user("b"), answer("d e")]},
    "several turns": {"prompt": "q", "chosen": [answer("a"), user("so?"), answer("b")], "rejected": [answer("c")]},
    "tools": {"prompt": [*CALLED, RESULT], "chosen": [answer("There are 3.")], "rejected": [answer("None.")],
              "tools": TOOLS},
    "calls": {"prompt": CALLED[:1], "chosen": [*CALLED[1:], RESULT, answer("3")], "rejected": [answer("No.")],
              "tools": TOOLS},
}  # fmt: skip


def as_rows(*rows: dict[str, Any]) -> Dataset:
    """Rows with `Json` columns, as the sources yield them."""
    from datasets import Features, Json, Value

    names = {name for row in rows for name in row}
    plain = {name for name in names if all(isinstance(row.get(name), (str, bool, type(None))) for row in rows)}
    kinds = {name: Value("bool" if name == "label" else "string") if name in plain else Json() for name in names}
    filled = [{name: row.get(name) for name in names} for row in rows]
    return Dataset.from_list(filled, features=Features(kinds))


def trained(tokenizer: Any, messages: Conversation, run: Run) -> dict[str, Any]:
    """Ids and labels that the way for `sft` gives a conversation."""
    row = {"messages": messages.messages} | ({"tools": messages.tools} if messages.tools else {})
    made: dict[str, Any] = ChatTemplate(packing=False).encode(as_rows(row), tokenizer, run).dataset[0]
    return made


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("pair", PAIRS)
def test_each_side_is_masked_as_its_conversation(template: str, pair: str, run: Run) -> None:
    """Prompt and side together are the very ids and labels that `sft` trains on."""
    tokenizer = tokenizer_for(templates()[template])
    row = PAIRS[pair]
    try:
        wanted = [trained(tokenizer, side, run) for side in (preference(row, 0).chosen, preference(row, 0).rejected)]
    except InputError as error:
        pytest.skip(f"the template takes no such conversation: {error.what[:80]}")
    (made,) = ChatTemplate().encode(as_rows(row), tokenizer, run, "pairs").dataset
    prompt = made["prompt_ids"]
    for side, one in zip(("chosen", "rejected"), wanted, strict=True):
        assert prompt + made[f"{side}_ids"] == one["input_ids"]
        assert [-100] * len(prompt) + made[f"{side}_labels"] == one["labels"]
    assert made["row"] == ["row 0"]
    if pair in ("text", "messages", "tools") and template != "deepseekv3":  # which prompts otherwise than it writes
        assert prompt == inference(tokenizer, Conversation("x", preference(row, 0).chosen.messages[:-1],
                                                           row.get("tools")), prompt=True)  # fmt: skip


def test_a_labelled_row_is_masked_as_its_conversation(chatml: Any, run: Run) -> None:
    """Completion and label beside the prompt."""
    rows = [{"prompt": "q", "completion": "a b c", "label": True}, {"prompt": "q", "completion": "d", "label": False}]
    made = ChatTemplate().encode(as_rows(*rows), chatml, run, "labelled").dataset
    assert "2 of 2 rows" in run.reporter.lines[-1]  # type: ignore[attr-defined]
    assert made["label"][:] == [True, False]
    for row, one in zip(rows, made, strict=True):
        wanted = trained(chatml, labelled(row, 0).talk, run)
        assert one["prompt_ids"] + one["completion_ids"] == wanted["input_ids"]
        assert [-100] * len(one["prompt_ids"]) + one["completion_labels"] == wanted["labels"]


LONG = [system("S"), *(m for n in range(6) for m in (user(f"question {n}"), answer(f"answer {n}"))), user("last")]


def test_a_long_prompt_is_cut_alike_on_both_sides(chatml: Any, run: Run) -> None:
    """The oldest turns of the prompt go, as many as the longer side needs; answers stay whole."""
    row = {"prompt": LONG, "chosen": [answer("short")], "rejected": [answer("long " * 10)]}
    (made,) = ChatTemplate(max_length=120).encode(as_rows(row), chatml, run, "pairs").dataset
    (whole,) = ChatTemplate().encode(as_rows(row), chatml, run, "pairs").dataset
    for side in ("chosen", "rejected"):
        assert made[f"{side}_ids"] == whole[f"{side}_ids"]
        assert len(made["prompt_ids"]) + len(made[f"{side}_ids"]) <= 120
    kept = next(n for n in range(7) if made["prompt_ids"] == inference(
        chatml, Conversation("x", [*LONG[:2], *LONG[1 + 2 * n:]] if n else LONG), prompt=True))  # fmt: skip
    assert 0 < kept < 6
    assert "turns removed" in " ".join(run.reporter.warnings)  # type: ignore[attr-defined]


def test_the_other_ways_with_long_rows(chatml: Any, run: Run) -> None:
    """Dropped, cut behind, or an error that names the row."""
    long = {"id": "long", "prompt": "q", "chosen": "a " * 100, "rejected": "b"}
    short = {"id": "short", "prompt": "q", "chosen": "a", "rejected": "b"}
    rows = as_rows(long, short, short, short)
    made = ChatTemplate(max_length=60, overlong="drop").encode(rows, chatml, run, "pairs").dataset
    assert made["row"][:] == [["short"]] * 3
    made = ChatTemplate(max_length=60, overlong="truncate-right").encode(rows, chatml, run, "pairs").dataset
    assert len(made[0]["prompt_ids"]) + len(made[0]["chosen_ids"]) == 60
    assert made[0]["rejected_ids"] == made[1]["rejected_ids"]
    with pytest.raises(InputError, match=r"(?s)long: has more than 60 tokens.*next: raise max_length"):
        ChatTemplate(max_length=60, overlong="error").encode(rows, chatml, run, "pairs")
    with pytest.raises(InputError, match="1 of 1 rows cannot be used: 1 row: more than 60 tokens, even reduced"):
        ChatTemplate(max_length=60).encode(as_rows(long), chatml, run, "pairs")


def test_bad_pairs_are_counted_with_their_reasons(chatml: Any, run: Run) -> None:
    """Each by its id, all in one go; too many stop the run."""
    good = [{"id": f"good {n}", "prompt": "q", "chosen": "a", "rejected": "b"} for n in range(8)]
    bad = [
        {"id": "same", "prompt": "q", "chosen": "a", "rejected": "a"},
        {"id": "apart", "chosen": [user("a"), answer("b")], "rejected": [user("c"), answer("d")]},
        {"id": "half", "prompt": "q", "chosen": "a"},
    ]
    assert len(ChatTemplate().encode(as_rows(*good, *bad), chatml, run, "pairs").dataset) == 8
    told = " ".join(run.reporter.warnings)  # type: ignore[attr-defined]
    for words in ("are the same (same", "differ: message 0 of chosen is from the user (apart", "missing (half"):
        assert words in told
    with pytest.raises(InputError, match="3 of 4 rows cannot be used"):
        ChatTemplate().encode(as_rows(good[0], *bad), chatml, run, "pairs")


def test_sides_that_a_template_writes_alike_are_refused(run: Run) -> None:
    """A template that takes off the spaces in which answers differ."""
    tokenizer = tokenizer_for(CHATML.replace("message['content'] +", "message['content'] | trim +"))
    rows = as_rows({"prompt": "q", "chosen": "a", "rejected": "a "}, *[PAIRS["text"]] * 4)
    assert len(ChatTemplate().encode(rows, tokenizer, run, "pairs").dataset) == 4
    assert "the same tokens (row 0" in " ".join(run.reporter.warnings)  # type: ignore[attr-defined]


def test_a_prompt_that_a_template_writes_otherwise_is_refused(run: Run) -> None:
    """One that tells in its first line how many messages follow."""
    tokenizer = tokenizer_for("{{ '<|im_start|>' ~ (messages | length) ~ '\n' }}" + CHATML)
    rows = as_rows({"prompt": "q", "chosen": [answer("a"), user("b"), answer("c")], "rejected": [answer("d")]})
    with pytest.raises(InputError, match=r"cannot be proved|renders the prompts of chosen and rejected differently"):
        ChatTemplate().encode(rows, tokenizer, run, "pairs")


def test_rows_of_another_kind_are_told_by_their_columns(chatml: Any, run: Run) -> None:
    """Before anything is encoded, and by the formatter that makes none."""
    with pytest.raises(InputError, match="no preference rows: chosen and rejected missing"):
        ChatTemplate().recognise(["messages"], "pairs")
    with pytest.raises(InputError, match="no labelled rows"):
        ChatTemplate().encode(as_rows(PAIRS["text"]), chatml, run, "labelled")
    with pytest.raises(InputError, match="text cannot encode rows for a trainer that takes rollouts"):
        Text().lines("rollouts", ["prompt"], chatml)


def test_plain_text_is_judged_without_a_template(chatml: Any, run: Run) -> None:
    """Prompt and answer are the ids and labels of the same text with a completion; the prompt is that of both sides."""
    bare = deepcopy(chatml)
    bare.chat_template = None
    prompt = "What? "
    rows = [{"prompt": prompt, "chosen": "This.", "rejected": "That, or this."}]
    (made,) = Text().encode(as_rows(*rows), bare, run, "pairs").dataset
    for side in ("chosen", "rejected"):
        row = {"prompt": prompt, "completion": rows[0][side]}
        (whole,) = Text(packing=False).encode(as_rows(row), bare, run).dataset
        assert made["prompt_ids"] + made[f"{side}_ids"] == whole["input_ids"]
        assert [-100] * len(made["prompt_ids"]) + made[f"{side}_labels"] == whole["labels"]
        assert made[f"{side}_labels"] == made[f"{side}_ids"]
    assert bare.decode(made["prompt_ids"]) == prompt
    given = {"prompt": prompt, "completion": "This.", "label": False}
    (one,) = Text().encode(as_rows(given), bare, run, "labelled").dataset
    assert (one["prompt_ids"], one["completion_ids"]) == (made["prompt_ids"], made["chosen_ids"])
    assert one["label"] is False


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [user()], "chosen": "a", "rejected": "b"}, "prompt and answers are not all text"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "system": "Be kind."}, "has system, for which plain text"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q " * 90, "chosen": "a", "rejected": "b"}, "more than 60 tokens, and a prompt is never cut"),
    ],
)
def test_text_that_cannot_be_judged_is_left_out_with_the_reason(
    chatml: Any, run: Run, row: dict[str, Any], reason: str
) -> None:
    """Whatever the policy on longer rows."""
    good = {"prompt": "q", "chosen": "a b", "rejected": "c"}
    formatter = Text(max_length=60, max_dropped=0.9, overlong="truncate-right")
    report = formatter.encode(as_rows(good, row), chatml, run, "pairs").report
    assert [found for found in report["lost"] if reason in found], report["lost"]
    assert report["kept"] == 1


def test_longer_answers_of_text_are_cut_as_the_policy_says(chatml: Any, run: Run) -> None:
    """At their end, left out, or the run stops."""
    rows = as_rows(
        {"prompt": "q ", "chosen": "a " * 90, "rejected": "b"}, {"prompt": "q ", "chosen": "a", "rejected": "b"}
    )
    cut = Text(max_length=60, overlong="truncate-right").encode(rows, chatml, run, "pairs")
    assert len(cut.dataset[0]["prompt_ids"]) + len(cut.dataset[0]["chosen_ids"]) == 60
    assert (cut.report["kept"], cut.report["truncated"]) == (2, 1)
    left = Text(max_length=60, max_dropped=0.9).encode(rows, chatml, run, "pairs")
    assert left.dataset["row"][:] == [["row 1"]]
    with pytest.raises(InputError, match="more than max_length = 60"):
        Text(max_length=60, overlong="error").encode(rows, chatml, run, "pairs")


def test_a_worker_makes_the_same_rows(chatml: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, whose file is joined."""
    from loraplug_chat import workers

    rows = as_rows(*[PAIRS["text"], PAIRS["several turns"]] * 3)
    one = ChatTemplate(max_dropped=0.2).encode(rows, chatml, run, "pairs").dataset
    monkeypatch.setattr(workers, "count", lambda rows, workers: 2)
    two = ChatTemplate(max_dropped=0.21).encode(rows, chatml, run, "pairs").dataset
    assert one[:] == two[:]
    assert talk("one turn").messages  # the helper's own talks stay as they are
