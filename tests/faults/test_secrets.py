"""No token of the environment or of `.env` gets into a file or onto the screen, whatever is run and however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from forked import Server

pytestmark = pytest.mark.slow

NAMES = [
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AZURE_KEY",
    "GITHUB_TOKEN", "MY_PASSWORD", "SOME_SECRET", "COMET_API_KEY", "NEPTUNE_API_TOKEN",
]  # fmt: skip
ADAPTER = "outputs/adapters/tiny"
COMMANDS = [
    (0, ["recipe", "check", "recipe.toml"]),
    (0, ["recipe", "show", "recipe.toml"]),
    (0, ["plugins", "list"]),
    (0, ["plugins", "show", "hub"]),
    (0, ["data", "recipe.toml", "-o", "out.jsonl"]),
    (0, ["preview", "recipe.toml", "-n", "2"]),
    (0, ["plan", "recipe.toml"]),
    (0, ["run", "recipe.toml"]),
    (0, ["run", "recipe.toml", "--set", "run_name=again", "--debug"]),
    (0, ["runs", "list"]),
    (0, ["runs", "show", "tiny", "--json"]),
    (0, ["runs", "compare", "tiny", "again"]),
    (0, ["export", ADAPTER, "--to", "merged", "--set", "out=elsewhere"]),
    (0, ["chat", "outputs/merged/tiny", "--prompt", "what is 3 and one?", "--max-tokens", "4"]),
    (2, ["run", "recipe.toml", "--set", "trainer.lora.rank=3", "--debug"]),
    (2, ["run", "recipe.toml", "--set", "run_name=no", "--set", "model.id=nobody/nothing", "--debug"]),
    (2, ["run", "recipe.toml", "--set", "run_name=bad", "--set", "dataset.path=recipe.toml", "--debug"]),
    (2, ["export", "rows.jsonl", "--to", "gguf", "--debug"]),
    (1, ["export", ADAPTER, "--to", "hub", "--set", "repo=nobody/nothing", "--debug"]),
    (2, ["chat", "nowhere", "--debug"]),
    (2, ["runs", "show", "nothing", "--debug"]),
    (2, ["nothing"]),
]


def test_no_secret_is_written_anywhere(server: Server, recipe: Path, tmp_path: Path) -> None:
    """Marked tokens in the environment and in `.env`; every command, well-ended or not; every file and log is read."""
    secret = "5ecr3t-of-forty-letters-or-more-as-wandb-has"
    inside = {name: f"mark-env-{number:02}-{secret}" for number, name in enumerate(NAMES)}
    dotenv = {name: f"mark-dot-{number:02}-{secret}" for number, name in enumerate([*NAMES, "ONLY_IN_FILE_TOKEN"])}
    (tmp_path / ".env").write_text("".join(f'{name}="{value}"\n' for name, value in dotenv.items()))
    home = tmp_path / "home"
    home.mkdir()
    env = inside | {"HOME": str(home), "TMPDIR": str(home), "PYTHONWARNINGS": "default", "HF_HUB_VERBOSITY": "debug"}
    env |= {"WANDB_MODE": "offline"}  # a key turns wandb on; its files are read like all others
    ended = []
    for code, words in COMMANDS:
        job = server.run(tmp_path, *words, env=env)
        if job.wait() != code:
            ended.append((words, job.wait(), job.said()[-600:]))
    assert not ended, ended
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    marked = [path for path in files if b"5ecr3t" in path.read_bytes() or "5ecr3t" in path.name]
    found = [str(path.relative_to(tmp_path)) for path in marked]
    assert not found, found
    assert len(files) > 40 and sum(path.name.startswith("log-") for path in files) == len(COMMANDS)


def test_the_marks_would_be_found(server: Server, recipe: Path, tmp_path: Path) -> None:
    """The search itself works: a mark put into the data does turn up in what is written."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().replace("what is 3", "5ecr3t is 3"))
    assert server.run(tmp_path, "data", "recipe.toml", "-o", "out.jsonl").wait() == 0
    assert "5ecr3t" in (tmp_path / "out.jsonl").read_text()
