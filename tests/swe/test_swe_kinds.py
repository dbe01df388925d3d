"""Kinds of tasks: which way the patch of each goes, through every place, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from swe_helpers import Repo, checkout_of, read_rejects, replay, synth, write_tasks

from loraplug import InputError, Run
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.conversations.synth import SweSynthSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FORWARD = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def half(x):\n-    return x // 3\n+    return x // 2\n"
BACK = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def half(x):\n-    return x // 2\n+    return x // 3\n"
ISSUE = "half(4) is 1"
Row = dict[str, Any]

SMITH: Row = {  # SWE-bench/SWE-smith: no base_commit; the patch puts the bug in
    "instance_id": "bob__calc.0a1b2c3d.func_pm_op_swap__5k2x", "repo": "swesmith/bob__calc.0a1b2c3d", "patch": BACK,
    "FAIL_TO_PASS": ["t.py::test_half"], "PASS_TO_PASS": ["t.py::test_one"], "created_at": "2025-05-01 10:00:00",
    "image_name": "swebench/swesmith.x86_64.bob_1776_calc.0a1b2c3d", "problem_statement": ISSUE,
}  # fmt: skip
BENCH: Row = {  # SWE-bench, and the columns of SWE-Gym
    "repo": "bob/calc", "instance_id": "bob__calc-7", "base_commit": COMMIT, "patch": FORWARD,
    "test_patch": BACK.replace("calc.py", "t.py"), "problem_statement": ISSUE, "hints_text": "",
    "created_at": "2023-01-01T00:00:00Z", "version": "1.0", "FAIL_TO_PASS": '["t.py::test_half"]', "PASS_TO_PASS": "[]",
    "environment_setup_commit": COMMIT,
}  # fmt: skip
GYM = {key: value for key, value in BENCH.items() if key != "environment_setup_commit"} | {
    "FAIL_TO_PASS": ["t.py::test_half"], "PASS_TO_PASS": [],
}  # fmt: skip
REBENCH = BENCH | {
    "install_config": {"python": "3.9", "test_cmd": "pytest"}, "requirements": "x==1", "license_name": "MIT",
    "docker_image": "swerebench/sweb.eval.x86_64.bob_1776_calc-7", "meta": {"is_lite": True}, "FAIL_TO_FAIL": [],
}  # fmt: skip
MULTI: Row = {  # ByteDance-Seed/Multi-SWE-bench
    "org": "bob", "repo": "calc", "number": 7, "state": "closed", "title": "Halve", "body": "Fixes #3",
    "base": {"label": "bob:main", "ref": "main", "sha": COMMIT}, "fix_patch": FORWARD, "test_patch": BACK,
    "resolved_issues": [{"number": 3, "title": "half is off", "body": ISSUE}], "instance_id": "bob__calc-7",
    "f2p_tests": {"t.py::test_half": {"run": "FAIL", "fix": "PASS"}}, "run_result": {"passed_count": 1},
}  # fmt: skip
KINDS = [
    (SMITH, "SWE-smith", "the answer is the reversed patch"),
    (BENCH, "SWE-bench", "is used unchanged as the answer"),
    (GYM, "SWE-bench", "is used unchanged as the answer"),
    (REBENCH, "SWE-rebench", "is used unchanged as the answer"),
    (MULTI, "Multi-SWE-bench", "fix_patch is the fix, and is used unchanged as the answer"),
    (synth(COMMIT, "", BACK), "SWE-SYNTH", "the answer is the reversed bug.patch"),
    (synth(COMMIT, FORWARD), "SWE-SYNTH", "the answer is original.gold_patch"),
]


def made(run: Run, tasks: str, **options: Any) -> list[str]:
    return [one["response"] for one in SweSynthSource(tasks=tasks, **options).rows(run)]


@pytest.mark.parametrize(("task", "name", "told"), KINDS)
def test_each_kind_is_answered_by_the_fix(task: Row, name: str, told: str, run: Run, tmp_path: Path) -> None:
    """And the log says which patch that is."""
    assert made(run, write_tasks(tmp_path, [task])) == [FORWARD]
    assert any(said.startswith(f"1 {name} ") and said.endswith(told) for said in run.reporter.lines)


@contextmanager
def bucket(tasks: list[Row]) -> Iterator[str]:
    """A server of `task_<11 digits>.json`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            at = int(self.path.rsplit("_", 1)[1].removesuffix(".json"))
            body = json.dumps(tasks[at]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/bugs"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("place", ["folder", ".json", ".jsonl", ".parquet", "hub", "bucket"])
def test_every_place_tells_them_apart(place: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds in one place; Arrow gives every row the columns of all, with nulls."""
    tasks = [dict(task) for task, _, _ in KINDS]
    tasks[2]["instance_id"], tasks[3]["instance_id"], tasks[4]["instance_id"] = (f"bob__calc-{at}" for at in (8, 9, 10))
    tasks[6] = tasks[6] | {"source": tasks[6]["source"] | {"swe_instance_id": "ada__lib-2"}}
    columns = dict.fromkeys(key for task in tasks for key in task)
    if place == "folder":
        (tmp_path / "tasks").mkdir()
        for at, task in enumerate(tasks):
            (tmp_path / "tasks" / f"task_{at}.json").write_text(json.dumps(task))
        where = str(tmp_path / "tasks")
    elif place in (".json", ".jsonl"):
        where = write_tasks(tmp_path, [tasks] if place == ".json" else tasks, f"tasks{place}")
    else:
        import datasets

        texts = [
            {key: json.dumps(one) if isinstance(one, dict | list) else one for key, one in (columns | task).items()}
            for task in tasks
        ]
        datasets.Dataset.from_list(texts).to_parquet(tmp_path / "tasks.parquet")
        where = str(tmp_path / "tasks.parquet")
        if place == "hub":
            there = datasets.load_dataset("parquet", data_files=where, split="train", cache_dir=str(tmp_path))
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: there)
            where = "hub:bob/tasks"
    if place == "bucket":
        with bucket(tasks) as url:
            assert made(run, url, ids=f"0-{len(tasks) - 1}") == [FORWARD] * len(tasks)
        return
    assert made(run, where) == [FORWARD] * len(tasks)


def without(task: Row, *keys: str, **more: Any) -> Row:
    return {key: value for key, value in task.items() if key not in keys} | more


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (without(SMITH, instance_id="calc-0001"), FORWARD),
        (without(SMITH, "image_name", instance_id="calc-0001"), FORWARD),
        (without(SMITH, "repo", "image_name"), FORWARD),
        (without(SMITH, instance_id="bob__calc.0a1b2c3d.pr_12"), FORWARD),
        (without(SMITH, repo="bob/calc"), FORWARD),
        (without(SMITH, base_commit=COMMIT), FORWARD),
        (without(SMITH, base_commit=None, test_patch="", hints_text=None), FORWARD),
        ({key.upper(): value for key, value in SMITH.items()}, FORWARD),
        (without(SMITH, FAIL_TO_PASS='["t.py::test_half"]', PASS_TO_PASS="[]"), FORWARD),
        (without(BENCH, "base_commit"), FORWARD),
        (without(BENCH, "base_commit", "test_patch", "environment_setup_commit"), FORWARD),
        (without(BENCH, instance_id="instance_bob__calc-0123abcd-vnan"), FORWARD),
        (without(BENCH, image_name="bob/images:calc-7"), FORWARD),
        ({key.lower(): value for key, value in BENCH.items()}, FORWARD),
        (without(REBENCH, install_config=json.dumps(REBENCH["install_config"])), FORWARD),
        (without(MULTI, base=json.dumps(MULTI["base"]), resolved_issues=json.dumps(MULTI["resolved_issues"])), FORWARD),
        (without(MULTI, "instance_id", resolved_issues={"number": [3], "title": ["half is off"], "body": [ISSUE]}),
         FORWARD),
        # either reading, or none
        (without(BENCH, "base_commit", "test_patch", "environment_setup_commit", instance_id="x1"), None),
        (without(SMITH, "image_name", instance_id="calc-1", repo="bob/calc"), None),
        (without(BENCH, repo="swesmith/bob__calc.0a1b2c3d"), None),
        (without(BENCH, instance_id=SMITH["instance_id"]), None),
        (without(SMITH, base_commit=COMMIT, test_patch=FORWARD), None),
        (without(SMITH, instance_id="bob__calc-3", repo="bob/calc"), None),
    ],
)  # fmt: skip
def test_near_misses(task: Row, answer: str | None, run: Run, tmp_path: Path) -> None:
    """Renamed ids, columns left out or added, other case, JSON texts: known by what is left, or refused until told."""
    tasks = write_tasks(tmp_path, [task])
    if answer is not None:
        assert made(run, tasks) == [answer]
        return
    with pytest.raises(InputError, match="unclear-direction") as error:
        made(run, tasks)
    assert 'answer = "gold"' in str(error.value)
    (reject,) = read_rejects(run)
    assert reject["instance_id"] == task["instance_id"]
    given = task["patch"]
    assert made(run, tasks, answer="gold") == [given]
    assert made(run, tasks, answer="revert-bug") == [BACK if given == FORWARD else FORWARD]


def test_an_unclear_row_among_clear_ones_is_a_reject(run: Run, tmp_path: Path) -> None:
    """Counted and told, with the option that helps; the others make rows."""
    unclear = {"instance_id": "q7", "patch": FORWARD, "problem_statement": ISSUE}
    assert made(run, write_tasks(tmp_path, [SMITH, unclear, BENCH])) == [FORWARD, FORWARD]
    (reject,) = read_rejects(run)
    assert (reject["instance_id"], reject["reason"]) == ("q7", "unclear-direction")
    assert 'set answer = "gold"' in reject["detail"]
    assert "1 unclear-direction" in run.reporter.warnings[0]


def test_answer_never_turns_a_known_kind_round(run: Run, tmp_path: Path) -> None:
    """`gold` finds no gold patch in SWE-smith's rows, `revert-bug` no bug in SWE-bench's."""
    tasks = write_tasks(tmp_path, [SMITH, BENCH])
    assert made(run, tasks, answer="gold") == [FORWARD]
    assert [(one["reason"], "adds the bug" in one["detail"]) for one in read_rejects(run)] == [("empty-patch", True)]
    assert made(run, tasks, answer="revert-bug") == [FORWARD]
    assert [one["reason"] for one in read_rejects(run)] == ["no-bug"]


def test_a_models_attempt_is_no_task(run: Run, tmp_path: Path) -> None:
    """A trajectory's `patch` is what a model wrote, right or wrong."""
    tasks = write_tasks(tmp_path, [SMITH | {"traj_id": "x", "resolved": False}, BENCH | {"model_patch": BACK}])
    with pytest.raises(InputError, match="2 unknown-shape"):
        made(run, tasks)
    assert [one["task_id"] for one in read_rejects(run)] == [SMITH["instance_id"], BENCH["instance_id"]]


def test_a_swe_smith_row_with_a_commit_is_proved(repo: Repo, run: Run, tmp_path: Path) -> None:
    """code-context shows the tree with the bug, and the patch that takes it back applies to it."""
    base = repo.commit({"calc.py": "def half(x):\n    return x // 2\n"})
    task = without(SMITH, base_commit=base, repo="ada/lib")
    options: Row = {"mode": "code-context", "clone_url": str(tmp_path / "{repo}")}
    (row,) = SweSource(tasks=write_tasks(tmp_path, [task]), **options).rows(run)
    assert "return x // 3" in row["messages"][5]["content"]
    replay(row["messages"], checkout_of(repo, base, tmp_path / "checkout", BACK))
    with pytest.raises(InputError, match="1 no-commit"):
        list(SweSource(tasks=write_tasks(tmp_path, [SMITH | {"repo": "ada/lib"}]), **options).rows(run))
