"""`runs list`, `show` and `compare`: whole runs, runs at work, and whatever else may lie in the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loraplug_tools.runs
from command import Cli
from loraplug import InputError, RunRecord, duration, exclusive_lock, load_registry, read_run, read_runs
from loraplug.cli import cli
from loraplug_tools.runs.formatting import sparkline, table

STEPS = [{"step": step, "loss": 5 - step / 10, "learning_rate": 0.01, "seconds": step * 2} for step in range(1, 9)]


def stage(name: str, begun: float, ended: float | None, **more: Any) -> list[dict[str, Any]]:
    part = {"stage": name, "component": "x"}
    return [
        {"time": begun, "event": "stage-start", **part},
        *({"time": begun + step["seconds"], "event": "metrics", **step} for step in more.get("steps", ())),
        *([{"time": ended, "event": more.get("end", "stage-end"), **part, **more.get("said", {})}] if ended else []),
    ]


def lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """A run's folder as a run writes it."""

    def write(name: str, events: list[dict[str, Any]], state: dict[str, Any] | None = None, lock: str = "") -> Path:
        folder = tmp_path / "outputs/runs" / name
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / "events.jsonl").write_text(lines(events))
        if state is not None:
            (folder / "state.json").write_text(json.dumps(state))
        if lock:
            (folder / "recipe.lock.toml").write_text(lock)
        return folder

    return write


RECIPE = {
    "run_name": "x",
    "seed": 42,
    "dataset": {"use": "jsonl", "path": "rows.jsonl", "rename": {}},
    "trainer": {"use": "sft", "epochs": 3.0, "learning_rate": 0.01, "lora": {"r": 4, "alpha": 32}},
}
FIGURES = {"validation_loss_before": 5.5, "validation_loss_after": 4.5, "steps": 8, "peak_memory_bytes": 6e8}
LOCK = '[[exporter]]\nuse = "adapter"\n[lock.versions]\ntorch = "2.13"\n'


@pytest.fixture
def done(make: Any, tmp_path: Path) -> Path:
    made = tmp_path / "outputs/adapters/good"
    made.mkdir(parents=True)
    events = [*stage("dataset", 100, 101), *stage("trainer", 110, 130, steps=STEPS), *stage("exporter", 500, 502)]
    state = {
        "recipe": RECIPE,
        "artefacts": {str(made): "made"},
        "figures": FIGURES,
        "data": {"rows": 12, "sha256": "a1"},
    }
    folder: Path = make("good", events, state, LOCK)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command in this process, with the commands of `loraplug_tools.runs`."""
    registry = load_registry()
    if not any(command.name == "runs" for command, _ in registry.commands):
        registry = load_registry(extra=[("runs", loraplug_tools.runs)])
    monkeypatch.setitem(cli.__dict__, "registry", registry)
    monkeypatch.chdir(tmp_path)

    def run(*words: object, columns: int = 200) -> Result:
        env = {"COLUMNS": str(columns)}
        return CliRunner().invoke(cli, [str(word) for word in words], env=env, catch_exceptions=False)

    return run


def test_a_finished_run(done: Path) -> None:
    """Time counts in stages only, losses come by step, what was made is looked for."""
    run = read_run(done)
    assert (run.status, run.stage, run.started, run.starts) == ("done", None, 100, 1)
    assert run.seconds == 1 + 20 + 2
    assert run.losses == [(step["step"], step["loss"]) for step in STEPS]
    assert run.validations == [(0, 5.5), (8, 4.5)]
    assert [*run.artefacts.values()] == [True]
    assert run.recipe["trainer.lora.r"] == 4
    assert run.facts == {"versions.torch": "2.13", "data.rows": 12, "data.sha256": "a1"}
    assert not run.remarks


@pytest.mark.parametrize(
    ("events", "status", "where"),
    [
        ([*stage("dataset", 1, 2), *stage("trainer", 3, None, steps=STEPS[:3])], "interrupted", "trainer"),
        ([*stage("dataset", 1, 2), *stage("model", 3, 4, end="stage-failed", said={"error": "no"})], "failed", "model"),
        ([*stage("dataset", 1, 2), *stage("formatter", 3, 4)], "stopped", "formatter"),
        ([], "interrupted", None),
    ],
)
def test_runs_that_did_not_end_well(make: Any, events: list[Any], status: str, where: str | None) -> None:
    """Killed, failed and stopped runs are told apart, with the stage."""
    run = read_run(make("bad", events))
    assert (run.status, run.stage) == (status, where)
    assert run.error == ("no" if status == "failed" else None)


def test_an_export_that_is_missing_makes_a_run_unfinished(make: Any) -> None:
    """Trained, one of two exporters done, killed in the second."""
    events = [*stage("trainer", 1, 9, steps=STEPS), *stage("exporter", 9, 10), *stage("exporter", 10, None)]
    state = {"recipe": RECIPE, "artefacts": {"/a": "made", "/b": "begun"}, "figures": FIGURES}
    run = read_run(make("half", events, state, LOCK))
    assert (run.status, run.stage) == ("interrupted", "exporter")
    assert run.artefacts == {"/a": False}


def test_steps_taken_again_count_once(make: Any) -> None:
    """After a kill, the step that was taken again is the one that counts; both starts' time does."""
    again = [{**STEPS[1], "loss": 1.0}, {"step": 3, "validation_loss": 2.0}]
    events = [*stage("dataset", 0, 1), *stage("trainer", 1, None, steps=STEPS[:2])]
    events += [*stage("dataset", 1000, 1001), *stage("trainer", 1001, 1005)]
    events += [{"time": 1005, "event": "metrics", **entry} for entry in again]
    run = read_run(make("again", events))
    assert run.losses == [(1, 4.9), (2, 1.0)]
    assert run.validations == [(3, 2.0)]
    assert (run.starts, run.seconds) == (2, 1 + 4 + 1 + 4)


