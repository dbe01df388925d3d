"""`loraplug eval --set`: general questions, their checks in the sandbox, and the model beside its base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Cli
from loraplug import InputError
from loraplug_swe.evaluation.questions import checked, read_questions
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox without code."""
    home = tmp_path_factory.mktemp("box")
    (home / "empty").mkdir()
    with Sandbox(home / "empty", Limits(), home=home) as made:
        yield made


@pytest.mark.parametrize(
    ("told", "answer", "reason"),
    [
        ({"answer": "Paris"}, " Paris\n", ""),
        ({"answer": ["Paris", "Paris."]}, "Paris.", ""),
        ({"answer": "Paris"}, "paris", "is another answer"),
        ({"pattern": r"\b4\b"}, "It is 4.", ""),
        ({"pattern": r"\b4\b"}, "It is 42.", "does not match"),
        ({"pattern": r"(a+)+$"}, "a" * 60 + "!", "exceeds its time"),
        ({"check": "assert int(answer) % 2 == 0"}, "8", ""),
        ({"check": "assert int(answer) % 2 == 0"}, "9", "the check fails"),
        ({"check": "exec(code)\nassert double(4) == 8"}, "So:\n```python\ndef double(n):\n    return 2 * n\n```\n", ""),
        ({"check": "exec(code)\nassert double(4) == 8"}, "import os\nos._exit(0)", "the check fails"),
        ({"check": "exec(code)"}, "open('/etc/passwd').read()\n1/0", "the check fails"),
    ],
)
def test_answers_are_checked(box: Sandbox, tmp_path: Path, told: object, answer: str, reason: str) -> None:
    """Exactly, by a pattern, or by a program, which has to come to its end."""
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"prompt": "?", **told}))  # type: ignore[dict-item]
    [question] = read_questions(path)
    verdict = checked(question, answer, box)
    assert (verdict.status, verdict.reason) == ("invalid" if reason else "resolved", reason)


def test_wrong_lines_are_told_together(tmp_path: Path) -> None:
    """Each with its number; patterns and checks are looked at before a model is asked."""
    lines = [
        {"prompt": "?", "answer": "a"}, {"prompt": "?"}, {"prompt": "?", "pattern": "("},
        {"prompt": "?", "check": "if"},
        {"messages": [{"role": "assistant", "content": "x"}], "answer": "a"}, {"prompt": "?", "answer": "a", "kid": 1},
    ]  # fmt: skip
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError) as error:
        read_questions(path)
    text = str(error.value)
    assert all(f"line {number}: " in text for number in range(2, 7)) and "line 1: " not in text
    assert "needs one of answer, pattern, check; has none" in text and "unknown key kid" in text


def test_a_model_and_its_base_are_asked(tmp_path: Path, tiny_model: Path, inside: Cli) -> None:
    """Kinds apart, a page, and on from where it was; options of bugs are refused."""
    lines = [
        {"prompt": "hello", "pattern": "", "kind": "any"} | {"pattern": "(?s).*"},
        {"id": "second", "messages": [{"role": "user", "content": "hi"}], "answer": "no such answer", "kind": "exact"},
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["eval", tiny_model, "--base", tiny_model, "--set", "set.jsonl", "--max-tokens", "4", "--json"]
    done = inside(*words, "--html", "page.html")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for one in told["models"].values():
        assert one["kinds"]["any"]["resolved"] == 1 and one["kinds"]["exact"]["resolved"] == 0
    assert told["paired"] == {"only_model": 0, "only_base": 0, "both": 1, "p": 1.0}
    page = (tmp_path / "page.html").read_text()
    assert "is another answer" in page and "the injected bug" not in page
    results = next((tmp_path / "outputs" / "evals").rglob("results.jsonl"))
    before = results.read_bytes()
    assert inside(*words).returncode == 0 and results.read_bytes() == before
    refused = inside(*words, "--turns", "2", "--tasks", "x")
    assert refused.returncode == 2 and "only for bug tasks, which --set has none of: --tasks, --turns" in refused.stderr


@pytest.mark.slow
def test_tasks_of_the_harness(tmp_path: Path, tiny_model: Path, loraplug: Cli) -> None:
    """Its own metrics, for the model and its base; a task of one's own; unknown tasks are told."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra harness)")
    (tmp_path / "tasks").mkdir()
    rows = [{"question": "hello", "choices": [" yes", " no"], "gold": 0}] * 4
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks" / "mine.yaml").write_text(f"""\
task: my_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{tmp_path / "rows.jsonl"}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}]
""")
    words = ["eval", tiny_model, "--base", tiny_model, "--harness-path", "tasks", "--harness"]
    done = loraplug(*words, "my_choices", "--limit", "3")
    assert done.returncode == 0, done.stderr
    [head, line] = done.stdout.splitlines()
    assert head.split() == ["task", "metric", "model", "base"] and line.split()[:2] == ["my_choices", "acc"]
    told = json.loads((tmp_path / "outputs" / "evals" / f"{tiny_model.name}-harness" / "harness.json").read_text())
    assert told["models"]["model"]["my_choices"]["acc,none"] in (0.0, 1.0)
    refused = loraplug(*words, "no_such_task")
    assert refused.returncode == 2 and "no task no_such_task" in refused.stderr


def test_without_the_harness_the_way_to_it_is_told(
    tmp_path: Path, inside: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded."""
    import loraplug_swe.evaluation.harness as harness

    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    refused = inside("eval", tiny_model, "--harness", "arc_easy")
    assert refused.returncode == 2 and 'pip install "lm-eval>=0.4.13"' in refused.stderr
