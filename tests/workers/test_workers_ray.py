"""The same on a local Ray cluster of two nodes, one of which is killed in mid-work."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import evolve
from history_repository import CODE, GUARD, HALF, HIGH, LOW, MEAN, MESSAGE, TEXT, History
from worker_jobs import Squares

from command import Cli
from loraplug import InputError, Progress, Reporter, Run, Workers
from loraplug.workers import cluster as module
from loraplug_chat import workers as encoding_workers
from loraplug_chat.formatter import ChatTemplate
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.generator import Completion, Drawn, Sampling
from loraplug_swe.evaluation.reading import Task, read_tasks
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.history.make import read_journal
from loraplug_swe.history.source import SweHistorySource
from loraplug_swe.improve.answers import Asking
from loraplug_swe.improve.data import Bugs
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.patches.reverse import reverse_patch
from loraplug_swe.sandbox.machine import Needs

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
SAMPLE = Path(__file__).parents[2] / "data" / "sample_package"
# Ray takes 127.0.0.1 for the machine's outer address; these are the loopback's, too
_HEAD, _OTHER = "127.0.0.2", "127.0.0.3"
_SMALL = {"num_cpus": 2, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two nodes of two processors, as Ray counts them; no dashboard, little memory."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    head = {**_SMALL, "include_dashboard": False, "node_ip_address": _HEAD}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    module.connect.cache_clear()
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()
    module.connect.cache_clear()


@pytest.fixture
def workers(ray_cluster: Any) -> Workers:
    if not ray_cluster.worker_nodes:  # the first time, and where a test has killed it
        ray_cluster.add_node(**_SMALL, node_ip_address=_OTHER)
        ray_cluster.wait_for_nodes()
    return Workers("ray", ray_cluster.address)


def test_the_nodes_have_what_is_needed(workers: Workers) -> None:
    assert list(workers.preflight(Needs())) == []
    assert set(module.connect(workers.address).nodes.values()) == {_HEAD, _OTHER}


def test_other_versions_are_refused_with_both_told(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module.own_versions()
    monkeypatch.setattr(module, "own_versions", lambda: {**ours, "loraplug": "99.1"})
    (problem,) = workers.preflight()
    assert f"loraplug {ours['loraplug']}, here 99.1" in problem.message


@pytest.mark.parametrize("kind", [SweBugsSource, SweHistorySource])
def test_what_a_node_lacks_is_told_with_its_address(workers: Workers, kind: Any, tmp_path: Path) -> None:
    run = Run("t", cache=tmp_path, workers=workers)
    problems = [one.message for one in kind(str(SAMPLE), python="/no/such/python").unfit_machines(run)]
    assert sorted(told.partition(":")[0] for told in problems) == [_HEAD, _OTHER]
    assert all("there is no interpreter /no/such/python" in told for told in problems)


def test_a_folder_is_sent_and_errors_come_back(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "offset").write_text("7")
    done = workers.map(Squares(folder=tmp_path), [*range(9), -1])
    assert [result for _, result in (next(done) for _ in range(9))] == [item * item + 7 for item in range(9)]
    with pytest.raises(InputError, match="is negative") as caught:
        next(done)
    assert caught.value.todo == "give another"


def test_encoded_rows_are_the_same(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    from loraplug.testing import tiny_tokenizer

    rows = Dataset.from_list([
        {"messages": [{"role": "user", "content": f"question {at}"}, {"role": "assistant", "content": f"answer {at}"}]}
        for at in range(300)
    ])  # fmt: skip
    here = ChatTemplate().encode(rows, tiny_tokenizer(), Run("here", cache=tmp_path / "a")).dataset
    monkeypatch.setattr(encoding_workers, "count", lambda rows, workers: 0)
    monkeypatch.setattr(encoding_workers, "CHUNK", 50)
    run = Run("there", cache=tmp_path / "b", workers=workers)
    there = ChatTemplate().encode(rows, tiny_tokenizer(), run).dataset
    assert here.column_names == there.column_names
    assert here[:] == there[:]


@pytest.mark.parametrize("on", ["then", "today"])
def test_history_is_mined_on_two_nodes_as_on_this_machine(
    workers: Workers, tmp_path: Path, on: Literal["then", "today"]
) -> None:
    """The same rows, tasks, verdicts and counts, and git's attributes of this checkout are heeded."""
    history = History(tmp_path / "sums")
    history.commit("first", {"sums.py": CODE.replace(GUARD, ""), "test_sums.py": LOW + MEAN})
    history.commit(MESSAGE, {"sums.py": CODE, "test_sums.py": LOW + MEAN + HIGH})
    history.commit("only code", {"sums.py": CODE + HALF})
    history.commit("unnoticed", {"sums.py": CODE + HALF + "\n", "test_sums.py": LOW + MEAN + HIGH + "\n"})
    floats = (CODE + HALF).replace("total += value", "total += float(value)")
    history.commit("Mean of strings", {"sums.py": floats, "test_text.py": TEXT})
    (history.folder / ".gitattributes").write_text("*.py diff=own\n")
    history.git("config", "diff.own.xfuncname", "^.*Small sums.*$")
    here, there = (_mined(tmp_path / name, history, on, one) for name, one in (("a", Workers()), ("b", workers)))
    assert here == there
    assert len(here[0]) == 2
    assert on == "today" or ' @@ """Small sums' in here[0][-1]["patch"]