def test_a_run_at_work_is_running_and_unharmed(done: Path) -> None:
    """The lock tells; reading does not take it away from who holds it."""
    with exclusive_lock(done, "good"):
        assert read_run(done).status == "running"
        code = "import sys; from pathlib import Path; from loraplug import read_run; "
        code += "print(read_run(Path(sys.argv[1])).status)"
        told = subprocess.run([sys.executable, "-c", code, str(done)], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "running"
    assert read_run(done).status == "done"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_cut_short_or_spoilt_never_raise(done: Path, data: st.DataObject) -> None:
    """Any file ends anywhere, or has other bytes somewhere: read as far as whole, or unreadable with a reason."""
    name = data.draw(st.sampled_from(["events.jsonl", "state.json", "recipe.lock.toml", "metrics.jsonl"]))
    before = lines(STEPS).encode() if name == "metrics.jsonl" else (done / name).read_bytes()
    cut = data.draw(st.integers(0, len(before)))
    spoilt = before[:cut] + data.draw(st.binary(max_size=8)) + data.draw(st.sampled_from([b"", before[cut + 3 :]]))
    (done / name).write_bytes(spoilt)
    try:
        run = read_run(done)
    except InputError as error:
        assert (name == "state.json" and "damaged" in str(error)) or "not a JSON object" in str(error)
    else:
        whole = sum(_is_table(line) for line in spoilt.split(b"\n")) if name == "events.jsonl" else 0
        told = sum(bool(line.strip()) for line in spoilt.split(b"\n"))
        if name == "events.jsonl":
            assert (whole == told) == (not run.remarks)
    finally:
        (done / name).write_bytes(before)


def _is_table(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["recipe", "artefacts", "figures", "data", "validation", "base", "samples"])
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "time": JSON,
        "event": st.sampled_from(["stage-start", "stage-end", "stage-failed", "metrics"]) | JSON,
        "stage": JSON,
        "step": st.integers(-5, 10**30) | JSON,
        "loss": JSON,
        "validation_loss": JSON,
        "error": JSON,
    },
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(KEYS, JSON), events=st.lists(EVENT, max_size=6), columns=st.integers(1, 250))
def test_whatever_values_are_in_it(make: Any, call: Any, done: Path, state: Any, events: Any, columns: int) -> None:
    """Well-formed files with senseless values: every command answers, on any terminal, and in valid JSON."""
    folder = done.parent / "odd"
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "events.jsonl").write_text(lines(events))
    for words in (["list"], ["show", "odd"], ["compare", "good", "odd"]):
        said = call("runs", *words, columns=columns)
        assert said.exit_code == 0, said.output
        json.loads(call("runs", *words, "--json").stdout, parse_constant=lambda text: pytest.fail(text))


def test_strange_folders_are_listed_with_the_reason(make: Any, done: Path, call: Any) -> None:
    """A file, a folder of somebody else, broken state and a name with an escape sequence."""
    place = done.parent
    (place / "file").touch()
    (place / "\x1b[31mred").mkdir()
    make("broken", [], None)
    (place / "broken/state.json").write_text('{"a": [')
    said = call("runs", "list").output
    assert "file: unreadable: not a folder" in said
    assert "?[31mred: unreadable: not a run folder" in said and "\x1b" not in said
    assert "broken: unreadable: state.json is damaged" in said
    told = json.loads(call("runs", "list", "--json").stdout)
    assert [run["status"] for run in told] == ["done", "unreadable", "unreadable", "unreadable"]


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_nothing_is_wider_than_the_terminal(make: Any, done: Path, call: Any, columns: int) -> None:
    """The list and the comparison fit; on a narrow one columns are left out or put below each other."""
    state = {"recipe": RECIPE | {"seed": 7}, "artefacts": {}, "figures": FIGURES | {"train_loss": 1.0}}
    make("a-run-with-quite-a-long-name-" * 2, stage("trainer", 1, None, steps=STEPS), state)
    for words in (["list"], ["compare", "good", "a-run-with-quite-a-long-name-" * 2]):
        said = call("runs", *words, columns=columns).output
        assert max(map(len, said.splitlines())) <= columns
        assert "good" in said


