"""`loraplug improve` from end to end: real bugs, tests and trainings; answers by a script, and by a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from improve_helpers import RECIPE, Rule, Script, make_repository

from command import ROOT, Cli
from loraplug import InputError
from loraplug.cli import cli
from loraplug_swe.improve import folder as folder_of_rounds
from loraplug_swe.improve.start import start


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> Path:
    """A folder with the repository and the recipe, in which commands run."""
    make_repository(tmp_path / "sums")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=tiny_model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAPLUG_CACHE", str(shared_cache))
    return tmp_path


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bugs are looked for once."""
    return tmp_path_factory.mktemp("improve-cache")


def work(rule: Rule | Script, *settings: str, fresh: bool = False) -> dict[str, Any]:
    """The report of what a command comes to."""
    start(cli, Path("recipe.toml"), settings, fresh, False, rule if isinstance(rule, Script) else Script(rule))  # type: ignore[arg-type]
    report: dict[str, Any] = json.loads(Path("outputs/improve/small/report.json").read_text())
    return report


def rows(number: int, name: str) -> list[dict[str, Any]]:
    """A file of rows of a round."""
    return lines(Path(f"outputs/improve/small/round-{number}/data/{name}.jsonl"))


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_round_that_gains_is_kept_and_one_that_loses_is_not(place: Path) -> None:
    """Round 1 fixes what nobody did and is kept; round 2 forgets all, so round 1 stays the best."""

    def rule(number: int, name: str, sample: int) -> str:
        if sample == 0 and number == 1:
            return "right"
        return ["wrong", "right", "other"][sample] if number < 2 else "wrong"

    script = Script(rule)
    told = work(script)
    first, second = told["rounds"][1:]
    assert told["best"] == 1 and (first["kept"], second["kept"]) == (True, False)
    assert first["lost"] == [] and len(first["gained"]) == first["held"]["all"]["bugs"] == len(second["lost"])
    assert told["rounds"][0]["held"]["all"]["resolved"] == 0 and first["held"]["all"]["rate"] == 1.0
    assert {number for number, _, _ in script.asked} == {0, 1, 2}

    made = rows(1, "answers")
    pool = {row["task_id"]: row for row in lines(Path("outputs/improve/small/data/pool.jsonl"))}
    held = {row["group"][-1] for row in lines(Path("outputs/improve/small/data/held.jsonl"))}
    assert not held & {row["group"][-1] for row in made}
    assert len(made) == 2 * first["bugs"]  # the gold answer, and another that passes, too
    by_bug = {row["task_id"]: pool[row["task_id"]] for row in made}
    assert sum(row["response"] == by_bug[row["task_id"]]["response"] for row in made) == first["bugs"]
    assert all(row["instruction"] == by_bug[row["task_id"]]["instruction"] for row in made)
    hard = {one["task_id"]: one for one in lines(Path("outputs/improve/small/difficulty.jsonl"))}
    assert hard.keys() >= by_bug.keys() and all(one["answers"] in (3, 6) for one in hard.values())
    assert all(one["lines_changed"] > 0 and 0 < one["rate"] <= 1 for one in hard.values())
    pairs = rows(1, "preferences")
    assert len(pairs) == first["bugs"] and first["rows"]["replay"] == len(rows(1, "replay-bugs"))
    assert set(pairs[0]) == {"prompt", "chosen", "rejected", "task_id", "group"}
    assert "return 100" in pairs[0]["rejected"][0]["content"] and pairs[0]["prompt"][0]["role"] == "user"
    lock = Path("outputs/adapters/small-round-2/recipe.lock.toml").read_text()
    assert "outputs/runs/small-round-1/adapter" in lock.replace("\\", "/")


def test_answers_are_read_in_the_format_that_the_rows_ask_for(place: Path) -> None:
    """Right answers as numbered lines, as the recipe of this command has them."""
    settings = (
        "dataset.edit=lines",
        "dataset.context=function",
        "formatter.overlong=drop",
        "formatter.max_dropped=0.9",
    )
    told = work(lambda *_: "right", *settings, "improve.rounds=1")
    assert told["rounds"][0]["held"]["all"]["rate"] == 1.0
    answers = lines(Path("outputs/improve/small/round-1/answers.jsonl"))
    assert {one["status"] for one in answers if "status" in one} == {"resolved"}
    assert rows(1, "answers")[0]["response"].partition("|")[0].isdecimal()


