"""Tasks from files and folders, the choice of tasks, answers, shards, rejects, and the rows both sources make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swe_helpers import SHARED, commands, needs_shared, read_rejects, row, synth, write_tasks

from loraplug import InputError, Run, conversation, shape_of
from loraplug_swe import loraplug_dataset_sources
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.conversations.synth import SweSynthSource
from loraplug_swe.tasks.options import parse_ids
from loraplug_swe.tasks.rejects import Reject
from loraplug_swe.tasks.stores import open_place
from loraplug_swe.tasks.task import clean_statement, read_task

GOLD = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
BUG = "--- a/y\n+++ b/y\n@@ -1 +1 @@\n-right\n+wrong\n"
BASE = "0" * 40


def named(at: int, **fields) -> dict:
    return row(BASE, GOLD, instance_id=f"ada__lib-{at}") | fields


def rows(run: Run, tasks: str, **options) -> list[dict]:
    return list(SweSynthSource(tasks=tasks, **options).rows(run))


def test_the_plugin_brings_its_sources() -> None:
    """By the hook, under their names."""
    assert [source.name for source in loraplug_dataset_sources()] == ["swe-synth", "swe", "swe-bugs", "swe-history"]


@pytest.mark.parametrize("suffix", ["folder", ".json", ".jsonl", ".parquet"])
def test_every_place_gives_the_same_rows(suffix: str, run: Run, tmp_path: Path) -> None:
    """Folder, array, lines and parquet, with both shapes mixed where the place can hold them."""
    tasks = [synth(BASE, GOLD), *(named(at) for at in range(2, 12))]
    place = tmp_path / f"tasks{suffix}"
    if suffix == "folder":
        place.mkdir()
        for at, task in enumerate(tasks):
            (place / f"task_{at:03d}.json").write_text(json.dumps(task), encoding="utf-8-sig")
        (place / "notes.txt").write_text("no task")
    elif suffix == ".json":
        place.write_text(json.dumps(tasks, indent=2), encoding="utf-8-sig")
    elif suffix == ".jsonl":
        place.write_text("\n\n".join(map(json.dumps, tasks)))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([dict.fromkeys(tasks[0] | tasks[1]) | one for one in tasks]), place
        )
    made = rows(run, str(place))
    assert [one["response"] for one in made] == [GOLD] * 11
    assert [one["group"] for one in made] == [["ada/lib", f"ada__lib-{at}"] for at in range(1, 12)]
    picked = rows(run, str(place), ids="3-4,0")
    assert [one["group"][1] for one in picked] == ["ada__lib-4", "ada__lib-5", "ada__lib-1"]


def test_a_hub_data_set(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub:owner/name` goes to datasets.load_dataset with split and revision; the rows are read from what it gives."""
    import datasets

    datasets.Dataset.from_list([named(at) for at in range(5)]).to_parquet(tmp_path / "test.parquet")
    true, seen = datasets.load_dataset, []

    def local(name: str, *, split: str, revision: str | None):
        seen.append((name, split, revision))
        return true("parquet", data_files={split: str(tmp_path / "test.parquet")}, split=split, cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", local)
    made = rows(run, "hub:SWE-bench/SWE-bench_Verified", split="dev", revision="abc", ids="1-9")
    assert [one["task_id"] for one in made] == [f"ada__lib-{at}" for at in range(1, 5)]
    assert seen == [("SWE-bench/SWE-bench_Verified", "dev", "abc")]
    assert [one["reason"] for one in read_rejects(run)] == ["no-such-task"] * 5


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        )
    ),
    st.sampled_from([None, 1]),
)
def test_json_arrays_are_streamed_truly(
    tmp_path_factory: pytest.TempPathFactory, data: list, indent: int | None
) -> None:
    """Any array comes out entry by entry as json.loads has it, whatever the window."""
    import loraplug_swe.tasks.json_stream as arrays

    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False).encode("utf-8", "replace").decode())
    for chunk in (1, 7, 1 << 20):
        arrays._CHUNK = chunk
        try:
            place = open_place(str(path), split="", revision=None)
            read = [entry.data for entry in place.read(place.numbers())]
        finally:
            arrays._CHUNK = 1 << 20
        assert read == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.json", "[{}", "not JSON"),
        ("t.json", "7", "not a JSON array"),
        ("t.json", "[{} {}]", "no comma"),
        ("t.json", "[] x", "follows"),
        pytest.param("t.json", f"[{'1' * 5000}]", "cannot be read", id="a number of 5,000 digits"),
        ("t.txt", "x", "known: .json"),
        ("t.parquet", "x", "parquet"),
        ("t.jsonl", "nonsense", "1 bad-json"),
        ("t.jsonl", '{"text": "x"}', "1 unknown-shape"),
        ("t.jsonl", "", "no task"),
    ],
)
def test_unreadable_files_say_so(name: str, text: str, told: str, run: Run, tmp_path: Path) -> None:
    """One InputError that names the file and what is wrong."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told) as error:
        rows(run, str(tmp_path / name))
    assert name in str(error.value)


def test_missing_places(run: Run, tmp_path: Path) -> None:
    """A path that is not there, and a folder without tasks."""
    (tmp_path / "empty").mkdir()
    for path, told in ((tmp_path / "none", "no such file"), (tmp_path / "empty", "holds no task")):
        with pytest.raises(InputError, match=told):
            rows(run, str(path))


def test_fields_of_any_case_lists_as_text_and_nulls(run: Run, tmp_path: Path) -> None:
    """Key case varies, lists may be JSON strings, values may be null or missing."""
    one = {
        key.upper(): value
        for key, value in named(1, FAIL_TO_PASS='["a", "b"]', test_patch=None, hints_text=None).items()
    }
    two = named(2, fail_to_pass=["c"], PASS_TO_PASS=None)
    for data, tests in (
        (one, ("a", "b")),
        (two, ("c",)),
        (named(3, FAIL_TO_PASS=""), ()),
        (named(4, FAIL_TO_PASS="x::y"), ("x::y",)),
    ):
        assert read_task(data, 0, numbered=False, where="x").failing_tests == tests
    text = synth(BASE, GOLD) | {"bug": None, "original": json.dumps(synth(BASE, GOLD)["original"])}
    made = rows(run, write_tasks(tmp_path, [one | {"INSTANCE_ID": "upper"}, two, text, named(5, repo=None)]))
    assert [made_row["group"][1] for made_row in made] == ["upper", "ada__lib-2", "ada__lib-1", "ada__lib-5"]


def test_answers(run: Run, tmp_path: Path) -> None:
    """auto takes the bug back where there is a bug with a statement; an empty answer is a reject, never a row."""
    both, gold, bug = synth(BASE, GOLD, BUG), synth(BASE, GOLD), synth(BASE, "", BUG)
    mute = synth(BASE, "", BUG) | {"bug": {"patch": BUG, "problem_statement": ""}}
    tasks = write_tasks(
        tmp_path,
        [one | {"task_id": name} for name, one in (("both", both), ("gold", gold), ("bug", bug), ("mute", mute))],
    )
    back = "--- a/y\n+++ b/y\n@@ -1 +1 @@\n-wrong\n+right\n"
    found = {
        answer: {one["task_id"]: (one["instruction"], one["response"]) for one in rows(run, tasks, answer=answer)}
        for answer in ("auto", "gold", "revert-bug")
    }
    assert found["auto"] == {"both": ("The bug shows.", back), "gold": ("The gold issue.", GOLD)}
    assert found["revert-bug"] == {"both": ("The bug shows.", back)}
    assert found["gold"] == {"both": ("The gold issue.", GOLD)}
    rows(run, tasks)
    assert [(one["task_id"], one["reason"]) for one in read_rejects(run)] == [
        ("bug", "duplicate"),
        ("mute", "empty-patch"),
    ]


def test_duplicates_are_told_and_dropped(run: Run, tmp_path: Path) -> None:
    """The first of an instance stays; different bugs in one instance are different examples."""
    other = synth(BASE, GOLD, BUG.replace("wrong", "worse"))
    tasks = write_tasks(tmp_path, [named(1), named(2), named(1), synth(BASE, GOLD, BUG), other, synth(BASE, GOLD, BUG)])
    assert len(rows(run, tasks)) == 4
    assert [one["detail"] for one in read_rejects(run)] == [
        "tasks.jsonl:3 has the same instance id and answer as tasks.jsonl:1",
        "tasks.jsonl:6 has the same instance id and answer as tasks.jsonl:4",
    ]
    assert "4 rows" in run.reporter.warnings[0]
    assert "2 duplicate" in run.reporter.warnings[0]


def test_nothing_vanishes(run: Run, tmp_path: Path) -> None:
    """Rows and rejects together are the tasks."""
    tasks = [
        named(1),
        {"x": 1},
        7,
        named(2, patch=""),
        named(3, problem_statement=None),
        named(1),
        named(4, patch=7),
        named(5, problem_statement="\ud800"),
        named(6),
    ]
    made = rows(run, write_tasks(tmp_path, tasks))
    assert [one["task_id"] for one in made] == ["ada__lib-1", "ada__lib-6"]
    assert [one["reason"] for one in read_rejects(run)] == [
        "unknown-shape",
        "unknown-shape",
        "empty-patch",
        "no-statement",
        "duplicate",
        "unknown-shape",
        "not-utf8",
    ]


def test_repos_and_limit(run: Run, tmp_path: Path) -> None:
    """repos chooses without regard to case; limit counts chosen tasks."""
    tasks = write_tasks(tmp_path, [named(at, repo="ada/lib" if at % 2 else "Bob/Tool") for at in range(10)])
    assert [one["task_id"][-1] for one in rows(run, tasks, repos=("bob/tool",), limit=3)] == ["0", "2", "4"]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25),
    st.integers(1, 6),
    st.none() | st.integers(1, 12),
    st.sampled_from(["", "0-9", "5,3-4,20"]),
)
def test_shards_join_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, tasks: list, shards: int, limit: int | None, ids: str
) -> None:
    """In order, with duplicates, rejects, ids and limit."""
    tmp_path = tmp_path_factory.mktemp("shards")
    run = Run("x", outputs=tmp_path, cache=tmp_path)
    path = write_tasks(tmp_path, [named(at, patch=GOLD if good else "") for at, good in tasks])
    options = {"limit": limit, "ids": ids or None}

    def take(shard: str | None) -> tuple[list, list]:
        try:
            made = rows(run, path, shard=shard, **options)
        except InputError:
            assert shard is None
            made = []
        return made, read_rejects(run)

    whole = take(None)
    parts = [take(f"{at}/{shards}") for at in range(1, shards + 1)]
    assert tuple([one for part in parts for one in part[at]] for at in (0, 1)) == whole


def test_options_out_of_range() -> None:
    """ids, shard and limit are checked when the component is made, in words."""
    for options, told in (
        ({"ids": "5-1"}, "runs backwards"),
        ({"ids": "a"}, "not a number"),
        ({"shard": "3/2"}, "i/n"),
        ({"ids": "0-99999999999"}, "more than"),
    ):
        with pytest.raises(ValueError, match=told):
            SweSynthSource(**options)
    for url in ("ext::sh -c id", "--upload-pack=x", "fd::1", "ftp://x/{repo}"):
        with pytest.raises(ValueError, match="may not clone"):
            SweSource(clone_url=url)
    assert parse_ids("0-2, 205,1") == [0, 1, 2, 205]


def test_statements() -> None:
    """Line ends and outer JSON quotes go; quotation marks that belong to the text, Jinja and fences stay."""
    assert clean_statement('"# Title\\n\\nText"') == "# Title\n\nText"
    assert clean_statement("a\r\nb\rc") == "a\nb\nc"
    for text in ('"notes" option is "broken"', '"tabIndex" is set', "'.[' replaced", "{{ task }} {% x %}\n```\n{"):
        assert clean_statement(text) == text


def test_rejects_appear_only_when_whole(run: Run, tmp_path: Path) -> None:
    """A run that is stopped leaves the earlier rejects file as it was, and no half of one."""
    tasks = write_tasks(tmp_path, [named(1, patch=""), named(2), named(3)])
    place = tmp_path / "out.rejects.jsonl"
    place.write_text("before\n")
    started = SweSynthSource(tasks=tasks, rejects=place).rows(run)
    next(started)
    started.close()
    assert place.read_text() == "before\n"
    list(SweSynthSource(tasks=tasks, rejects=place).rows(run))
    assert json.loads(place.read_text())["reason"] == "empty-patch"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.rejects.jsonl", "tasks.jsonl"]


@pytest.mark.parametrize("turns", ["agent", "single"])
def test_simple_rows_are_conversations(turns: str, run: Run, tmp_path: Path) -> None:
    """swe in simple mode: the shape the core knows, roles taking turns, no made-up files."""
    tasks = write_tasks(tmp_path, [named(1, problem_statement="Say {{task}} and {% raw %} and }}.")])
    data = SweSource(tasks=tasks, turns=turns).load(run)
    (made,) = data
    assert set(made) == {"instance_id", "task_id", "messages", "group"}
    talk = conversation(made, shape_of(data.column_names), 0)
    assert [message["role"] for message in talk.messages][:3] == ["system", "user", "assistant"]
    assert "Say {{task}} and {% raw %} and }}." in talk.messages[1]["content"]
    assert talk.messages[1]["content"].count("{{task}}") == 1
    assert talk.messages[-1]["role"] == "assistant"
    assert any(GOLD in message["content"] for message in talk.messages[2:])


def test_turns_can_be_calls_of_a_tool(run: Run, tmp_path: Path) -> None:
    """The same session as in text: thoughts, commands in order, and what they print."""
    tasks = write_tasks(tmp_path, [named(1)])
    (text,), (made,) = (SweSource(tasks=tasks, turns=turns).load(run) for turns in ("agent", "tools"))
    assert [one["function"]["name"] for one in made["tools"]] == ["bash"]
    talk = conversation(made, shape_of(made), 0)
    assert talk.tools == made["tools"] and "```" not in talk.messages[0]["content"]
    awaited: list[str] = []
    for message in talk.messages[2:]:
        if message["role"] == "assistant":
            awaited += [call["id"] for call in message["tool_calls"]]
        else:
            assert (message["role"], message["tool_call_id"]) == ("tool", awaited[-1])
    assert len(set(awaited)) == 2
    assert commands(made["messages"]) == commands(text["messages"])


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_templates_of_the_user(suffix: str, run: Run, tmp_path: Path) -> None:
    """Both kinds of file; other placeholders stay and are told; what is wrong is told."""
    text = {
        ".toml": "[agent]\nsystem_template = '''Be {{kind}}.'''\ninstance_template = 'Fix: {{ task }}!'\n",
        ".yaml": "agent:\n  system_template: 'Be {{kind}}.'\n  instance_template: 'Fix: {{ task }}!'\n",
    }[suffix]
    path = tmp_path / f"mine{suffix}"
    path.write_text(text)
    tasks = write_tasks(tmp_path, [named(1)])
    (made,) = SweSource(tasks=tasks, templates=path).rows(run)
    assert [message["content"] for message in made["messages"][:2]] == ["Be {{kind}}.", "Fix: It is broken.!"]
    assert "{{kind}}" in run.reporter.warnings[0]
    for wrong, told in (
        ("", "no agent templates"),
        (text.replace("{{ task }}", ""), "no {{task}}"),
        ("[[[", "cannot be read"),
    ):
        path.write_text(wrong)
        with pytest.raises(InputError, match=told):
            list(SweSource(tasks=tasks, templates=path).rows(run))


def test_a_data_set_is_never_stale(run: Run, tmp_path: Path) -> None:
    """Same tasks, same file and fingerprint; changed tasks, another one; two processes' parts do not stay behind."""
    tasks = write_tasks(tmp_path, [named(1), named(2)])
    first, again = (SweSynthSource(tasks=tasks).load(run) for _ in range(2))
    write_tasks(tmp_path, [named(1), named(2, patch=GOLD.replace("+b", "+c"))])
    other = SweSynthSource(tasks=tasks).load(run)
    assert first._fingerprint == again._fingerprint != other._fingerprint
    assert first[1]["response"] == GOLD
    assert other[1]["response"] == GOLD.replace("+b", "+c")
    assert len(list((run.cache / "swe" / "rows").iterdir())) == 2


