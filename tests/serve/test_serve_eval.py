"""`loraplug eval` of models at a URL: our own server on the loopback address, and answers that are the models' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_helpers import Served, free_port, serving

from loraplug import InputError, Run, load_registry, open_model
from loraplug_swe.evaluation.generator import Sampling, load
from loraplug_swe.evaluation.remote import ServerGenerator

RowList = list[dict[str, Any]]
ROWS: RowList = [
    {"instruction": "what is 3 and one?", "response": "x", "task_id": "plain"},
    {"instruction": "what is 5 and one?", "response": "x", "task_id": "other"},
]


@pytest.fixture(scope="module")
def server(adapters: list[Path], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Base and adapter."""
    with serving(tmp_path_factory.mktemp("eval"), f"base={tiny_model}", f"tuned={adapters[0]}") as found:
        yield found


def test_answers_are_those_of_the_model_in_memory(server: Served, adapters: list[Path], tmp_path: Path) -> None:
    """Greedy, with the token counts; a prompt without room is one result, not the end; draws repeat by seed."""
    from datasets import Dataset

    registry, run = load_registry(), Run("eval", outputs=tmp_path)
    rows = Dataset.from_list([*ROWS, ROWS[0] | {"task_id": "long", "instruction": "one " * 5000}])
    formatter: Any = registry.find("formatter", "chat-template")()
    here = load(open_model(str(adapters[0]), registry), run, "tuned", False)[0]
    there = ServerGenerator.at(f"{server.address}/v1#tuned")
    sampling = Sampling(max_tokens=8, batch=2)

    def answers(speaker: Any, sampling: Sampling) -> dict[tuple[str, int], Any]:
        asked = speaker.prompts(rows, formatter, run)
        made = speaker.answers(asked, ["plain", "other", "long"], {("other", 1)}, sampling)
        return {(name, sample): (said.text, said.finish, said.prompt_tokens) for name, sample, said in made}

    greedy = answers(there, sampling)
    assert greedy == answers(here, sampling)
    assert greedy["long", 0][1] == "prompt-too-long" and greedy["plain", 0][0] != greedy["other", 0][0]
    drawn = Sampling(temperature=1.5, max_tokens=8, samples=2, batch=4)
    first = answers(there, drawn)
    assert first == answers(there, drawn) and ("other", 1) not in first
    assert first["plain", 0] != first["plain", 1]


def test_questions_are_put_to_a_server(server: Served, inside: Any, tmp_path: Path) -> None:
    """The command: the model at a URL beside its base there; and what it cannot do is told."""
    (tmp_path / "set.jsonl").write_text(json.dumps({"prompt": "what is 3 and one?", "pattern": "."}) + "\n")
    words = ["eval", f"{server.address}#tuned", "--set", "set.jsonl", "--max-tokens", 6]
    done = inside(*words, "--base", f"{server.address}#base", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {one["model"]: one["status"] for one in told["cases"]} == {"model": "resolved", "base": "resolved"}
    assert len({one["answer"] for one in told["cases"]}) == 2
    gone = f"http://127.0.0.1:{free_port()}"
    for more, says in (
        (("--base",), "the base of a model at a URL is not known"),
        (("--beams", 2), "servers do not offer beam search"),
        (("--base", f"{server.address}#none"), "has no model 'none'"),
    ):
        done = inside(*words, *more, "--fresh")
        assert done.returncode == 2 and says in done.stderr, done.stderr
    done = inside("eval", gone, "--set", "set.jsonl", "--fresh")
    assert done.returncode == 2 and "cannot be reached" in done.stderr, done.stderr


def test_rows_that_no_server_can_be_asked_are_refused(tmp_path: Path) -> None:
    """Text rows of another formatter."""
    from datasets import Dataset

    formatter: Any = load_registry().find("formatter", "text")()
    asked = ServerGenerator(model=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes conversations"):
        asked.prompts(Dataset.from_list(ROWS), formatter, Run("eval", outputs=tmp_path))