def test_other_sets_are_replayed_and_watched(place: Path) -> None:
    """Chats of the recipe have their part of a replay, and the loss of those that are only watched is told."""
    text = (place / "recipe.toml").read_text()
    talks = [{"instruction": f"what is {n}?", "response": f"{n}", "task_id": f"t{n}"} for n in range(20)]
    (place / "chats.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    chats = "".join(
        f'[[dataset]]\nuse = "jsonl"\nname = "{name}"\npath = "chats.jsonl"\nshare = {share}\n\n'
        for name, share in (("bugs", 1), ("watch", 0))
    )
    text = text.replace('[dataset]\nuse = "swe-bugs"', f'{chats}[[dataset]]\nuse = "swe-bugs"\nname = "own"\nshare = 1')
    (place / "recipe.toml").write_text(f'{text}[mix]\nexhausted = "stop"\nunit = "rows"\n')
    told = work(lambda *_: "right", "improve.rounds=1")
    first = told["rounds"][1]
    assert (
        first["rows"]["answers"] == first["rows"]["replay"] == len(rows(1, "replay-own")) + len(rows(1, "replay-bugs"))
    )
    assert rows(1, "replay-bugs")[0]["instruction"].startswith("what is") and len(rows(1, "replay-bugs")) == 3
    assert {key.partition("/")[2] for key in first["losses"]} >= {"held-out-own", "held-out-watch", "held-out-bugs"}


def test_preferences_are_trained_where_the_trainer_takes_them(place: Path) -> None:
    """A round's trainer is only another table; rows of the first training are no preferences, so none are replayed."""
    with pytest.raises(InputError, match=r"improve\.rows\.replay: the trainer dpo takes preferences"):
        work(lambda *_: "right", "improve.round.trainer.use=dpo", "improve.rows.replay=0.5")
    told = work(
        lambda number, name, sample: ["wrong", "right", "other"][sample],
        "improve.round.trainer.use=dpo", "improve.rounds=1",
    )  # fmt: skip
    first = told["rounds"][1]
    assert first["trained"] and first["rows"]["pairs"] == first["bugs"] and first["losses"] == {}


def test_rollouts_are_trained_on_and_come_out_the_same_after_kills(place: Path) -> None:
    """All answers of bugs that some of them fixed, with their tokens; those that all or none fixed are left out."""
    settings = ("improve.objective=grpo", "improve.rounds=1", "improve.round.trainer.batch_size=64")

    def rule(number: int, name: str, sample: int) -> str:
        return ["right", "wrong", "empty" if int(name) % 2 else "other"][0 if int(name) % 3 == 0 else sample]

    told = work(rule, *settings)
    first = told["rounds"][1]
    made, where = rows(1, "rollouts"), Path("outputs/improve/small/round-1")
    mixed = {row["group"] for row in made}
    assert first["trained"] and first["rows"]["rollouts"] == len(made) == 3 * len(mixed) > 0
    assert first["counts"]["groups"] == len(mixed) == first["bugs"] - first["counts"]["groups alike"]
    assert all(row["completion_ids"][1] in (40, 41, 42) and row["prompt_ids"] == [5, 6, 7] for row in made)
    assert all((row["advantage"] > 0) == (row["reward"] == 1.0) for row in made) and first["rows"]["replay"] == 0
    lock = Path("outputs/adapters/small-round-1/recipe.lock.toml").read_text()
    assert 'use = "grpo"' in lock and f"batch_size = {len(made)}" in lock and 'use = "chat-template"' in lock
    kept = {path: path.read_bytes() for path in where.rglob("*.jsonl")}
    adapter = Path("outputs/adapters/small-round-1/adapter_model.safetensors").read_bytes()

    script = Script(rule)
    script.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        work(script, *settings, fresh=True)
    script.stop_after = 13
    with pytest.raises(KeyboardInterrupt):
        work(script, *settings)
    script.stop_after = None
    work(script, *settings)
    assert {path: path.read_bytes() for path in where.rglob("*.jsonl")} == kept
    assert Path("outputs/adapters/small-round-1/adapter_model.safetensors").read_bytes() == adapter


