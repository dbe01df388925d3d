"""Conversations in the form a chat template takes: tool calls, null, parts, roles, and keys that nothing reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_help import CHATML, TOOLS, answer, inference, said, templates, tokenizer_for, user
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from loraplug import Conversation, InputError, Run, conversation
from loraplug_chat.formatter import ChatTemplate
from loraplug_chat.forms import Forms
from loraplug_chat.mask import Masker
from loraplug_chat.template import Template, TemplateInput

ARGUMENTS = {"query": 'rain "in" Oslo', "days": 3, "near": True, "units": {"t": "C"}, "list": [1.5, "é"]}
NO_CALLS = {
    "chatml", "cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next", "phi3", "phi3_5",
    "qwen2_5_vl", "smolvlm",
}  # fmt: skip
ALL = {**templates(), "chatml": CHATML}


def template(name: str) -> Template:
    """One of trl's chat templates."""
    return Template(ALL[name], {"bos_token": "<bos>", "eos_token": "<eos>"})


def written(source: Template, *messages: dict[str, Any], tools: Any = None) -> str:
    """The text of a messages row."""
    talk = Forms(source).fit(conversation({"messages": list(messages), "tools": tools}, "messages", 0))
    return source.whole(TemplateInput.of(talk))


def calling(arguments: Any, **message: Any) -> list[dict[str, Any]]:
    """A question, a call and its result."""
    call = {"id": "abc123def", "type": "function", "function": {"name": "search", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "abc123def", "content": "found"}
    return [user("find it"), {"role": "assistant", "tool_calls": [call], **message}, result, answer("There.")]


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_call_is_written_alike_whatever_form_it_came_in(name: str) -> None:
    """As table, JSON text or Python's text, with content null, empty or missing: one text, with every argument in it
    as JSON or as the template's own notation, never in quotes once more; or a refusal, where there are no calls.
    """
    source = template(name)
    rows = [calling(form, **more) for form in (ARGUMENTS, json.dumps(ARGUMENTS), repr(ARGUMENTS)) for more in NOTHING]
    if name.removesuffix("_training") in NO_CALLS:
        with pytest.raises(InputError, match="does not write tool calls"):
            written(source, *rows[0])
        return
    made = {written(source, *row, tools=TOOLS) for row in rows}
    assert len(made) == 1
    text = made.pop().rpartition("find it")[2].partition("found")[0]
    assert "search" in text
    assert all(word in text for word in ("query", "rain", "days", "3", "near", "units", "1.5", "é"))
    assert "None" not in text
    assert '\\"days\\"' not in text
    if '{"query"' in text:  # a template that writes JSON
        start = text.index('{"query"')
        assert json.JSONDecoder().raw_decode(text[start:])[0] == ARGUMENTS


NOTHING: list[dict[str, Any]] = [{"content": None}, {"content": ""}, {}]


@pytest.mark.parametrize(
    "name", ["qwen2_5", "qwen3", "llama3_1", "deepseekv3", "gptoss", "glm4moe", "deepseek_r1_distill"]
)
def test_ids_and_masks_of_calls_are_the_same_whatever_form(name: str, run: Run) -> None:
    """From the row to the labels, legacy forms too, and the call is trained."""
    legacy = calling(ARGUMENTS, content=None)
    call = legacy[1].pop("tool_calls")[0]["function"]
    legacy[1]["function_call"] = call | {"arguments": json.dumps(call["arguments"])}
    legacy[2] = {"role": "function", "name": "search", "content": "found"}
    rows = [{"messages": calling(form, content=None)} for form in (ARGUMENTS, json.dumps(ARGUMENTS))]
    made = [{"messages": json.dumps(row["messages"]), "tools": json.dumps(TOOLS), "functions": None} for row in rows]
    made += [{"messages": json.dumps(legacy), "tools": None, "functions": json.dumps([TOOLS[0]["function"]])}]
    tokenizer = tokenizer_for(ALL[name])
    encoded = ChatTemplate(packing=False).encode(Dataset.from_list(made), tokenizer, run).dataset
    assert len(encoded) == 3
    assert encoded[0]["input_ids"] == encoded[1]["input_ids"] == encoded[2]["input_ids"]
    assert encoded[0]["labels"] == encoded[1]["labels"] == encoded[2]["labels"]
    assert "search" in tokenizer.decode([label for label in encoded[0]["labels"] if label != -100])


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("{{ call | tojson }}", '{"id": "abc123def", "type": "function", "function": {"name": "search", "arguments": '),
        ("{{ call.function | tojson }}", '{"name": "search", "arguments": {"query"'),
        ("{{ call.function.name }}{{ call.function.arguments }}", 'search{"query"'),
        ("{{ call.function.name + call.function.arguments }}", 'search{"query"'),
        ("{{ call.name }}({{ call.arguments | tojson }})", 'search({"query"'),
        ("{{ call.name }}({{ call.arguments }})", 'search({"query"'),
        ("{% if call.function.arguments is not string %}{{ raise_exception('text!') }}{% endif %}"
         "{{ call.function.name }}{{ call.function.arguments }}", 'search{"query"'),
    ],
)  # fmt: skip
def test_the_form_of_calls_is_found_for_any_template(calls: str, expected: str) -> None:
    """Table or text, wrapped or bare: whichever comes out as JSON once."""
    body = "{% for call in message.tool_calls or [] %}" + calls + "{% endfor %}"
    source = Template(CHATML.replace("message['content'] +", "(message['content'] or '') }}" + body + "{{"), {})
    text = written(source, *calling(ARGUMENTS, content=None))
    assert expected in text
    assert json.dumps(ARGUMENTS, ensure_ascii=False) in text


