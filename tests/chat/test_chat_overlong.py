"""Rows longer than `max_length`: what is cut, in which order, and that no answer is trained without its question."""

from __future__ import annotations

import json
import re
import time
from functools import cache
from typing import Any

import pytest
from chat_help import CHATML, TOOLS, answer, inference, system, templates, tokenizer_for, user
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraplug import Conversation, InputError, Run
from loraplug_chat import overlong
from loraplug_chat.encoder import MaskEncoder
from loraplug_chat.exchanges import Exchanges
from loraplug_chat.formatter import ChatTemplate
from loraplug_chat.mask import Masker
from loraplug_chat.outputs import MARKER, cut_outputs, is_cuttable, shorten
from loraplug_chat.text import Text

MARK = re.compile(r"\[… ([\d,]+) characters left out …\]")


def call(name: str = "search", **more: Any) -> dict[str, Any]:
    """An assistant turn that calls a tool."""
    function = {"name": name, "arguments": {"query": "it"}}
    return answer(
        "", tool_calls=[{"type": "function", "id": more.pop("id", "abc123def"), "function": function}], **more
    )


def output(text: str, **more: Any) -> dict[str, Any]:
    """What a tool answers."""
    return {"role": "tool", "content": text, **more}


def rows_of(*conversations: list[dict[str, Any]], tools: Any = None) -> Dataset:
    """Messages rows, as JSON."""
    return Dataset.from_list([{"messages": json.dumps(m), "tools": json.dumps(tools or [])} for m in conversations])


def texts(tokenizer: Any, encoded: Dataset) -> list[str]:
    """The text of each row."""
    return [tokenizer.decode(row["input_ids"]) for row in encoded]


def trained(tokenizer: Any, row: dict[str, Any]) -> str:
    """The trained text of a row."""
    return tokenizer.decode([label for label in row["labels"] if label >= 0])


@cache
def encoder(name: str = "", train_on: Any = "assistant") -> MaskEncoder:
    """An encoder for one of trl's templates, or for ChatML."""
    return MaskEncoder(Masker.of(tokenizer_for(templates()[name] if name else CHATML)), train_on)


def cut(messages: list[dict[str, Any]], limit: int, policy: Any = "truncate-left", **how: Any) -> overlong.Fitted:
    """A conversation, shortened."""
    talk, encode = Conversation("row", messages), encoder(**how)
    return overlong.shortened(encode(talk), talk, encode, limit, policy)


# outputs


@given(st.text(max_size=300), st.integers(0, 200))
def test_a_shortened_text_is_its_two_ends_around_a_marker_that_counts_the_rest(text: str, most: int) -> None:
    """Beginning and end are the text's own, the marker names exactly what lies between, and it never gets longer."""
    made, gone = shorten(text, most)
    if not gone:
        assert made == text
        return
    head, tail = made.split(MARKER.format(gone))
    head, tail = (part if part in ("", "\n") or part in text else part.strip("\n") for part in (head, tail))
    assert text.startswith(head.removesuffix("\n"))
    assert text.endswith(tail.removeprefix("\n"))
    assert len(made) < len(text)
    assert len(head) + len(tail) <= most + 2


def test_outputs_are_cut_at_ends_of_lines() -> None:
    """No line of a listing is broken."""
    lines = [f"file_{number}.py" for number in range(200)]
    made, gone = shorten("\n".join(lines), 300)
    kept = made.split("\n")
    assert kept[kept.index(MARKER.format(gone)) + 1 :] == lines[-len(kept) + kept.index(MARKER.format(gone)) + 1 :]
    assert set(kept) - {MARKER.format(gone)} <= set(lines)


@pytest.mark.parametrize(
    ("message", "may"),
    [
        (output("x"), True),
        (output("x", cuttable=False), False),
        (output("x", cuttable=None), True),
        ({"role": "ipython", "content": "x"}, True),
        (user("x"), False),
        ({**user("x"), "cuttable": True}, True),
        ({**user("x"), "cuttable": "true"}, False),
        (answer("x", cuttable=True), False),
        ({**system("x"), "cuttable": True}, False),
    ],
)
def test_what_may_be_cut(message: dict[str, Any], may: bool) -> None:
    """Tools' outputs and what a source marks; never an answer or a system turn."""
    assert is_cuttable(message) is may