def test_groups_that_say_nothing_are_told_and_nothing_is_trained(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where all answers to every bug are right, or none is."""
    told = work(lambda *_: "wrong", "improve.objective=grpo", "improve.rounds=1")
    first = told["rounds"][1]
    assert not first["trained"] and first["why"] == "no group of answers differs in its rewards"
    assert first["counts"]["groups alike"] == first["bugs"] and first["counts"]["groups"] == 0
    assert "0 rollouts in 0 groups; 6 more are left out" in " ".join(capfd.readouterr().err.split())


def test_a_killed_command_goes_on_to_the_same_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after each few answers, and after each file that ends a step: the same rows, answers and figures."""

    def rule(number: int, name: str, sample: int) -> str:
        return ["wrong", "right", "empty"][(int(name) + sample + number) % 3]

    whole = work(rule)
    kept = {path: path.read_bytes() for path in Path("outputs/improve/small").rglob("*.jsonl")}
    adapter = Path("outputs/adapters/small-round-2/adapter_model.safetensors").read_bytes()

    left: set[Path] = set()
    write = folder_of_rounds.atomic_output

    @contextmanager
    def killed_after(path: Path) -> Iterator[Path]:
        with write(path) as fresh:
            yield fresh
        if path.name in ("settings.json", "data.json", "plan.json", "unfit.json", "round.json") and path not in left:
            left.add(path)
            raise KeyboardInterrupt

    monkeypatch.setattr(folder_of_rounds, "atomic_output", killed_after)
    script, starts = Script(rule), 0
    script.stop_after = 5
    told = None
    fresh = True
    while told is None:
        starts += 1
        try:
            told = work(script, fresh=fresh)
        except KeyboardInterrupt:
            script.stop_after += 20 if len(script.asked) >= script.stop_after else 0
        fresh = False
    assert starts > 12 and len(left) == 10  # settings, data; plan, unfit, data, round of each round
    assert {path: path.read_bytes() for path in kept} == kept
    assert Path("outputs/adapters/small-round-2/adapter_model.safetensors").read_bytes() == adapter
    for one in (told, whole):
        for each in [one, *one["rounds"]]:
            each.pop("minutes")
    assert told == whole
    script.asked.clear()
    assert work(script)["best"] == told["best"] and script.asked == []


def test_answers_that_all_fail_are_told_and_the_rounds_go_on(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With gold rows the bugs are taught all the same; without, nothing is trained, and the next round comes."""
    told = work(lambda *_: "wrong", "improve.rows.gold=never", "improve.rows.replay=0")
    assert [one["trained"] for one in told["rounds"][1:]] == [False, False] and told["best"] == 0
    assert "none of 18 answers passed" in " ".join(capfd.readouterr().err.split())
    assert not Path("outputs/runs/small-round-1").exists()
    told = work(lambda *_: "wrong", "improve.rounds=1", fresh=True)
    assert told["rounds"][1]["rows"]["gold"] == len(rows(1, "answers")) == told["rounds"][1]["bugs"]
    assert len(rows(1, "preferences")) == 2 * told["rounds"][1]["bugs"]  # the gold answer over the failing ones


def test_a_budget_ends_it_and_more_of_it_goes_on(place: Path) -> None:
    """No round is begun that would not end in time; with more minutes the same command goes on."""
    script = Script(lambda *_: "right")
    told = work(script, "improve.minutes=0.001")
    assert len(told["rounds"]) == 1 and "0.001 minutes" in told["why"]
    told = work(script, "improve.rounds=1")
    assert len(told["rounds"]) == 2 and told["why"] == "all rounds are done"
    told = work(script, "improve.rounds=30")
    assert "every bug is solved nearly always" in told["why"]
    asked = [name for number, name, sample in script.asked if sample == 1]
    assert len(asked) == len(set(asked))  # what is solved is not asked again


def test_other_settings_are_refused_and_fresh_keeps_what_there_was(place: Path) -> None:
    """The folder says which settings differ; `--fresh` moves it aside with the runs of its rounds."""
    work(lambda *_: "right", "improve.rounds=1")
    with pytest.raises(InputError, match=r"rounds of another recipe \(different: improve.ask.samples\)"):
        work(lambda *_: "right", "improve.rounds=1", "improve.ask.samples=4")
    work(lambda *_: "right", "improve.rounds=1", "improve.ask.samples=4", fresh=True)
    aside = next(Path("outputs/improve").glob("small.before-*"))
    assert (aside / "runs" / "small-round-1" / "adapter").is_dir() and (aside / "round-1" / "round.json").is_file()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["improve.round=3"], "improve.round: expected table, got int 3"),
        (["improve.ask.sample=3"], "improve.ask.sample: unknown key (did you mean samples?)"),
        (["validation.group_by=row"], 'validation.group_by: functions must be held out whole: write group_by = "task"'),
        (["improve.bugs.edit=diff"], "improve.bugs.edit: is that of [dataset], as answers must be alike; take it out"),
        (["improve.round.seed=3"], "improve.round.seed: is improve's own in a round; take it out"),
        (["improve.round.trainer.epoch=3"], "trainer.epoch: unknown key (did you mean epochs?)"),
        (["improve.bugs.cuont=3"], "dataset.cuont: unknown key (did you mean count?)"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_work(place: Path, settings: list[str], words: str) -> None:
    """Options of the table, of its overlays, and of the recipe that the rounds cannot work with."""
    with pytest.raises(InputError) as error:
        work(lambda *_: "right", *settings)
    assert words in str(error.value)
    assert not Path("outputs").exists()


def test_a_recipe_without_the_table_or_without_bugs_is_refused(place: Path) -> None:
    """Both say what to write."""
    text = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(text.partition("[improve]")[0])
    with pytest.raises(InputError, match=r"has no table \[improve\]"):
        work(lambda *_: "right")
    (place / "rows.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    head, _, tail = text.partition("[dataset]")
    (place / "recipe.toml").write_text(
        f'{head}[dataset]\nuse = "jsonl"\npath = "rows.jsonl"\n\n[validation]{tail.partition("[validation]")[2]}'
    )
    with pytest.raises(InputError, match="improve needs bugs that tests can judge"):
        work(lambda *_: "right")


def test_a_sandbox_that_cannot_shut_in_is_refused_before_the_first_training(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the code runs, and nothing is trained; `weak` allows it."""
    import loraplug_swe.sandbox.sandbox as sandbox

    monkeypatch.setattr(sandbox, "probe", lambda network=False: {"root": "not permitted"})
    with pytest.raises(InputError, match="not permitted"):
        work(lambda *_: "right")
    assert not Path("outputs").exists()


def test_a_suite_that_is_red_gives_no_bugs(place: Path) -> None:
    """Where no test passes as it is, that is said before anything is trained."""
    (place / "sums" / "tests" / "test_sums.py").write_text("def test_never():\n    assert False\n")
    with pytest.raises(Exception, match=r"pass|fail"):
        work(lambda *_: "right")
    assert not Path("outputs/adapters").exists() or not list(Path("outputs/adapters").iterdir())


def test_the_page_escapes_what_models_say(place: Path) -> None:
    """No script, link or image; what is in it is what the report says."""

    class Hostile(Script):
        def text(self, name: str, sample: int, gold: str) -> str:
            end = "\n>>>>>>> REPLACE"
            return super().text(name, sample, gold).replace(end, f"  # <script>alert(1)</script>{end}")

    work(Hostile(lambda number, name, sample: "right" if number == 1 else "wrong"), "improve.rounds=1")
    text = Path("outputs/improve/small/report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "gained" in text
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")


def test_a_model_itself_answers(place: Path) -> None:
    """The whole loop with a tiny model, which fixes nothing: its answers are judged, and gold rows trained."""
    start(cli, Path("recipe.toml"), ("improve.rounds=1", "improve.keep.bugs=2"), False, True)  # type: ignore[arg-type]
    told = json.loads(Path("outputs/improve/small/report.json").read_text())
    assert told["rounds"][1]["asked"]["all"]["answers"] == 18 and told["rounds"][1]["trained"]
    assert told["rounds"][1]["held"]["all"]["bugs"] == 2


@pytest.mark.slow
def test_a_real_model_improves_on_the_sample_package(tmp_path: Path, loraplug: Cli) -> None:
    """One small round of SmolLM2 on data/sample_package, with its own answers; so small that none needs to pass."""
    settings = {
        "dataset.count": 6, "dataset.per_function": 1, "improve.rounds": 1, "improve.bugs.count": 6,
        "improve.ask.bugs": 1, "improve.ask.samples": 2, "improve.ask.max_tokens": 8, "improve.keep.bugs": 1,
        "trainer.max_steps": 1, "improve.round.trainer.max_steps": 1, "model.dtype": "float32",
        "validation.fraction": 0.2, "trainer.samples": 0, "formatter.max_length": 640, "trainer.batch_size": 2,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = loraplug("improve", ROOT / "recipes" / "improve.toml", *words, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    place = tmp_path / "outputs" / "improve" / "improve-my-repo"
    assert told["why"] == "all rounds are done" and len(told["rounds"]) == 2
    first = told["rounds"][1]
    assert first["asked"]["all"]["answers"] == 2 and first["trained"] and first["rows"]["replay"] > 0
    assert first["rows"]["answers"] + first["rows"]["gold"] >= 1
    after = {key: value for key, value in first["losses"].items() if "_after" in key}
    assert after and all(0 < value < 4 for value in after.values())
    assert (tmp_path / "outputs" / "adapters" / "improve-my-repo-round-1" / "adapter_model.safetensors").is_file()
    assert (place / "report.html").stat().st_size > 3000