def test_null_stays_null_where_the_template_tests_for_it() -> None:
    """And is the empty text where it would be written out."""
    told = "{% if m.content is none %}[calls]{% else %}[says {{ m.content }}]{% endif %}"
    calls = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    text = written(Template("{% for m in messages %}" + told + calls + "{% endfor %}", {}), *calling({}, content=None))
    assert "[calls]{" in text
    plain = "{% for m in messages %}<{{ m.content }}>" + calls + "{% endfor %}"
    text = written(Template(plain, {}), *calling({}, content=None))
    assert '<>{"name"' in text


def test_a_call_that_is_left_out_refuses_the_row() -> None:
    """DeepSeek's template writes no calls beside words; nor may several go where the template takes one."""
    tokenizer = tokenizer_for(ALL["deepseek_r1_distill"])
    forms, masker = Forms(Masker.of(tokenizer).template), Masker.of(tokenizer)
    talk = forms.fit(conversation({"messages": calling({}, content="I search.")}, "messages", 0))
    with pytest.raises(InputError, match="leaves out a call of search"):
        masker.encode(talk)


def test_a_template_that_writes_ids_needs_names_in_them() -> None:
    """As Kimi's: `functions.search:0` says what is called; any other id would leave the model without the name."""
    body = "{% for c in m.tool_calls or [] %}<call>{{ c.id }}<args>{{ c.function.arguments | tojson }}{% endfor %}"
    source = CHATML.replace("message['content'] + '<|im_end|>", "message['content'] }}" + body + "{{ '<|im_end|>")
    tokenizer = tokenizer_for(source.replace("for message in", "for m in").replace("message[", "m["))
    masker = Masker.of(tokenizer)
    rows = [calling({"q": 1}, content=None) for _ in range(2)]
    rows[0][1]["tool_calls"][0]["id"] = "functions.search:0"
    talks = [Forms(masker.template).fit(conversation({"messages": row}, "messages", 0)) for row in rows]
    assert '<call>functions.search:0<args>{"q": 1}<|im_end|>' in said(tokenizer, masker.encode(talks[0]))
    with pytest.raises(InputError, match="and the id does not contain that name"):
        masker.encode(talks[1])


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava_next", "qwen2_5_vl", "gemma3", "qwen3", "chatml"])
def test_parts_and_text_are_written_alike(name: str) -> None:
    """Text becomes a part where the template takes only parts; parts become text everywhere else."""
    source = template(name)
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]
    text = written(source, user("How are you?"), answer("Fine."))
    assert "How are you?" in text
    assert "Fine." in text
    assert written(source, user(parts), answer([{"type": "text", "text": "Fine."}])) == text


def test_a_role_the_template_lacks_is_one_it_has(run: Run) -> None:
    """`developer` is the system's, unless the template knows developers; each is told once."""
    made = Forms(template("gptoss")).fit(Conversation("x", [{"role": "developer", "content": "d"}, user(), answer()]))
    assert made.messages[0]["role"] == "developer"
    rows = [[{"role": "developer", "content": "d"}, {"role": "human", "content": "q"}, answer("a")]] * 3
    encoded = ChatTemplate(packing=False).encode(as_rows(rows), tokenizer_for(), run).dataset
    same = Conversation("x", [{"role": "system", "content": "d"}, user("q"), answer("a")])
    assert encoded[0]["input_ids"] == inference(tokenizer_for(), same)
    told = [line for line in run.reporter.lines if "roles recognised" in line]  # type: ignore[attr-defined]
    assert told == ['roles recognised: "developer" as system (3 rows), "human" as user (3 rows)']
    observing = CHATML.replace("{% for", "{% if messages[0].role == 'observation' %}!{% endif %}{% for", 1)
    forms = Forms(Template(observing, {}))
    assert forms.fit(Conversation("x", [user(), answer(), {"role": "tool", "content": "t"}])).messages[2]["role"] == (
        "observation"
    )
    asking = "{{ messages[0].function }}{% if 'function' in messages[0] %}!{% endif %}{% for"
    forms = Forms(Template(CHATML.replace("{% for", asking, 1), {}))
    assert (
        forms.fit(Conversation("x", [user(), answer(), {"role": "tool", "content": "t"}])).messages[2]["role"] == "tool"
    )


