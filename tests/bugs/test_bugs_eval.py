"""`loraplug eval` on real code: answers by hand and by a model, applied, tested, counted and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from math import comb
from pathlib import Path
from typing import Any

import pytest
from bugs_helpers import CLAMP_AND_MEAN
from hypothesis import given
from hypothesis import strategies as st

from command import Cli
from loraplug import InputError, LoraplugError, Run, load_registry
from loraplug_swe.edits import render
from loraplug_swe.evaluation.bench import Bench, Checking
from loraplug_swe.evaluation.cases import Case, PromptOptions
from loraplug_swe.evaluation.judge import judge
from loraplug_swe.evaluation.reading import Task, read_answers, read_tasks
from loraplug_swe.evaluation.results import Journal, Result, report
from loraplug_swe.evaluation.statistics import pass_at, sign_test, wilson
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.mutation.source import SweBugsSource

CODE = f'"""Small sums."""\n\n\n{CLAMP_AND_MEAN}'
TESTS = """\
import sums


def test_low():
    assert sums.clamp(-1) == 0


def test_high():
    assert sums.clamp(11) == 10


def test_mean():
    assert sums.mean([1, 2, 3]) == 2


def test_mean_of_nothing():
    assert sums.mean([]) == 0
"""
ALL = [f"tests/test_sums.py::test_{name}" for name in ("low", "high", "mean", "mean_of_nothing")]
BUGGY = CODE.replace("value > high", "value < high")


def patch(old: str, new: str) -> str:
    """A diff of sums.py."""
    return render("sums.py", old, new, "diff")


def task(**more: Any) -> dict[str, Any]:
    """A task about `clamp` as swe-bugs writes it."""
    made = {"mode": "swe-bugs", "language": "python", "file": "sums.py", "function": "clamp",
            "kind": "wrong_comparison", "related_tests": ALL[:2]}  # fmt: skip
    return {
        "source": {"swe_instance_id": "local__sums-1", "repo": "local/sums", "base_commit": ""},
        "bug": {"patch": patch(CODE, BUGGY), "bug_types": ["wrong_comparison"], "target_tests": [ALL[1]],
                "problem_statement": "`test_high` fails with AssertionError."},
        "original": {"gold_patch": "", "all_tests": ALL},
        "generation": made,
    } | more  # fmt: skip


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A folder with a module and its tests."""
    root = tmp_path / "sums"
    (root / "tests").mkdir(parents=True)
    (root / "sums.py").write_text(CODE)
    (root / "tests" / "test_sums.py").write_text(TESTS)
    (root / "notes.md").write_text("Sums.\n")
    return root


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with one task."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "task_1.json").write_text(json.dumps(task()))
    return folder