def test_show_tells_what_is_not_the_default(done: Path, call: Any) -> None:
    """Figures, a sparkline, what was made, and the values the recipe's author chose."""
    said = call("runs", "show", "good").output
    assert "good: done" in said
    assert "▅▄▄▃▂▂▁▁" in said and "4.900 to 4.200" in said
    assert "validation loss after    4.500" in said and "0.60 GB" in said
    assert "trainer.learning_rate = 0.01" in said and "trainer.lora.r = 4" in said
    assert "trainer.epochs" not in said and "trainer.lora.alpha" not in said
    assert call("runs", "show", done).output.splitlines()[:20] == said.splitlines()[:20]


def test_compare_tells_what_differs(make: Any, done: Path, call: Any) -> None:
    """The resolved values that differ and no others; a run without a lock file does not differ in all of it."""
    other = json.loads(json.dumps(RECIPE))
    other["trainer"]["lora"]["r"] = 16
    make("other", stage("trainer", 1, None), {"recipe": other, "artefacts": {}, "data": {"rows": 12, "sha256": "b2"}})
    told = json.loads(call("runs", "compare", "good", "other", "--json").stdout)
    assert told["differences"] == {"trainer.lora.r": [4, 16], "data.sha256": ["a1", "b2"]}
    assert [run["name"] for run in told["runs"]] == ["good", "other"]
    said = call("runs", "compare", "good", "other").output
    assert "trainer.lora.r" in said and "torch" not in said


@pytest.mark.slow
def test_loraplug_runs_of_a_real_run(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """What a run really writes is understood: done, with its losses; then one that fails, with its reason."""
    assert loraplug("run", recipe).returncode == 0
    run = read_run(tmp_path / "outputs/runs/tiny")
    assert (run.status, run.starts, [step for step, _ in run.losses]) == ("done", 1, [1, 2, 3, 4])
    assert [*map(Path, run.artefacts)] == [tmp_path / "outputs/adapters/tiny", tmp_path / "outputs/merged/tiny"]
    assert 0 < run.seconds < 600 and run.facts["data.rows"] == 12 and not run.remarks
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    (recipe.parent / "late.jsonl").write_text(row * 150 + "{broken\n")  # beyond what is looked at before the run
    assert loraplug("run", recipe, "--set", "run_name=bad", "--set", "dataset.path=late.jsonl").returncode == 2
    bad = read_run(tmp_path / "outputs/runs/bad")
    assert (bad.status, bad.stage) == ("failed", "dataset") and "late.jsonl" in str(bad.error)


def test_unknown_names(done: Path, call: Any) -> None:
    """A near name is offered; one run is not enough to compare; no folder is no error."""
    from loraplug import InputError

    with pytest.raises(InputError, match="did you mean good"):
        call("runs", "show", "godo")
    with pytest.raises(InputError, match="two runs"):
        call("runs", "compare", "good")
    assert "no runs in" in call("runs", "list", "--outputs", "nowhere").output
    assert read_runs(Path("nowhere")) == ([], {})


def test_sparkline() -> None:
    """Bars are means over equal parts of the steps; gaps stay blank; one value is the lowest bar."""
    points = [(step, float(step)) for step in range(1, 9)]
    assert sparkline(points, 8, 1, 8, 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(points, 4, 1, 8, 8) == "▁▃▆█"
    assert sparkline([(1, 1.0), (8, 1.0)], 8, 1, 1, 8) == "▁      ▁"


def test_sparkline_where_bars_cannot_be_written() -> None:
    """A pipe in a code page without bars gets other letters, not an error."""
    code = "from loraplug_tools.runs.formatting import sparkline; print(sparkline([(1, 0.0), (2, 1.0)], 2, 0, 1, 2))"
    env = {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": ":".join(sys.path)}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert told.stdout.split() == [b"_#"]


def test_words() -> None:
    """Times and tables."""
    assert [duration(seconds) for seconds in (4.2, 200, 18720)] == ["4 s", "3 min 20 s", "5 h 12 min"]
    assert table(("A", "B"), [("1", "22")], 80) == ["A  B", "1  22"]
    assert table(("A", "B"), [("1", "22")], 3) == ["A", "1"]
    assert RunRecord("x", Path("x"), "done").losses == ()


def test_no_heavy_imports(done: Path) -> None:
    """Looking at runs loads neither torch nor rich."""
    code = "import sys; from loraplug.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'numpy', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    words = ["runs", "list", "--outputs", str(done.parents[1])]
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert told.stderr.splitlines()[-1] == "[]" and "good" in told.stdout


def test_a_run_that_was_refused_before_its_first_work_is_none(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """It has left a lock file and nothing else."""
    assert inside("run", recipe, "--set", "dataset.path=none.jsonl").returncode == 2
    assert (tmp_path / "outputs/runs/tiny/.lock").exists()
    assert read_runs(tmp_path / "outputs") == ([], {})