def test_text_parts_of_an_output_are_cut_one_by_one() -> None:
    """Content as parts keeps its form."""
    parts = [{"type": "text", "text": "a" * 500}, {"type": "image"}, {"type": "text", "text": "b"}]
    made = cut_outputs([output(parts)], 100)  # type: ignore[arg-type]
    content = made.messages[0]["content"]
    assert [part["type"] for part in content] == ["text", "image", "text"]
    assert content[2] == parts[2]
    assert MARK.search(content[0]["text"])
    assert (made.outputs, made.characters) == (1, 400)


def test_the_mark_of_a_cuttable_turn_is_never_rendered() -> None:
    """Not even by a template that writes every key it gets."""
    every = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% for key in m %}{{ key }}: {{ m[key] }} {% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = tokenizer_for(every)
    marked = {**user("q"), "cuttable": True}
    ids = [Masker.of(tokenizer).encode(Conversation("x", [m, answer("a")]), "all").ids for m in (marked, user("q"))]
    assert ids[0] == ids[1]
    assert "content: q" in tokenizer.decode(ids[0])


# which turns stay


def roles(messages: list[dict[str, Any]], limit_start: int) -> list[int]:
    """Numbers of messages kept from a start on."""
    parts = Exchanges.of(messages, [at for at, m in enumerate(messages) if m["role"] == "assistant"])
    return parts.kept(parts.starts[limit_start], len(messages), False)


def test_the_question_of_an_exchange_in_the_middle_stays() -> None:
    """Inside a later exchange the first question, and its own, are kept; calls leave with their results."""
    messages = [
        system(), user("issue"), call(), output("1"), answer("a"), user("second"), call(), output("2"), call(),
        output("3"), answer("b"),
    ]  # fmt: skip
    parts = Exchanges.of(messages, [2, 4, 6, 8, 10])
    kept = [parts.kept(start, len(messages), False) for start in parts.starts]
    assert kept == [
        list(range(11)),
        [0, 1, *range(4, 11)],
        [0, 1, *range(5, 11)],
        [0, 1, 5, *range(8, 11)],
    ]
    assert [m.get("weight") for m in parts.of_kept(kept[3])] == [None, None, None, 0, None, None]


def test_no_result_without_its_call_however_they_lie() -> None:
    """Results that come late, after another question, hold their call."""
    messages = [
        user("a"), answer("b"), user("c"), call(id="one"), user("hurry"), output("x", tool_call_id="one"), answer("d"),
    ]  # fmt: skip
    parts = Exchanges.of(messages, [1, 3, 6])
    assert [start.at for start in parts.starts] == [0, 2]


def test_a_row_that_begins_with_an_answer() -> None:
    """A greeting before the first question leaves like other turns."""
    messages = [system(), answer("Welcome"), user("q"), answer("a"), user("r"), answer("b")]
    parts = Exchanges.of(messages, [1, 3, 5])
    assert [parts.kept(start, 6, False) for start in parts.starts] == [
        list(range(6)), [0, 2, 3, 4, 5], [0, 2, 4, 5],
    ]  # fmt: skip


# the default


def test_first_the_middles_of_outputs_go() -> None:
    """While that is enough, no turn and no answer is lost; the longest output loses most."""
    long, short = "line of output\n" * 300, "brief\n" * 20
    messages = [system(), user("issue"), answer("one"), output(long), answer("two"), output(short), answer("three")]
    made = cut(messages, 1500)
    [row] = made.rows
    assert 1300 < len(row.ids) <= 1500
    assert len(row.turns) == 3
    assert made.counts == {"truncated": 1, "cut_outputs": 1, "cut_characters": made.counts["cut_characters"]}
    text = encoder().masker.tokens.tokenizer.decode(row.ids)
    assert short in text
    [mark] = MARK.findall(text)
    assert int(mark.replace(",", "")) == made.counts["cut_characters"]


def test_then_the_oldest_answers_leave_with_their_turns() -> None:
    """System turn and issue stay; the answer whose turn before is gone stays as context, not trained."""
    messages = [system("S"), user("the issue")]
    for number in range(30):
        messages += [answer(f"command {number} " * 5), output(f"result {number} " * 5)]
    messages += [answer("finished")]
    made = cut(messages, 600)
    [row] = made.rows
    assert made.talk is not None
    kept = made.talk.messages
    assert kept[:2] == messages[:2]
    assert kept[2]["role"] == "assistant" and kept[2]["weight"] == 0
    assert kept[3:] == messages[len(messages) - len(kept) + 3 :]
    assert made.counts["removed_turns"] == len(messages) - len(kept)
    assert made.counts["untrained_answers"] == 31 - len(row.turns)
    assert len(row.ids) > 500
    assert row.ids == encoder()(made.talk).ids


def test_what_stands_behind_the_last_trained_answer_goes_before_an_answer_does() -> None:
    """A last turn of the user teaches nothing."""
    messages = [user("q"), answer("first"), user("r"), answer("second"), user("thanks " * 100)]
    made = cut(messages, 100)
    assert len(made.rows[0].turns) == 2
    assert made.counts == {"truncated": 1, "removed_turns": 1}


def test_room_that_a_turn_leaves_is_given_back_to_outputs() -> None:
    """Where turns had to go, outputs are cut no more than needed."""
    messages = [user("issue")]
    for number in range(8):
        messages += [answer(f"look {number}" * 20), output(f"{number}" * 3000)]
    made = cut([*messages, answer("done")], 3000)
    assert len(made.rows[0].ids) > 2700
    assert made.counts["untrained_answers"]
    assert made.counts["cut_outputs"]


def test_an_output_is_cut_further_before_the_last_answer_is_lost() -> None:
    """A small `max_length` does not lose the row."""
    made = cut([user("q"), answer("look"), output("word " * 75), answer("done")], 150)
    assert made.counts["cut_outputs"] == 1
    assert len(made.rows[0].turns) == 2 - made.counts["untrained_answers"]


def test_a_row_whose_question_does_not_fit_is_left_out_and_told(chatml: Any, run: Run) -> None:
    """Neither a long question nor a long answer is cut, whatever the role of the question."""
    short = [user("a"), answer("b")]
    long = [[user("q " * 200), answer("b")], [user("a"), answer("b " * 200)], [system("s " * 200), *short]]
    rows = rows_of(*long, *[short] * 8)
    encoded = ChatTemplate(max_length=100).encode(rows, chatml, run).dataset
    assert encoded["row"][:] == [[f"row {number}"] for number in range(3, 11)]
    [told] = run.reporter.warnings  # type: ignore[attr-defined]
    assert told.startswith("left out 3 rows: more than 100 tokens, even reduced to the opening")
    assert "(row 0, row 1, row 2); raise max_length" in told


def test_strict_templates_keep_the_first_answer_between_two_questions() -> None:
    """A template that takes no question behind another gets the answer that closes the first exchange."""
    strict = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    encode = MaskEncoder(Masker.of(tokenizer_for(strict)), "assistant")
    messages = [m for n in range(12) for m in (user(f"question {n}"), answer(f"answer {n}"))]
    talk = Conversation("row", messages)
    made = overlong.shortened(encode(talk), talk, encode, 150, "truncate-left")
    assert made.talk is not None
    assert made.talk.messages == [*messages[:2], *messages[len(messages) - len(made.talk.messages) + 2 :]]
    assert 100 < len(made.rows[0].ids) <= 150


def test_text_that_looks_like_control_tokens_does_not_break_the_measure() -> None:
    """Such text has more tokens than its measure says; the proof decides."""
    messages = [m for n in range(12) for m in (user("<|im_end|>" * 20), answer(f"answer {n}"))]
    made = cut(messages, 1000)
    assert 0 < len(made.rows[0].ids) <= 1000


def test_last_answer_alone() -> None:
    """With `last-assistant` the newest answer and its question stay; nothing else is trained, also when cut behind."""
    messages = [m for n in range(9) for m in (user(f"question {n}"), answer(f"answer {n}"))]
    for policy in ("truncate-left", "truncate-right"):
        made = cut(messages, 120, policy, train_on="last-assistant")
        assert [turn[0] for turn in made.rows[0].turns] == ([len(made.talk.messages) - 1] if made.talk else [])
    assert not any(made.rows[0].trained)


def test_a_marker_is_never_trained() -> None:
    """Where every token is trained, an output that was cut is not."""
    messages = [user("q"), answer("look"), output("word " * 400), answer("done")]
    made = cut(messages, 400, train_on="all")
    [row] = made.rows
    tokenizer = encoder().masker.tokens.tokenizer
    assert MARK.search(tokenizer.decode(row.ids))
    assert "…" not in tokenizer.decode([n for n, on in zip(row.ids, row.trained, strict=True) if on])
    assert "word" not in tokenizer.decode([n for n, on in zip(row.ids, row.trained, strict=True) if on])


TURNS = st.one_of(
    st.builds(lambda n: [user(f"ask {n} ")], st.integers(1, 40)),
    st.builds(lambda n, w: [answer(f"say {n}. ", **({} if w else {"weight": 0}))], st.integers(1, 40), st.booleans()),
    st.builds(
        lambda n, size: [call(), output(f"out{n} " * size, name="search")], st.integers(0, 99), st.integers(1, 300)
    ),
    st.builds(lambda n: [answer(f"run {n}"), {**user(f"printed{n}\n" * n), "cuttable": True}], st.integers(1, 80)),
)


def numbered(turns: list[list[dict[str, Any]]], opening: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns as one conversation in which every text is found nowhere else."""
    messages = [dict(message) for message in [*opening, *(m for turn in turns for m in turn)]]
    for number, message in enumerate(messages):
        message["content"] = f"t{number:03d}t {message['content']}"
    return messages


def question_of(messages: list[dict[str, Any]], number: int) -> int:
    """The last message before an answer that is neither an answer nor an output."""
    return max(
        at for at in range(number) if messages[at]["role"] in ("user", "system") and not is_cuttable(messages[at])
    )


@pytest.mark.parametrize("name", ["", "qwen3", "llama3"])
@pytest.mark.parametrize("policy", ["truncate-left", "truncate-right"])
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_answer_is_trained_without_its_question(name: str, policy: str, data: Any) -> None:
    """Of drawn conversations and limits: never too long; before each trained answer stands the turn that stood there;
    system and first user turn stay; every marker tells what is gone; the mask is the normal encoder's.
    """
    opening = [*([system("be kind")] if data.draw(st.booleans()) else []), user("the issue")]
    messages = numbered(data.draw(st.lists(TURNS, min_size=1, max_size=14)), opening)
    limit = data.draw(st.integers(40, 900))
    encode, talk = encoder(name), Conversation("row", messages, TOOLS)
    try:
        whole = encode(talk)
    except InputError:
        return
    if len(whole.ids) <= limit:
        return
    made = overlong.shortened(whole, talk, encode, limit, policy)
    if not made.rows:
        assert made.reason
        return
    [row] = made.rows
    assert 0 < len(row.ids) <= limit
    tokenizer = encode.masker.tokens.tokenizer
    text = tokenizer.decode(row.ids)
    if policy == "truncate-right":
        assert row.ids == whole.ids[:limit] or name == "qwen3"
    found = [int(number) for number in re.findall(r"t(\d{3})t", text)]
    assert found == sorted(found)
    said = [
        int(number)
        for _, first, end in row.turns
        for number in re.findall(r"t(\d{3})t", tokenizer.decode(row.ids[first:end]))
    ]
    for number in said:
        assert messages[number]["role"] == "assistant"
        assert messages[number].get("weight", 1) != 0
        assert number - 1 in found
        assert policy == "truncate-right" or question_of(messages, number) in found
    if said:
        assert set(range(len(opening))) <= set(found)
    for number in found:
        if messages[number]["role"] == "tool" and policy == "truncate-left":
            assert number - 1 in found
    if made.talk is not None:
        again = encode(made.talk)
        assert (again.ids, again.trained) == (row.ids, row.trained)
        marks = sum(int(n.replace(",", "")) for n in MARK.findall(text))
        assert marks == made.counts["cut_characters"]


def test_ten_thousand_messages_take_seconds(chatml: Any, run: Run) -> None:
    """Neither measuring nor proving goes through a huge row once for each turn."""
    messages = [system(), user("issue")]
    for number in range(5000):
        messages += [answer(f"command {number}"), output(f"result {number}\n" * 10)]
    begun = time.perf_counter()
    for policy in ("truncate-left", "truncate-right", "drop"):
        rows = rows_of([*messages, answer("done")], [user("a"), answer("b")])
        encoded = ChatTemplate(max_length=2000, overlong=policy, max_dropped=0.5).encode(rows, chatml, run).dataset
        assert max(map(len, encoded["input_ids"])) <= 2000
    assert time.perf_counter() - begun < 60


# other values


def test_truncate_right_ends_in_the_middle_of_an_answer(chatml: Any, run: Run) -> None:
    """What is left of an answer is trained, without an end-of-turn, and that is told."""
    messages = [user("q"), answer("one"), user("r"), answer("two " * 100)]
    encoded = ChatTemplate(max_length=60, overlong="truncate-right").encode(rows_of(messages), chatml, run).dataset
    assert encoded[0]["input_ids"] == inference(chatml, Conversation("x", messages))[:60]
    said = trained(chatml, encoded[0])
    assert said.startswith("one<|im_end|>two two")
    assert not said.endswith("<|im_end|>")
    [told] = run.reporter.warnings  # type: ignore[attr-defined]
    assert "shortened to max_length: 1 row (row 0): 1 answer cut at the end" in told


def test_truncate_right_counts_answers_that_are_gone(chatml: Any, run: Run) -> None:
    """Answers behind the limit are told."""
    messages = [m for n in range(9) for m in (user(f"question {n}"), answer(f"answer {n}"))]
    ChatTemplate(max_length=60, overlong="truncate-right").encode(rows_of(messages), chatml, run)
    assert re.search(r"[678] answers not trained", run.reporter.warnings[0])  # type: ignore[attr-defined]


def test_error_names_the_row_also_where_it_is_huge(chatml: Any, run: Run) -> None:
    """Before anything is proved of it."""
    messages = [m for n in range(200) for m in (user(f"question {n}"), answer(f"answer {n}"))]
    with pytest.raises(InputError, match=r"(?s)row 0: has more than 100 tokens.* next: raise max_length"):
        ChatTemplate(max_length=100, overlong="error").encode(rows_of(messages), chatml, run)


@pytest.mark.parametrize("table", list(overlong.TABLE))
def test_the_table_has_every_value(table: str) -> None:
    """The options take what the table tells of."""
    from attrs import fields

    from loraplug_chat.option_types import Policy, TextPolicy

    assert {*Policy.__args__} | {"auto", "split"} == {*TextPolicy.__args__} == {*overlong.TABLE}  # type: ignore[attr-defined]
    assert fields(ChatTemplate).overlong.default == "truncate-left"
    assert fields(Text).overlong.default == "auto"
    Text(overlong=table)  # type: ignore[arg-type]


# texts


@pytest.mark.parametrize("policy", ["auto", "split"])
@pytest.mark.parametrize("front", [False, True])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(["word ", "naïve ", "漢字", "😀", "x" * 30, "\n\n"]), min_size=1, max_size=200),
       limit=st.integers(8, 90))  # fmt: skip
def test_split_texts_lose_nothing(
    tmp_path_factory: Any, policy: Any, front: bool, words: list[str], limit: int
) -> None:
    """The pieces behind their beginning tokens are the ids of the document, in order; each has at most `max_length`."""
    from loraplug import Reporter

    folder = tmp_path_factory.mktemp("split")
    run = Run("test", outputs=folder / "outputs", cache=folder / "cache", reporter=Reporter())
    tokenizer = with_front() if front else tokenizer_for()
    text = "".join(words)
    rows = Dataset.from_list([{"text": text, "id": "doc"}])
    encoded = Text(max_length=limit, overlong=policy).encode(rows, tokenizer, run).dataset
    whole = tokenizer(text)["input_ids"]
    begins = [tokenizer.bos_token_id] if front else []
    assert whole[: len(begins)] == begins
    made = encoded["input_ids"][:]
    assert all(len(ids) <= limit and ids[: len(begins)] == begins for ids in made)
    assert [n for ids in made for n in ids[len(begins) :]] == [*whole[len(begins) :], tokenizer.eos_token_id]
    assert all(row["labels"][1:] == row["input_ids"][1:] for row in encoded)
    assert max(map(len, made)) - min(map(len, made)) <= 1
    if len(made) > 1:
        assert encoded["row"][:] == [[f"doc (part {n} of {len(made)})"] for n in range(1, len(made) + 1)]
        told = f"1 long text split into {len(made)} rows (doc)"
        assert told in run.reporter.lines[-1]  # type: ignore[attr-defined]
    assert "encoded 1 of 1 rows" in run.reporter.lines[-1]  # type: ignore[attr-defined]
    assert not run.reporter.warnings  # type: ignore[attr-defined]


@cache
def with_front() -> Any:
    """A tokenizer that puts its beginning-of-sequence token in front of every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_for()
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokenizer


def test_texts_cut_at_one_end_are_told(chatml: Any, run: Run) -> None:
    """What was asked for is done, and how much it threw away is said; the token that opens a text stays."""
    rows, tokenizer = Dataset.from_list([{"text": "some words " * 100}]), with_front()
    whole = [*tokenizer("some words " * 100)["input_ids"], tokenizer.eos_token_id]
    left = Text(max_length=50, overlong="truncate-left").encode(rows, tokenizer, run).dataset[0]["input_ids"]
    assert left == [whole[0], *whole[-49:]]
    right = Text(max_length=50, overlong="truncate-right").encode(rows, tokenizer, run).dataset[0]["input_ids"]
    assert right == whole[:50]
    # type: ignore[attr-defined]
    assert all(f"{len(whole) - 50:,} tokens cut off" in told for told in run.reporter.warnings)
    assert len(run.reporter.warnings) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", ["auto", "split", "truncate-left"])
def test_a_prompt_is_never_cut(chatml: Any, run: Run, policy: Any) -> None:
    """A prompt with its completion is kept whole or left out."""
    short = {"prompt": "ask", "completion": " answer"}
    long = [{"prompt": "ask " * 100, "completion": "answer"}, {"prompt": "ask", "completion": " answer" * 100}]
    encoded = Text(max_length=60, overlong=policy).encode(Dataset.from_list([*long, *[short] * 8]), chatml, run).dataset
    assert encoded["row"][:] == [[f"row {n}"] for n in range(2, 10)]
    told = run.reporter.warnings  # type: ignore[attr-defined]
    assert told[0].startswith("left out 2 rows: more than 60 tokens, and prompts are never cut (row 0, row 1)")


def test_a_completion_may_be_cut_at_its_end(chatml: Any, run: Run) -> None:
    """With `truncate-right` the prompt stays; where no completion is left, the row is left out."""
    short = {"prompt": "ask", "completion": " answer"}
    rows = [{"prompt": "ask", "completion": " answer" * 100}, {"prompt": "ask " * 100, "completion": "answer"}, short]
    formatter = Text(max_length=60, overlong="truncate-right", max_dropped=0.5)
    encoded = formatter.encode(Dataset.from_list(rows), chatml, run).dataset
    assert len(encoded[0]["input_ids"]) == 60
    assert encoded["row"][:] == [["row 0"], ["row 2"]]
    assert texts(chatml, encoded)[0].startswith("ask answer answer")
    # type: ignore[attr-defined]
    assert any("left out 1 row: no trained tokens are left (row 1" in told for told in run.reporter.warnings)


def test_conversations_are_not_split(chatml: Any, run: Run) -> None:
    """Refused before any work, with what to set; `auto` cuts them as `truncate-left` does."""
    messages = [m for n in range(9) for m in (user(f"question {n}"), answer(f"answer {n}"))]
    with pytest.raises(InputError, match="conversations cannot be split"):
        Text(overlong="split").recognise(["messages"])
    with pytest.raises(InputError, match="conversations cannot be split"):
        Text(overlong="split").encode(rows_of(messages), chatml, run)
    encoded = Text(max_length=100).encode(rows_of(messages), chatml, run).dataset
    assert texts(chatml, encoded)[0].startswith("<|im_start|>user\nquestion 0<|im_end|>")
    assert texts(chatml, encoded)[0].endswith("answer 8<|im_end|>\n")


def test_packs_take_the_pieces(chatml: Any, run: Run) -> None:
    """Pieces are packed like other rows."""
    rows = Dataset.from_list([{"text": "some words " * 40}, {"text": "short"}])
    encoded = Text(max_length=64, packing=True).encode(rows, chatml, run).dataset
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) <= 64 for row in encoded)
    whole = [*chatml("some words " * 40)["input_ids"], chatml.eos_token_id]
    assert sum(len(row["input_ids"]) for row in encoded) == len(whole) + len(chatml("short")["input_ids"]) + 1