@pytest.fixture
def prepared(repo: Path, tasks: Path, tmp_path: Path) -> Any:
    """The bench and the case of the task."""
    (tmp_path / "scratch").mkdir()
    found = [one for one in read_tasks(tasks) if isinstance(one, Task)]
    with Workroom({"": str(repo)}, None, Checking(spare=5.0), tmp_path / "scratch", True) as room:
        case = room.prepare(found[0], PromptOptions("search-replace"))
        assert isinstance(case, Case)
        yield room.bench(found[0]), case


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON report of a run that went well."""
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# figures


@given(st.integers(1, 40), st.data())
def test_pass_at_k_is_the_share_of_lucky_draws(n: int, data: st.DataObject) -> None:
    """The product is 1 - C(n-c, k) / C(n, k), for all n, c and k."""
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at(k, n, c) == pytest.approx(1 - comb(n - c, k) / comb(n, k))


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_holds_the_share_and_stays_inside(right: int, more: int) -> None:
    """The interval is inside 0 to 1 and around the share; more trials of one share make it no wider."""
    n = right + more
    low, high = wilson(right / n, n)
    assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
    wide_low, wide_high = wilson(right / n, 4 * n)
    assert wide_high - wide_low <= high - low + 1e-12


def test_wilson_gives_the_published_figures() -> None:
    """15 of 148: 6.2 % to 16.0 % (Newcombe 1998, table I, method 3); nothing of 20 is still up to 16 %."""
    low, high = wilson(15 / 148, 148)
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))


def test_sign_test_is_the_binomial() -> None:
    """Ten to nothing by chance: 2 / 1024; evenly split, or no difference: 1."""
    assert sign_test(10, 0) == pytest.approx(2 / 1024)
    assert sign_test(3, 3) == sign_test(0, 0) == 1.0


# judging


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("sums.py\n<<<<<<< SEARCH\n    if value < high:\n=======\n    if value > high:\n>>>>>>> REPLACE\n",
         "resolved", ""),
        ("", "invalid", "empty"),
        ("I cannot help with that.", "invalid", "no-edit"),
        ("sums.py\n<<<<<<< SEARCH\n    if nothing:\n=======\n    if all:\n>>>>>>> REPLACE\n", "invalid", "not-found"),
        ("tests/test_sums.py\n<<<<<<< SEARCH\n    assert sums.clamp(11) == 10\n=======\n    pass\n>>>>>>> REPLACE\n",
         "invalid", "unknown-file"),
        ("<<<<<<< SEARCH\n    if value < high:\n=======\n    if value <= high:\n>>>>>>> REPLACE\n",
         "applied", "the failing tests still fail"),
        ("<<<<<<< SEARCH\n    return value\n=======\n    return 10\n>>>>>>> REPLACE\n"
         "<<<<<<< SEARCH\n    if not values:\n        return 0\n=======\n>>>>>>> REPLACE\n"
         "<<<<<<< SEARCH\n    if value < high:\n=======\n    if value > high:\n>>>>>>> REPLACE\n",
         "applied", "breaks other tests"),
        ("<<<<<<< SEARCH\n    if value < high:\n=======\n    while value:\n        pass\n    if 0:\n>>>>>>> REPLACE\n",
         "applied", "takes too long"),
        ("<<<<<<< SEARCH\n    if value < high:\n=======\n    if value <\n>>>>>>> REPLACE\n",
         "applied", "cannot be imported or run"),
        ("<<<<<<< SEARCH\n    if value < high:\n        return high\n=======\n    import os\n    os._exit(0)\n"
         ">>>>>>> REPLACE\n",
         "applied", "ends the process"),
        ("<<<<<<< SEARCH\n    if value < high:\n        return high\n=======\n    import pytest\n    pytest.skip()\n"
         ">>>>>>> REPLACE\n",
         "applied", "cannot be imported or run"),
    ],
)  # fmt: skip
def test_verdicts(prepared: tuple[Bench, Case], answer: str, status: str, reason: str) -> None:
    """A fix is resolved; what changes nothing is invalid; what changes the wrong thing, skips or hangs is applied."""
    verdict = judge(*prepared, answer)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert bool(verdict.diff) == (status != "invalid")


def test_a_destructive_answer_stays_in_the_sandbox(prepared: tuple[Bench, Case], repo: Path, tmp_path: Path) -> None:
    """Deleting, overwriting and writing elsewhere reach nothing but the copy, which is whole for the next answer."""
    bench, case = prepared
    outside = tmp_path / "precious"
    outside.write_text("kept")
    evil = (
        "<<<<<<< SEARCH\n    if value < high:\n=======\n"
        "    import os, pathlib, shutil\n"
        f"    for path in ({str(outside)!r}, {str(repo / 'sums.py')!r}, 'notes.md', 'tests/test_sums.py'):\n"
        "        try:\n            pathlib.Path(path).write_text('gone')\n        except OSError:\n            pass\n"
        f"    shutil.rmtree({str(repo)!r}, ignore_errors=True)\n"
        "    if value < high:\n>>>>>>> REPLACE\n"
    )
    assert judge(bench, case, evil).status == "applied"
    assert outside.read_text() == "kept"
    assert (repo / "sums.py").read_text() == CODE and (repo / "notes.md").read_text() == "Sums.\n"
    assert (bench.box.tree / "notes.md").read_text() == "Sums.\n"
    good = "<<<<<<< SEARCH\n    if value < high:\n=======\n    if value > high:\n>>>>>>> REPLACE\n"
    assert judge(bench, case, good).status == "resolved"


def test_a_task_that_is_none_here_is_left_out_with_its_reason(repo: Path, tmp_path: Path) -> None:
    """No bug in the patch, tests that fail anyway, a patch for other code: each is told apart."""
    (tmp_path / "scratch").mkdir()
    harmless = CODE.replace("Small sums", "Little sums")
    kinds = {
        "its tests pass with the bug in": {"patch": patch(CODE, harmless)},
        "its tests do not pass without the bug": {"target_tests": ["tests/test_sums.py::test_missing"]},
        "the bug patch does not apply": {"patch": patch(CODE.replace("clamp", "clip"), BUGGY)},
    }
    with Workroom({"local/sums": str(repo)}, None, Checking(), tmp_path / "scratch", True) as room:
        for reason, change in kinds.items():
            (tmp_path / "one.json").write_text(json.dumps(task(bug={**task()["bug"], **change})))
            [one] = read_tasks(tmp_path / "one.json")
            assert isinstance(one, Task)
            assert room.prepare(one, PromptOptions()).reason == reason  # type: ignore[union-attr]


def test_any_task_with_a_test_command(repo: Path, tmp_path: Path, loraplug: Cli) -> None:
    """A task that does not say where its bug is, in a git repository, is asked by its statement, answered by a diff."""
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=repo, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repo, check=True, capture_output=True, text=True).stdout
    (repo / "sums.py").write_text("the work tree is not looked at")
    one = task(source={"swe_instance_id": "sums-1", "repo": "acme/sums", "base_commit": head.strip()}, generation={})
    (tmp_path / "tasks.jsonl").write_text(json.dumps(one) + "\n")
    answers = [patch(BUGGY, CODE), patch(BUGGY, BUGGY.replace("value < high", "value <= high")), ""]
    (tmp_path / "answers.jsonl").write_text(
        "".join(json.dumps({"task_id": "sums-1", "answer": text}) + "\n" for text in answers)
    )
    done = loraplug("eval", "--tasks", "tasks.jsonl", "--repo", f"Acme/sums={repo}", "--answers", "answers.jsonl",
                    "--test-command", "python -m pytest -q {tests}", "--json")  # fmt: skip
    found = told(done)
    assert [one["status"] for one in found["cases"]] == ["resolved", "applied", "invalid"]
    assert found["models"]["answers"]["all"]["rate"] == pytest.approx(1 / 3)


def test_only_the_tests_that_the_recipe_names_are_collected(repo: Path, tasks: Path, tmp_path: Path) -> None:
    """Others may not even be importable here."""
    (repo / "tests" / "test_other.py").write_text("import os\nos._exit(3)\n")
    found = [one for one in read_tasks(tasks) if isinstance(one, Task)]
    for chosen in (("tests/test_sums.py",), ()):
        scratch = tmp_path / f"scratch-{len(chosen)}"
        scratch.mkdir()
        with Workroom({"": str(repo)}, None, Checking(spare=5.0, tests=chosen), scratch, True) as room:
            if chosen:
                assert isinstance(room.prepare(found[0], PromptOptions("lines")), Case)
            else:
                with pytest.raises(LoraplugError, match=r"cannot be run.*2048 MiB of memory may be too little"):
                    room.prepare(found[0], PromptOptions("lines"))


# the command


@pytest.mark.slow
def test_gold_answers_of_every_format_resolve(tmp_path: Path, repo: Path, loraplug: Cli) -> None:
    """Bugs that swe-bugs makes are all resolved by the answers it trains on, in each format."""
    for edit in ("search-replace", "diff", "lines", "function"):
        source = SweBugsSource(path=str(repo), count=5, edit=edit, tasks_out=tmp_path / "made", workers=1)
        run = Run(name="made", cache=tmp_path / "cache", outputs=tmp_path / "outputs")
        rows = list(source.rows(run))
        (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = loraplug("eval", "--tasks", "made", "--repo", repo, "--answers", "gold.jsonl", "--edit", edit,
                        "--out", f"out-{edit}", "--json")  # fmt: skip
        found = told(done)["models"]["answers"]
        assert found["all"]["resolved"] == found["all"]["tasks"] == 5
        assert sum(each["tasks"] for each in found["kinds"].values()) == 5


class Tags(HTMLParser):
    """Names of all tags, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember."""
        self.seen.append((tag, dict(attrs)))


def test_the_page_escapes_and_needs_nothing(repo: Path, tmp_path: Path, loraplug: Cli) -> None:
    """Answers, statements, kinds and names with markup stay text; no script, link or image is in the page."""
    mean = '"></pre><script>alert(1)</script><img src=x onerror=alert(2)>'
    one = task(task_id=mean, bug={**task()["bug"], "problem_statement": mean})
    one["generation"] |= {"kind": mean}
    (tmp_path / "one.json").write_text(json.dumps(one))
    block = f"<<<<<<< SEARCH\n    if value < high:\n=======\n    if value > high:  # {mean}\n>>>>>>> REPLACE\n"
    lines = [{"task_id": mean, "answer": block}, {"task_id": mean, "answer": mean}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = loraplug("eval", "--tasks", "one.json", "--repo", repo, "--answers", "answers.jsonl", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1].split() == [
        "all",
        "answers",
        "1",
        "2",
        "1",
        "0",
        "1",
        "0",
        "0",
        "50.0%",
        "5.5%-94.5%",
    ]
    text = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert {tag for tag, _ in tags.seen} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "table", "tr", "th", "td", "p", "ul",
        "li", "details", "summary", "b", "code", "span", "pre", "small"}  # fmt: skip
    assert not any(
        name in ("src", "href") or name.startswith("on") for _, attributes in tags.seen for name in attributes
    )
    assert text.count("&lt;script&gt;alert(1)") >= 4


def test_wrong_input_is_told(repo: Path, tasks: Path, tmp_path: Path, tiny_model: Path, loraplug: Cli) -> None:
    """Each mistake is one block with what to do, and exit code 2."""
    (tmp_path / "bad.jsonl").write_text('{"task_id": "1"}\n')
    (tmp_path / "empty").mkdir()
    given = ["--tasks", tasks, "--repo", repo]
    for words, said in (
        (["eval", *given], "give either a MODEL or --answers"),
        (["eval", *given, "--answers", "bad.jsonl"], "bad.jsonl:1: not an answer"),
        (["eval", *given, "--answers", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["eval", "--tasks", "empty", "--repo", repo, "--answers", "bad.jsonl"], "no task in it"),
        (["eval", "--tasks", tasks, "--answers", "bad.jsonl"], "no code to fix"),
        (["eval", "m", *given, "--samples", "2", "--temperature", "0"], "are the same at temperature 0"),
        (["eval", "m", *given, "--ids", "7-9"], "no task is left"),
        (["eval", "outputs/adapters/nope", *given], "outputs/adapters/nope"),
        (["eval", tiny_model, *given, "--base"], "is not an adapter"),
    ):
        done = loraplug(*words)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
        assert "tasks: " not in done.stderr  # before any of them is tried


# with a model


def test_prompts_are_those_of_the_training(repo: Path, tasks: Path, tmp_path: Path, tiny_model: Path) -> None:
    """For each format and context, what the model gets is what stood before the answer in training, token for token."""
    from datasets import Dataset

    from loraplug import open_model
    from loraplug_swe.evaluation.generator import load, prompts

    registry = load_registry()
    formatter: Any = registry.find("formatter", "chat-template")
    run = Run(name="made", cache=tmp_path / "cache", outputs=tmp_path / "outputs")
    speaker = load(open_model(tiny_model, registry), run, "tiny", False)[0]
    (tmp_path / "scratch").mkdir()
    checked = 0
    for edit, context in (("search-replace", "function"), ("diff", "file"), ("function", "none")):
        source = SweBugsSource(
            path=str(repo), count=2, edit=edit, context=context, tasks_out=tmp_path / "made", workers=1
        )  # type: ignore[arg-type]
        rows = list(source.rows(run))
        encoded = formatter(packing=False).encode(Dataset.from_list(rows), speaker.tokenizer, run).dataset
        found = [one for one in read_tasks(tmp_path / "made") if isinstance(one, Task)]
        place = tmp_path / "scratch" / edit
        place.mkdir()
        with Workroom({"": str(repo)}, None, Checking(), place, True) as room:
            cases = [room.prepare(one, PromptOptions(edit, context)) for one in found]  # type: ignore[arg-type]
        asked = [{"instruction": case.instruction, "response": "x", "task_id": case.task.id} for case in cases]  # type: ignore[union-attr]
        made = prompts(Dataset.from_list(asked), formatter(), speaker.model, speaker.tokenizer, run)
        for row, trained in zip(rows, encoded, strict=True):
            first = next(at for at, label in enumerate(trained["labels"]) if label != -100)
            assert list(made.ids[row["task_id"]]) == trained["input_ids"][:first]
            checked += 1
        assert made.stops == {speaker.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert checked == 6


def test_answers_are_the_models_own(tiny_model: Path, tmp_path: Path) -> None:
    """Greedy answers, alone and in a batch, are those of taking the likeliest token by hand; draws repeat by seed."""
    import torch

    from loraplug import open_model
    from loraplug_swe.evaluation.generator import Prompts, Sampling, load

    run = Run(name="made", cache=tmp_path / "cache", outputs=tmp_path / "outputs")
    speaker = load(open_model(tiny_model, load_registry()), run, "tiny", False)[0]
    ids = {"a": [3, 9, 27, 81], "b": [5, 25, 125], "c": list(range(40, 60))}
    asked = Prompts(ids, frozenset({2}))

    def by_hand(text: list[int]) -> list[int]:
        made: list[int] = []
        while len(made) < 12:
            with torch.inference_mode():
                token = int(speaker.model(torch.tensor([text + made])).logits[0, -1].argmax())
            if token == 2:
                break
            made.append(token)
        return made

    wanted = {name: len(by_hand(text)) for name, text in ids.items()}
    texts = []
    for batch in (1, 3):
        said = {
            name: one for name, _, one in speaker.answers(asked, list(ids), set(), Sampling(max_tokens=12, batch=batch))
        }
        assert {name: one.tokens for name, one in said.items()} == wanted
        texts.append({name: one.text for name, one in said.items()})
    assert texts[0] == texts[1]
    for name, text in ids.items():
        assert texts[0][name] == speaker.tokenizer.decode(text + by_hand(text))[len(speaker.tokenizer.decode(text)) :]

    drawn = Sampling(temperature=1.5, max_tokens=8, samples=4, batch=3, seed=7)
    first = {(name, at): one.text for name, at, one in speaker.answers(asked, list(ids), set(), drawn)}
    assert len(first) == 12 and len(set(first.values())) > 6
    done = {("a", 0), ("b", 2), ("c", 3)}
    rest = {(name, at): one.text for name, at, one in speaker.answers(asked, list(ids), done, drawn)}
    assert rest == {key: text for key, text in first.items() if key not in done}


def test_of_beams_the_likeliest_usable_answer_is_given(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are looked at from the likeliest down; where none is usable the first is given."""
    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "float32")  # in bfloat16 several tokens are equally likely
    import torch

    from loraplug import open_model
    from loraplug_swe.evaluation.generator import Prompts, Sampling, load

    run = Run(name="made", cache=tmp_path / "cache", outputs=tmp_path / "outputs")
    speaker = load(open_model(tiny_model, load_registry()), run, "tiny", False)[0]
    asked = Prompts({"a": [3, 9, 27, 81], "b": list(range(40, 60))}, frozenset({2}))
    seen: dict[str, list[str]] = {"a": [], "b": []}

    def never(name: str, text: str) -> bool:
        seen[name].append(text)
        return False

    search = Sampling(max_tokens=1, batch=2, beams=4)
    given = {name: one.text for name, _, one in speaker.answers(asked, ["a", "b"], set(), search, never)}
    for name, ids in asked.ids.items():  # of one token each, so the likeliest are known
        with torch.inference_mode():
            likeliest = speaker.model(torch.tensor([ids])).logits[0, -1].topk(4).indices.tolist()
        before = speaker.tokenizer.decode(ids)
        texts = [speaker.tokenizer.decode([*ids, token])[len(before) :] for token in likeliest]
        assert seen[name] == texts and given[name] == texts[0]
    third = {name: texts[2] for name, texts in seen.items()}
    chosen = speaker.answers(asked, ["a", "b"], set(), search, lambda name, text: text == third[name])
    assert {name: one.text for name, _, one in chosen} == third