def as_rows(conversations: list[list[dict[str, Any]]], **columns: Any) -> Dataset:
    """Messages rows, written as JSON so that they may differ in keys."""
    return Dataset.from_list([{"messages": json.dumps(messages), **columns} for messages in conversations])


def test_columns_and_keys_that_nothing_reads_are_told_once(run: Run) -> None:
    """By name, with the number of rows; not what names or groups a row, nor what the template reads."""
    rows = [[user("a") | {"name": "Ann"}, answer("b", mood="good")], [user("a"), answer("b", reasoning_content="hm")]]
    data = as_rows(rows, id="x", group=["r"], source="web", split=None)
    ChatTemplate(packing=False).encode(data, tokenizer_for(), run)
    assert "columns that are not used: source (2 rows)" in run.reporter.lines  # type: ignore[attr-defined]
    keys = "mood (1 row), name (1 row), reasoning_content (1 row)"
    told = [line for line in run.reporter.warnings if "keys of messages" in line]  # type: ignore[attr-defined]
    assert told == [f"keys of messages that neither the formatter nor the chat template uses: {keys}"]
    ChatTemplate(packing=False).encode(data, tokenizer_for(), run)
    assert len([line for line in run.reporter.warnings if keys in line]) == 1  # type: ignore[attr-defined]


def test_a_key_that_is_read_of_one_role_alone_is_named_for_the_others(run: Run) -> None:
    """Whether a template reads a key is tried, role by role: that it has the name somewhere says little."""
    named = "{% if message.role == 'tool' %}{{ message.name }}{% endif %}{{ '<|im_start|>'"
    tokenizer = tokenizer_for(CHATML.replace("{{ '<|im_start|>'", named, 1))
    result = {"role": "tool", "name": "search", "content": "r"}
    rows = [
        [user("a") | {"name": "Ann"}, answer("b"), result, answer("c")],
        [user("a"), answer("b"), result, answer("c")],
    ]
    ChatTemplate(packing=False).encode(as_rows(rows), tokenizer, run)
    told = [line for line in run.reporter.warnings if "keys of messages" in line]  # type: ignore[attr-defined]
    assert [line.rpartition(": ")[2] for line in told] == ["name of user (1 row)"]


def test_schemas_a_template_does_not_write_are_told(run: Run) -> None:
    """A row's tools are no part of what is trained under such a template."""
    ChatTemplate(packing=False).encode(
        as_rows([[user("a"), answer("b")]], tools=json.dumps(TOOLS)), tokenizer_for(), run
    )
    assert "the row's tools (1 row)" in run.reporter.warnings[0]  # type: ignore[attr-defined]


READING = CHATML.replace("{{ '<|im_start|>'", "{{ message.name or '' }}{{ '<|im_start|>'", 1)
READS = "name"
KEYS = st.sampled_from(
    ["name", "id", "mood", "tool_call_id", "reasoning_content", "Content", "Role", "text", "train", "weight", "loss",
     "mask", "images", "refusal", "audio", "annotations", "function_call", "tool_calls", "cuttable", "meta", "Weight"]
) | st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("xyz ", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=2)
    ),
    max_leaves=3,
)
UNNAMED = {"role", "content", "from", "value", "cuttable"}
MASKS = {"train", "weight", "loss", "training", "loss_weight"}


def is_empty(value: Any) -> bool:
    """Whether nothing is lost with a value."""
    return value in (None, "", [], {}) or (isinstance(value, list) and all(map(is_empty, value)))


@settings(max_examples=25)
@given(st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), min_size=8, max_size=16))
def test_no_key_is_dropped_without_being_named(tmp_path_factory: Any, extras: list[dict[str, Any]]) -> None:
    """Each key of a message is written out by the template, heeded as a mask, empty or named; or the row is refused."""
    folder = tmp_path_factory.mktemp("keys")
    run = Run("test", outputs=folder, cache=folder / "cache")
    rows = [[user("a"), {**extra, "role": "assistant", "content": "said"}] for extra in extras]
    rows += [[user("a"), answer("b")]] * 40
    made = ChatTemplate(packing=False, max_dropped=1).encode(as_rows(rows), tokenizer_for(READING), run)
    encoded, report = made.dataset, made.report
    kept = {int(names[0].split()[1]): row for names, row in zip(encoded["row"], encoded, strict=True)}
    for index, extra in enumerate(extras):
        if index not in kept:
            continue
        for key, value in extra.items():
            if key in UNNAMED or is_empty(value) or (key == READS and value):
                continue
            if key in ("function_call", "tool_calls") and isinstance(value, str) and not value.strip():
                continue  # blank text is no call, as empty text is none
            if key.lower() in MASKS:
                weights = kept[index].get("token_weights") or [float(x != -100) for x in kept[index]["labels"]]
                assert max(weights) == pytest.approx(float(value))
                continue
            assert key in report["keys"], (key, value)