def _mined(place: Path, history: History, on: Literal["then", "today"], workers: Workers) -> tuple[Any, ...]:
    reporter: Any = Reporter()
    run = Run("mined", outputs=place / "out", cache=place / "cache", workers=workers, reporter=reporter)
    rows = list(SweHistorySource(str(history.folder), on=on, timeout=20.0).rows(run))
    tasks = {path.name: path.read_text() for path in sorted(run.folder.rglob("task*")) if path.is_file()}
    verdicts = read_journal(next(run.cache.glob("history/*/journal.jsonl")))
    assert not list(run.cache.glob("history/work-*"))
    return rows, tasks, verdicts, next(line for line in reporter.lines if "rows from" in line)


def _answered() -> dict[str, list[str]]:
    """Of the first sample tasks answers as diffs: right, wrong, none, right again."""
    found = {}
    for task in _sample_tasks():
        right = reverse_patch(task.bug_patch)
        wrong = re.sub(r"^(\+ +).*", r"\1raise ValueError", right, flags=re.MULTILINE)
        found[task.id] = [right, wrong, "no", right]
    return found


def _sample_tasks() -> list[Task]:
    read = [one for one in read_tasks(SAMPLE.parent / "sample_tasks") if isinstance(one, Task)]
    return [evolve(one, asked={"edit": "diff"}) for one in read[:6]]


_RECIPE = """\
run_name = "judged"
[workers]
{workers}
[dataset]
use = "jsonl"
path = "rows.jsonl"
[validation]
rows = 4
group_by = "row"
[formatter]
use = "chat-template"
[model]
use = "transformers"
id = '{model}'
[trainer]
use = "sft"
[[exporter]]
use = "adapter"
"""