@pytest.mark.slow
def test_model_against_its_base_goes_on_after_a_kill(
    repo: Path, tasks: Path, tmp_path: Path, tiny_model: Path, loraplug: Cli
) -> None:
    """An adapter and its base in one table; results that were cut off are answered again, the same."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=4, target_modules="all-linear")
    )
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    words = ["eval", "adapter", "--base", tiny_model, "--tasks", tasks, "--repo", repo, "--samples", "3",
             "--max-tokens", "16", "--context", "none", "--json", "--out", "out"]  # fmt: skip
    first = told(loraplug(*words))
    assert set(first["models"]) == {"model", "base"}
    assert {each["all"]["answers"] for each in first["models"].values()} == {3}
    assert first["paired"]["p"] == 1.0
    by_model = {name: [one["answer"] for one in first["cases"] if one["model"] == name] for name in first["models"]}
    assert by_model["model"] != by_model["base"]
    journal = tmp_path / "out" / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    again = told(loraplug(*words))
    assert sorted(map(_told, again["cases"])) == sorted(map(_told, first["cases"]))
    assert journal.read_bytes().startswith(b"".join(lines[:3]))
    other = loraplug(*words, "--seed", "3")
    assert other.returncode == 2 and "another evaluation (sampling" in other.stderr
    twice = told(loraplug("eval", tiny_model, "--base", tiny_model, *words[4:-2], "--out", "same"))
    mine, others = ([one["answer"] for one in twice["cases"] if one["model"] == name] for name in ("model", "base"))
    assert len(mine) == 3 and mine == others


def test_a_model_answers_again_and_goes_on_after_a_kill(
    repo: Path, tasks: Path, tmp_path: Path, tiny_model: Path, inside: Cli
) -> None:
    """Each sample has its turns; results that were cut off are answered again, the same."""
    words = ["eval", tiny_model, "--tasks", tasks, "--repo", repo, "--samples", "2", "--turns", "3",
             "--max-tokens", "8", "--context", "none", "--json", "--out", "out"]  # fmt: skip
    first = told(inside(*words))
    assert first["turns"] == {"model": [0, 0, 0]} and len(first["cases"]) == 2
    assert {one["turn"] for one in first["cases"]} == {3}
    journal = tmp_path / "out" / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    seen = [(one["turn"], one["sample"]) for one in map(json.loads, lines[1:])]
    assert sorted(seen) == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    prompts = [one["prompt_tokens"] for one in map(json.loads, lines[1:])]
    assert prompts[0] < prompts[2] < prompts[4]
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    again = told(inside(*words))
    assert sorted(map(_told, again["cases"])) == sorted(map(_told, first["cases"]))
    assert journal.read_bytes().startswith(b"".join(lines[:4]))


def _told(one: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in one.items() if key != "seconds"}, sort_keys=True)


def test_the_report_counts_by_kind_and_pairs() -> None:
    """Rates are over tasks, kinds add up, and pairs compare the first answers."""
    rows = [("model", "1", 0, "resolved"), ("model", "1", 1, "applied"), ("model", "2", 0, "invalid"),
            ("model", "2", 1, "invalid"), ("base", "1", 0, "invalid"), ("base", "1", 1, "invalid"),
            ("base", "2", 0, "invalid"), ("base", "2", 1, "resolved")]  # fmt: skip
    results = [
        Result(model, name, at, "k", "", "stop", 1, 1, 0.1, status, "why")
        for model, name, at, status in rows  # type: ignore[arg-type]
    ]
    found = report(results, {"1": "k", "2": "other"}, 2)
    assert found["models"]["model"]["all"]["pass_at"] == {"1": 0.25, "2": 0.5}
    assert found["models"]["model"]["kinds"]["k"]["resolved"] == 1
    assert found["models"]["model"]["kinds"]["other"]["invalid"] == 2
    assert found["models"]["model"]["all"]["interval"] == wilson(0.25, 2)
    assert found["paired"] == {"only_model": 1, "only_base": 0, "both": 0, "p": 1.0}


def test_a_journal_keeps_whole_lines_and_its_settings(tmp_path: Path) -> None:
    """Half a line at the end goes; results of other settings, and files of something else, are refused."""
    path = tmp_path / "results.jsonl"
    one = Result("model", "1", 0, "k", "é\u2028", "stop", 1, 1, 0.1, "applied", "why", "x", False, "d", ["t"])
    with Journal(path, {"seed": 1}, False) as journal:
        journal.add(one)
    with path.open("ab") as file:
        file.write(b'{"model": "mo')
    with Journal(path, {"seed": 1}, False) as journal:
        assert journal.results == [one]
        journal.add(one)
    with Journal(path, {"seed": 1}, False) as journal:
        assert journal.results == [one, one]
    with pytest.raises(InputError, match=r"another evaluation.*seed: 1"):
        Journal(path, {"seed": 2}, False)
    with Journal(path, {"seed": 2}, True) as journal:
        assert journal.results == []


def test_tasks_and_answers_are_read(tmp_path: Path) -> None:
    """Folders in the order of numbers, lists, lines; what is no task is an error of its own; rows do as answers."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for number in (10, 2):
        (folder / f"task_{number}.json").write_text(json.dumps(task()))
    (folder / "task_3.json").write_text("[]")
    found = read_tasks(folder)
    assert [one.id if isinstance(one, Task) else one.what for one in found] == [
        "2",
        "neither a SWE-SYNTH task (source, bug) nor a row of SWE-bench (instance_id, patch, test_patch)",
        "10",
    ]
    (tmp_path / "list.json").write_text(json.dumps([task(), task(task_id="other")]))
    assert [one.id for one in read_tasks(tmp_path / "list.json") if isinstance(one, Task)] == ["local__sums-1", "other"]
    (tmp_path / "rows.jsonl").write_text('{"task_id": 1, "response": "a"}\n{"task_id": "1", "answer": "b"}\n')
    assert read_answers(tmp_path / "rows.jsonl") == {"1": ["a", "b"]}


