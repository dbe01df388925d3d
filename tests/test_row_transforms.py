"""The transforms that choose, clean and make rows: what they take, what they say, what they refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from command import Cli
from loraplug import InputError
from loraplug.testing import from_table, tiny_run
from loraplug_data.cleaning import Redact
from loraplug_data.duplicates import Deduplicate, bands, shingles
from loraplug_data.overlaps import Decontaminate
from loraplug_data.selecting import Select
from loraplug_data.sources import JsonLinesSource
from loraplug_data.templating import Template, Turn
from loraplug_data.values import Map
from loraplug_tools.plugins.conformance import assert_conforms

WORDS = [f"word{n}" for n in range(400)]


def rows(**columns: Any) -> Any:
    from datasets import Dataset, Features, Json, Value

    kinds = {str: "string", int: "int64"}
    named = {name: kinds.get(type(values[0])) for name, values in columns.items()}
    features = Features({name: Json() if kind is None else Value(kind) for name, kind in named.items()})
    return Dataset.from_dict(columns, features=features)


def chat() -> Any:
    said = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * n}] for n in range(4)]
    return rows(id=["a", "b", "c", "d"], language=["python", "go", "python", "go"], messages=[*said[:3], said[3][:1]])


@pytest.mark.parametrize(
    "part",
    [
        Select('text != ""'), Deduplicate(), Deduplicate(near=0.9), Decontaminate(instance_ids=("x",)),
        Redact(emails=False), Map("text", {"a": "b"}, other="keep"), Template((Turn("user", "{{ text }}"),)),
    ],
    ids=lambda part: part.name,
)  # fmt: skip
def test_they_conform(part: Any, tmp_path: Path) -> None:
    """All that is asked of any transform."""
    assert_conforms(part, tmp_path)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ('language == "python"', "ac"),
        ('"assistant" in roles(messages) and len(messages[1].content) > 0', "bc"),
        ('not startswith(language, "p") or id == "a"', "abd"),
        ("1 < len(messages) <= 2 and words(messages) >= 2", "bc"),
        ('row["id"] in ["a", "d"]', "ad"),
        ("messages[1].content is not None and len(messages[1].content) % 2 == 1", "b"),
        ("messages[5].gone == None", "abcd"),
    ],
)
def test_select_keeps_what_the_expression_says(where: str, kept: str, tmp_path: Path) -> None:
    """Columns, lengths, roles, keys in messages; what is not there is None."""
    assert "".join(Select(where).apply(rows=chat(), run=tiny_run(tmp_path))["id"]) == kept


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("langauge == 1", 'no column "langauge" in the data (did you mean "language"?)'),
        ("language == true", 'no column "true" in the data (write True)'),
        ('row["ids"] == 1', 'no column "ids" in the data (did you mean "id"?)'),
        ("len(messages) >", "is not a valid expression"),
        ("__import__('os').system('true')", "is not a supported function"),
        ("lenn(messages)", "(did you mean len?)"),
        ("len(messages, 2)", "len() wants 1 value"),
        ("[m for m in messages]", "is not supported"),
        ("(lambda: 1)()", "is not a supported function"),
        ("9 ** 9 ** 9", "is not supported"),
        ("f'{id}' == 'a'", "is not supported"),
        ("len(1)", "cannot be evaluated"),
        ("id * 1000000000 == id", "is not a number"),
        ("id.__class__ == 1", "str has no '__class__'"),
        ("not " * 100 + "id", "is nested deeper"),
    ],
)
def test_select_refuses_all_else(where: str, told: str, tmp_path: Path) -> None:
    """No Python but what is listed; a name that is not known is told with the nearest."""
    with pytest.raises(InputError) as caught:
        Select(where).apply(rows=chat(), run=tiny_run(tmp_path))
    assert told in str(caught.value)


def test_select_is_wrong_before_the_work() -> None:
    """An expression that cannot be read is a problem of the recipe."""
    made, problems = from_table(Select, {"where": "len("})
    assert made is None
    assert "is not a valid expression" in problems[0].message and "\n" not in problems[0].message


def test_duplicates_fall_to_the_first(tmp_path: Path) -> None:
    """Exactly those, whatever they are called; the report says each with the row it repeats."""
    found = rows(id=list("abcd"), text=["one", "two", "one", "One"])
    run, report = tiny_run(tmp_path), tmp_path / "fell.jsonl"
    assert Deduplicate(report=report).apply(rows=found, run=run)["id"][:] == ["a", "b", "d"]
    assert run.reporter.lines[0] == "left out 1: the same as an earlier row (c: a)"
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert lines == [{"row": "c", "index": 2, "reason": "the same as an earlier row", "of": "a"}]


def test_near_duplicates_are_those_of_the_definition(tmp_path: Path) -> None:
    """The same rows fall as when every pair is compared by its exact Jaccard similarity."""
    draw, texts = random.Random(7), []
    for _ in range(40):
        words = draw.choices(WORDS, k=120)
        texts.append(" ".join(words))
        for changes in (1, 2, 4, 8):
            other = list(words)
            for at in draw.sample(range(120), changes):
                other[at] = draw.choice(WORDS)
            texts.append(" ".join(other))
    draw.shuffle(texts)
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    for at, one in enumerate(sets):
        if not any(len(one & sets[other]) / len(one | sets[other]) >= 0.8 for other in kept):
            kept.append(at)
    only = Deduplicate(near=0.8, columns=("text",)).apply(
        rows=rows(text=texts, n=list(range(200))), run=tiny_run(tmp_path)
    )
    assert only["n"][:] == kept
    assert 40 <= len(kept) < 160


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 0.95])
def test_a_pair_at_the_threshold_is_hardly_missed(threshold: float) -> None:
    """The bands are as few as that allows."""
    count, size = bands(threshold)
    assert (1 - threshold**size) ** count <= 0.01
    assert count * size <= 128


def test_what_overlaps_with_a_benchmark_falls(tmp_path: Path) -> None:
    """By its words, whatever stands around them and however they are written; its own length decides."""
    statement = " ".join(WORDS[:60])
    (tmp_path / "bench.jsonl").write_text(
        json.dumps({"instance_id": "own__repo-7", "problem_statement": statement, "short": "fix it"}) + "\n"
    )
    against = (JsonLinesSource(path=tmp_path / "bench.jsonl"),)
    texts = [
        "Please help. " + statement.upper().replace(" ", ",  ") + " Thanks!",
        " ".join(WORDS[:30] + WORDS[100:130]),  # 18 of 48 n-grams
        " ".join(WORDS[200:260]),
        "fix it",
        "about another thing",
    ]
    found = rows(instance_id=["a", "b", "c", "d", "own__repo-7"], text=texts)
    run = tiny_run(tmp_path)
    kept = Decontaminate(against=against).apply(rows=found, run=run)
    assert kept["instance_id"][:] == ["b", "c", "d"]
    told = "\n".join(run.reporter.lines)
    assert "left out 1: shares 13-grams with excluded data (a: own__repo-7)" in told
    assert "left out 1: of an excluded task (own__repo-7: own__repo-7)" in told
    assert "1 texts of less than 13 words are not compared" in told
    stricter = Decontaminate(against=against, overlap=0.3).apply(rows=found, run=run)
    assert stricter["instance_id"][:] == ["c", "d"]


def test_tasks_and_repositories_are_kept_out_by_name(tmp_path: Path) -> None:
    """Ids from the recipe and a file; a repository by its column, its group, or the way SWE-bench names tasks."""
    (tmp_path / "ids.txt").write_text("two\n\n three \n")
    found = rows(
        instance_id=["one", "two", "three", "django__django-11099", "five", "six"],
        repo=["a/b", "a/b", "a/b", "", "Psf/Requests", "x/y"],
        group=[["a/b"], ["a/b"], ["a/b"], ["z"], ["q"], ["pallets/flask", "t"]],
    )
    part = Decontaminate(
        instance_ids=("one",), ids_file=tmp_path / "ids.txt",
        repositories=("django/django", "psf/requests", "pallets/flask"),
    )  # fmt: skip
    run = tiny_run(tmp_path)
    with pytest.raises(InputError):
        Decontaminate()
    found = found.add_item({"instance_id": "stays", "repo": "a/c", "group": ["a/c"]})
    assert part.apply(rows=found, run=run)["instance_id"][:] == ["stays"]
    with pytest.raises(InputError, match="cannot be read"):
        Decontaminate(ids_file=tmp_path / "none.txt").apply(rows=found, run=run)


def test_secrets_and_addresses_are_taken_out(tmp_path: Path) -> None:
    """In texts and in messages; code that only looks like one stays, byte for byte."""
    token = "hf_" + "aB3" * 12
    code = "@app.route('/x')\ntoken = get(password=password)\nx = a @ b.T\ngit@github.com:o/r.git"
    ask = [{"role": "user", "content": f"ask bob@example.org {token}"}]
    found = rows(text=[f"use {token} now", code], messages=[ask, [{"role": "user", "content": "nothing", "n": 1.0}]])
    run = tiny_run(tmp_path)
    made = Redact().apply(rows=found, run=run).to_list()
    assert made[0]["text"] == "use REDACTED now"
    assert made[0]["messages"] == [{"role": "user", "content": "ask REDACTED REDACTED"}]
    assert made[1] == found[1]
    assert run.reporter.lines == ["redact: e-mail address removed from 1 rows", "redact: token removed from 1 rows"]
    assert len(Redact(action="drop").apply(rows=found, run=run)) == 1


def test_values_are_put_at_keys_and_in_columns(tmp_path: Path) -> None:
    """A value nobody spoke of is refused, unless the recipe says to keep it."""
    found = rows(talk=[[{"from": "human"}, {"from": "gpt"}]], label=[1])
    run = tiny_run(tmp_path)
    made = Map("talk.from", {"human": "user", "gpt": "assistant"}).apply(rows=found, run=run)
    assert made[0]["talk"] == [{"from": "user"}, {"from": "assistant"}]
    assert Map("label", {"1": True}).apply(rows=found, run=run)[0]["label"] is True
    with pytest.raises(InputError, match="'gpt' is not listed in values"):
        Map("talk.from", {"human": "user"}).apply(rows=found, run=run)
    assert Map("talk.from", {"human": "user"}, other="keep").apply(rows=found, run=run)[0]["talk"][1]["from"] == "gpt"
    with pytest.raises(InputError, match=r"no value at talk\.form"):
        Map("talk.form", {"human": "user"}).apply(rows=found, run=run)


def test_a_text_makes_messages_in_a_sandbox(tmp_path: Path) -> None:
    """Names of columns only; no way to anything behind a value."""
    found = rows(id=["a"], problem=["{{ 1 }} <b>"], answer=[["x", "y"]])
    run = tiny_run(tmp_path)
    part = Template((Turn("user", "Fix: {{ problem }}"), Turn("assistant", "{{ answer | join(', ') }}")))
    made = part.apply(rows=found, run=run)
    assert made.column_names == ["id", "messages"]
    assert [turn["content"] for turn in made[0]["messages"]] == ["Fix: {{ 1 }} <b>", "x, y"]
    for text, told in (
        ("{{ porblem }}", 'did you mean "problem"'),
        ("{{ problem.__class__.__mro__ }}", "is unsafe"),
        ("{{ answer.append(1) }}", "cannot be rendered"),
        ("{{ answer.gone }}", "cannot be rendered"),
        ("{% if %}", "is not valid Jinja"),
    ):
        with pytest.raises(InputError) as caught:
            Template((Turn("user", text),)).apply(rows=found, run=run)
        assert told in str(caught.value)
    with pytest.raises(InputError, match="already have a column messages"):
        Template((Turn("user", "{{ id }}"),)).apply(rows=chat(), run=run)


def test_what_was_made_of_the_same_rows_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content and options, from whatever file; other rows or options are worked anew."""
    run, calls = tiny_run(tmp_path), []
    real = Deduplicate._fallen
    monkeypatch.setattr(Deduplicate, "_fallen", lambda *given: calls.append(1) or real(*given))
    for found in (["x", "x", "y"], ["x", "x", "y"], ["x", "x", "z"]):
        Deduplicate().apply(rows=rows(text=found), run=run)
    assert len(calls) == 2
    Deduplicate(near=0.9).apply(rows=rows(text=["x", "x", "y"]), run=run)
    assert len(calls) == 3
    assert len(run.reporter.lines) == 4


TABLES = """
[[dataset.transform]]
use = "decontaminate"
repositories = ["o/r"]
[[dataset.transform.against]]
use = "jsonl"
path = "bench.jsonl"
[[dataset.transform]]
use = "template"
[[dataset.transform.messages]]
role = "user"
text = "{{ instruction }}"
[[dataset.transform.messages]]
role = "assistant"
text = "{{ response }}"
"""


def test_a_recipe_says_them_all(inside: Cli, recipe: Path, tmp_path: Path) -> None:
    """Components inside components, tables in lists; `data` writes what comes out."""
    recipe.write_text(recipe.read_text().replace("[formatter]", f"{TABLES}[formatter]", 1))
    (recipe.parent / "bench.jsonl").write_text(json.dumps({"instance_id": "i", "text": " ".join(WORDS[:20])}) + "\n")
    done = inside("data", recipe, "-o", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in made)