def test_eval_judges_on_two_nodes_as_on_this_machine(
    workers: Workers, tmp_path: Path, tiny_model: Path, inside: Cli
) -> None:
    """The journal of results and the report are the same, byte for byte."""
    rows = [{"instruction": one.statement, "response": "x", "task_id": one.id} for one in _sample_tasks()]
    given = [{"task_id": name, "answer": text} for name, texts in _answered().items() for text in texts]
    for name, lines in (("rows", rows), ("answers", given)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    left, tasks = [], SAMPLE.parent / "sample_tasks"
    for where in ('use = "local"', f'use = "ray"\naddress = "{workers.address}"'):
        (tmp_path / "recipe.toml").write_text(_RECIPE.format(workers=where, model=tiny_model))
        done = inside("eval", "--recipe", "recipe.toml", "--tasks", tasks, "--repo", SAMPLE, "--edit", "diff",
                        "--answers", "answers.jsonl", "--out", "out", "--fresh", "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        left.append(
            (done.stdout, *((tmp_path / "out" / name).read_bytes() for name in ("results.jsonl", "report.json")))
        )
    assert left[0] == left[1]
    (counts,) = json.loads(left[0][0])["models"].values()
    assert (counts["all"]["answers"], counts["all"]["resolved"], counts["all"]["invalid"]) == (16, 8, 4)
    (tmp_path / "recipe.toml").write_text(_RECIPE.format(workers=where, model=tiny_model))
    done = inside("eval", "--recipe", "recipe.toml", "--tasks", tasks, "--repo", SAMPLE,
                    "--answers", "answers.jsonl", "--python", "/no/such/python")  # fmt: skip
    assert done.returncode == 2 and f"{_OTHER}: there is no interpreter /no/such/python" in done.stderr


def test_improve_judges_on_two_nodes_as_on_this_machine(workers: Workers, tmp_path: Path) -> None:
    """Of what a round asks, the answers, verdicts and bugs that are left out, in files that are the same."""
    tasks = [*_sample_tasks(), evolve(_sample_tasks()[0], id="none", bug_patch="")]
    rows = {one.id: {"instruction": one.statement, "response": "x", "task_id": one.id} for one in tasks}
    told = _answered() | {"none": ["no"] * 4}

    class Script:
        def answers(self, rows: Any, names: Any, done: Any, sampling: Sampling) -> Iterator[Any]:
            for name in names:
                for at in range(sampling.samples):
                    if (name, at) not in done:
                        yield name, at, Completion(told[name][at], "stop", 1, 1, 0.0, Drawn([1], [2], [-0.5]))

    left = []
    for name, one in (("here", Workers()), ("there", workers)):
        place, scratch = tmp_path / name, tmp_path / name / "scratch"
        scratch.mkdir(parents=True)
        run = Run("t", outputs=place, cache=place, workers=one)
        with Workroom({"": str(SAMPLE)}, None, Checking(), scratch, True) as room:
            asking = Asking(room, lambda _: nullcontext(Script()), run)
            found, unfit = asking.ask(Bugs({task.id: task for task in tasks}, rows), Path("a/adapter"),
                                      Sampling(samples=4), place / "answers", place / "unfit", "round 1",
                                      place / "drawn")  # fmt: skip
            assert len(found) == 24 and sum(result.status == "resolved" for result in found) == 12
            assert list(unfit) == ["none"]
        assert not list(scratch.glob("sent-*"))
        left.append([(place / file).read_bytes() for file in ("answers", "unfit", "drawn")])
    assert left[0] == left[1]


class _Kills(Reporter):
    """Calls a function once a few bugs were tried."""

    def __init__(self, kill: Callable[[], None]) -> None:
        super().__init__()
        self.kill, self.killed_at = kill, 0.0

    @contextmanager
    def progress(self, title: str, total: float | None) -> Iterator[Progress]:
        reporter = self

        class Bar(Progress):
            def advance(self, steps: float = 1, **figures: Any) -> None:
                if figures.get("tried", 0) >= 4 and not reporter.killed_at:
                    reporter.killed_at = time.monotonic()
                    reporter.kill()

        yield Bar()


def _hunted(tmp_path: Path, name: str, workers: Workers, reporter: Reporter) -> tuple[list[Any], list[str]]:
    run = Run(
        name, outputs=tmp_path / name / "out", cache=tmp_path / name / "cache", workers=workers, reporter=reporter
    )
    rows = list(SweBugsSource(str(SAMPLE), count=24, timeout=20.0).rows(run))
    tasks = sorted((run.folder / "tasks").glob("*.json"))
    return rows, [json.dumps(json.loads(path.read_text()), sort_keys=True) for path in tasks]


def test_hunting_on_two_nodes_makes_the_same_also_where_one_is_killed(
    ray_cluster: Any, workers: Workers, tmp_path: Path
) -> None:
    """What the node that is killed was at is done by the other."""
    here = _hunted(tmp_path, "here", Workers(), Reporter())
    assert len(here[0]) == len(here[1]) == 24
    assert _hunted(tmp_path, "there", workers, Reporter()) == here

    other = next(node for node in ray_cluster.worker_nodes if node.node_ip_address == _OTHER)
    reporter = _Kills(lambda: ray_cluster.remove_node(other, allow_graceful=False))
    assert _hunted(tmp_path, "killed", workers, reporter) == here
    assert reporter.killed_at
    assert time.monotonic() - reporter.killed_at < 180

    done = workers.map(Squares(), range(60))  # the one that is left does all
    assert list(done) == [(item, item * item) for item in range(60)]
