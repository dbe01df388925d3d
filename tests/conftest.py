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
from filelock import FileLock
from hypothesis import settings

from command import Cli
from forked import Server, early
from loraplug import testing

# a deadline would fail on a busy machine, not on slow code
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# as the command line does, before torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads of one would wait for those of the other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The process that commands are forked from."""
    served = Server()
    yield served
    served.close()


@pytest.fixture
def loraplug(tmp_path: Path, request: pytest.FixtureRequest) -> Cli:
    """Runs the real command line in a process of its own in `tmp_path`, with a cache of its own.

    The process is forked from a warm one, unless a variable is set that libraries may read when they are imported.
    """

    def run(
        *words: object, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        wanted = command_environment(tmp_path) | (env or {})
        server: Server = request.getfixturevalue("server")
        if early(wanted) != early(server.env):
            return in_a_new_process(*words, env=wanted, cwd=cwd)
        return server.call(cwd, *words, env={**early(wanted), **wanted})

    return run


@pytest.fixture
def cold(tmp_path: Path) -> Cli:
    """As `loraplug`, but in a new process each time: for results that must not hang on what two processes share."""

    def run(
        *words: object, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        return in_a_new_process(*words, env=command_environment(tmp_path) | (env or {}), cwd=cwd)

    return run


def command_environment(folder: Path) -> dict[str, str]:
    """Without the caller's recipe variables."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MODEL_ID", "RUN_NAME")}
    return clean | {"LORAPLUG_CACHE": str(folder / "cache")}


def in_a_new_process(*words: object, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loraplug", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)


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
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = (tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.getbasetemp()) / "deepspeed"
    with FileLock(f"{folder}.lock"):  # the first of the workers that needs it installs it for all
        if not folder.exists():
            made = folder.with_name("deepspeed-new")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made)]
            names = ("deepspeed==0.19.8", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo")
            subprocess.run([*command, *names], check=True, timeout=600)
            made.rename(folder)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def deepspeed_server(deepspeed: dict[str, str]) -> Iterator[Server]:
    """As `server`, with DeepSpeed."""
    served = Server({**os.environ, **deepspeed})
    yield served
    served.close()
