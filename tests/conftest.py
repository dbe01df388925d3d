"""What tests share: a tiny model with a tokenizer trained here, a recipe on it, and a way to run the command line."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from command import Cli
from loraplug import testing

# a deadline would fail on a busy machine, not on slow code
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# as the command line does, before torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
# which runs are the user's own is noted in a folder of the user's, and not in that of who runs the tests
os.environ["LORAPLUG_STATE"] = tempfile.mkdtemp(prefix="loraplug-state-")
atexit.register(shutil.rmtree, os.environ["LORAPLUG_STATE"], ignore_errors=True)
# what `dtype = "auto"` means differs between machines; LORAPLUG_AUTO_DTYPE=bfloat16 runs the tests as on one with AMX
os.environ.setdefault("LORAPLUG_AUTO_DTYPE", "float32")


@pytest.fixture(scope="session", autouse=True)
def _converter() -> None:
    """llama.cpp's converter, from the user's cache: the runs of the tests have caches of their own."""
    from loraplug import Run
    from loraplug_gguf.converter import VARIABLE, find_converter

    os.environ.setdefault(VARIABLE, str(find_converter(Run("converter"))[0]))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model that plugin authors test on, too."""
    return testing.tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    """A recipe file on the tiny model with twelve rows; a run takes seconds."""
    rows = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}", "task_id": str(n)} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""\
run_name = "tiny"
[dataset]
use = "jsonl"
path = "rows.jsonl"
[formatter]
use = "chat-template"
max_length = 256
[validation]
rows = 3
[model]
use = "transformers"
id = '{tiny_model}'
dtype = "float32"
[trainer]
use = "sft"
max_steps = 4
learning_rate = 1e-2
samples = 0
[[exporter]]
use = "adapter"
[[exporter]]
use = "merged"
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def loraplug(tmp_path: Path) -> Cli:
    """Runs the real command line in `tmp_path`, with a cache of its own and without the caller's recipe variables."""

    def run(
        *words: object, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name not in ("MODEL_ID", "RUN_NAME")}
        clean |= {"LORAPLUG_CACHE": str(tmp_path / "cache"), **(env or {})}
        command = [sys.executable, "-m", "loraplug", *map(str, words)]
        return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=600, check=False)

    return run


@pytest.fixture
def inside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """As `loraplug`, but in this process: for tests of what a command says, which load torch once for all of them."""
    from loraplug.cli import main

    def run(
        *words: object, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as here, pytest.raises(SystemExit) as end:
            here.chdir(cwd)
            for name, value in {"LORAPLUG_CACHE": str(tmp_path / "cache"), **(env or {})}.items():
                here.setenv(name, value)
            for name in ("MODEL_ID", "RUN_NAME"):
                here.delenv(name, raising=False)
            main([*map(str, words)])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess([*map(str, words)], int(end.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def deepspeed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which DeepSpeed is installed: apart, as transformers and accelerate change where it is."""
    folder = tmp_path_factory.mktemp("deepspeed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    names = ("deepspeed==0.19.8", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo")
    subprocess.run([*command, *names], check=True, timeout=600)
    return {"PYTHONPATH": str(folder)}