@needs_shared
def test_every_shared_row_makes_a_row_or_a_reject(run: Run) -> None:
    """All real tasks: counts add up, statements are clean, every answer is the row's patch."""
    places = [SHARED / "swe_synth", *sorted(SHARED.glob("swe_bench*.jsonl"))]
    assert len(places) == 5
    for place in places:
        total = len(open_place(str(place), split="", revision=None).numbers())
        for source in (
            SweSynthSource(tasks=str(place)),
            SweSource(tasks=str(place)),
            SweSource(tasks=str(place), turns="single"),
        ):
            made = list(source.rows(run))
            assert len(made) + len(read_rejects(run)) == total
            assert {one["reason"] for one in read_rejects(run)} <= {"duplicate", "empty-patch"}
            assert not any("\r" in one.get("instruction", "") for one in made)
    assert len(rows(run, str(SHARED / "swe_bench_dup_rows.jsonl"))) == 2
    quoted = rows(run, str(SHARED / "swe_bench_pro_rows.jsonl"))
    assert not any(one["instruction"].startswith('"#') for one in quoted)


def test_half_a_surrogate_pair_is_refused_wherever_it_stands() -> None:
    r"""`"\ud800"` is JSON but no text: a task of that name is a reject, in a quoted statement it stays as written."""
    row = {"instance_id": "a__b-1", "patch": "diff", "problem_statement": '"\\ud800"', "task_id": "\ud800"}
    with pytest.raises(Reject, match="half a surrogate pair"):
        read_task(row, 0, numbered=False, where="x.json")
    assert clean_statement('"\\ud800"') == '"\\ud800"'
    assert clean_statement('"it\\nfails"') == "it\nfails"