def test_listing_the_command_loads_nothing_heavy() -> None:
    """What `loraplug --help` imports of this plugin is without torch, transformers, datasets and libcst."""
    heavy = ("torch", "transformers", "libcst", "datasets", "loraplug_swe.evaluation.evaluate")
    program = f"import sys, loraplug_swe; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_recipe_is_trained_and_its_held_out_bugs_are_evaluated(
    repo: Path, tmp_path: Path, tiny_model: Path, loraplug: Cli
) -> None:
    """Only the rows that the recipe holds out are asked; the lock beside an adapter tells code, format and context."""
    (tmp_path / "recipe.toml").write_text(f"""\
run_name = "small"
[dataset]
use = "swe-bugs"
path = "sums"
count = 6
workers = 1
edit = "function"
context = "none"
tasks_out = "made"
limits.memory_mb = 3000
[formatter]
use = "chat-template"
max_length = 512
[validation]
rows = 2
group_by = "row"
[model]
use = "transformers"
id = '{tiny_model}'
dtype = "float32"
[trainer]
use = "sft"
max_steps = 2
samples = 0
[[exporter]]
use = "adapter"
""")
    trained = loraplug("run", "recipe.toml")
    assert trained.returncode == 0, trained.stderr
    words = ["eval", "outputs/adapters/small", "--base", "--max-tokens", "8", "--json"]
    held = told(loraplug(*words, "--recipe", "recipe.toml"))
    assert {each["all"]["tasks"] for each in held["models"].values()} == {2}
    assert held["settings"]["edit"] == "function" and held["settings"]["context"] == "none"
    assert held["settings"]["memory_mb"] == 3000
    every = told(loraplug(*words, "--tasks", "made", "--out", "all"))
    assert every["models"]["model"]["all"]["tasks"] == 6
    assert every["settings"]["memory_mb"] == 3000
    assert (every["settings"]["edit"], every["settings"]["context"]) == ("function", "none")

    def answers(report: dict[str, Any]) -> dict[tuple[str, str], tuple[str, int]]:
        return {(one["model"], one["task"]): (one["answer"], one["prompt_tokens"]) for one in report["cases"]}

    assert answers(held).items() <= answers(every).items()
