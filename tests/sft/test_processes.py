"""Several processes train as one would, on the CPU, talking through gloo.

torchrun starts them in some of the tests; in the others they are forked from a warm process, and told what it tells.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import Cli
from forked import Server, Together, together

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture
def launched(recipe: Path, tmp_path: Path) -> Any:
    """Starts `loraplug run`, on two processes if nothing else is said, by torchrun or from a warm server."""
    text = recipe.read_text(encoding="utf-8").replace("max_steps = 4", f"max_steps = {STEPS}")
    recipe.write_text(text, encoding="utf-8")

    def start(
        *words: str, processes: int = 2, server: Server | None = None, **given: str
    ) -> subprocess.Popen[str] | Together:
        if server is not None:
            return together(server, tmp_path, "run", recipe, *words, processes=processes, env=given)
        env = {**os.environ, "LORAPLUG_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", **given}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        return subprocess.Popen(
            [*launcher, "-m", "loraplug", "run", str(recipe), *words],
            cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as accelerate's launcher says it
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}
ZERO3 = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
ZERO3_FILE = {
    **DEEPSPEED,
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": '{"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "auto", '
    '"offload_param": {"device": "cpu"}}}',
}
REACHING = (
    "--set",
    "trainer.lora.use_dora=true",
    "--set",
    'trainer.lora.modules_to_save=["lm_head"]',
)  # into base weights
KINDS = {
    "whole": ({}, None, ()),
    "token weights": ({}, None, ("--set", "trainer.micro_batch=2")),
    "FSDP2": (FSDP, "FSDP2", ()),
    "FSDP2, DoRA": (FSDP, "FSDP2", REACHING),
    "FSDP2, DoRA, bfloat16": (FSDP, "FSDP2", (*REACHING, "--set", "model.dtype=bfloat16")),
    "ZeRO-3": (ZERO3_FILE, "DeepSpeed ZeRO-3", REACHING),
    "ZeRO-3, bfloat16": (ZERO3_FILE, "DeepSpeed ZeRO-3", (*REACHING, "--set", "model.dtype=bfloat16")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does(
    launched: Any, recipe: Path, loraplug: Cli, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Losses step by step, validation and the adapter are the same; only the first process speaks and writes.

    The third step has one row and validation three: with shards the second process computes something all the same.
    """
    from safetensors.torch import load_file

    env, sharded, options = KINDS[kind]
    server = request.getfixturevalue("deepspeed_server" if "ZeRO-3" in kind else "server")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("samples = 0", "samples = 1"), encoding="utf-8")
    if kind == "token weights":
        _weigh(recipe.with_name("rows.jsonl"))
    by_torchrun = {} if kind == "whole" else {"server": server}
    both = launched("--set", "run_name=both", *options, **by_torchrun, **env)
    said, _ = both.communicate(timeout=300)
    assert both.returncode == 0, said
    if sharded:
        held, total = map(_number, re.search(rf"{sharded}: ([\d,]+) of ([\d,]+) parameters", said).groups())  # type: ignore[union-attr]
        assert held < 0.7 * total  # adapters of rank 16 are large beside this model
    assert said.count("both: done") == 1
    assert said.count("rows held out") == 1
    assert loraplug("run", recipe, "--set", "run_name=one", *options).returncode == 0
    figures, adapters = [], []
    for name in ("one", "both"):
        folder = tmp_path / "outputs/adapters" / name
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        summary = json.loads(lines[-1])["summary"]
        validated = [summary["validation_loss_before"], summary["validation_loss_after"]]
        figures.append([json.loads(line)["loss"] for line in lines[:-1]] + validated)
        adapters.append(load_file(folder / "adapter_model.safetensors"))
    assert len(figures[0]) == STEPS + 2
    narrow = "bfloat16" in kind
    assert figures[1] == pytest.approx(figures[0], rel=1e-3 if narrow else 1e-5)
    for name, tensor in adapters[0].items():
        # AdamW divides by the root of tiny squares, which magnifies the last bit of a sum
        assert float((adapters[1][name] - tensor).abs().max()) < (3e-2 if narrow else 2e-3), name


def test_one_process_may_have_deepspeed_hold_the_weights(
    launched: Any, loraplug: Cli, recipe: Path, tmp_path: Path, deepspeed_server: Server
) -> None:
    """As one GPU with `offload_param_device` does; stage 2 has nothing to share out, says so, and trains the same."""
    offload = {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}
    begun = launched("--set", "run_name=held", processes=1, server=deepspeed_server, **ZERO3, **offload)
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode == 0, said
    assert "parameters on each of 1 process;" in said
    plain = loraplug("run", recipe, "--set", "run_name=whole", env=DEEPSPEED)
    assert "DeepSpeed stage 2 would shard optimizer and gradients" in plain.stdout + plain.stderr
    losses = []
    for name in ("held", "whole"):
        lines = (tmp_path / "outputs/adapters" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss"] for line in lines[:-1]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_process_that_dies_stops_the_other(launched: Any, tmp_path: Path) -> None:
    """The second is killed: the first ends too, in time, and says so; what was done is kept and gone on from."""
    long = ("--set", "run_name=torn", "--set", "trainer.max_steps=2000", "--set", "trainer.save_every=1")
    begun = launched(*long)
    checkpoints = tmp_path / "outputs/runs/torn/checkpoints"
    for _ in range(1200):
        if list(checkpoints.glob("step-*")) or begun.poll() is not None:
            break
        time.sleep(0.1)
    os.kill(_second(begun.pid), signal.SIGKILL)
    said, _ = begun.communicate(timeout=120)
    assert begun.returncode != 0
    assert "exitcode  : -9" in said or "Signal 9" in said
    done = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    again = launched(*long)
    seen = ""
    assert again.stdout is not None
    for line in again.stdout:
        seen += line
        if "resuming from the checkpoint" in line:
            break
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=120)
    assert f"resuming from the checkpoint of step {done} of 2000" in seen


REFUSED = {
    "no DeepSpeed": (ZERO3, "DeepSpeed is not installed"),
    "no stage": ({**ZERO3, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "4"}, "zero_stage is 4, not 0, 1, 2 or 3"),
    "no file": ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "gone.json"}, "its DeepSpeed config gone.json"),
    "FSDP1": ({"ACCELERATE_USE_FSDP": "true"}, "FSDP1 is not supported"),
    "quantised": (FSDP, "a quantised model cannot be sharded"),
    "offload": ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not supported"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_accelerate_asks_and_is_not_done_is_refused(kind: str, recipe: Path, loraplug: Cli) -> None:
    """With the recipe, before any data is read."""
    env, words = REFUSED[kind]
    if kind == "quantised":
        recipe.write_text(recipe.read_text(encoding="utf-8") + '[quantizer]\nuse = "bitsandbytes"\n', encoding="utf-8")
    done = loraplug("recipe", "check", recipe, env={"WORLD_SIZE": "2", **env})
    assert done.returncode == 2
    assert f"accelerate's config: {words}" in done.stderr
    assert loraplug("recipe", "check", recipe).returncode == 0


def _weigh(rows: Path) -> None:
    """Half the rows' answers count half, or twice."""
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    chats = [
        [
            {"role": "user", "content": line["instruction"]},
            {"role": "assistant", "content": line["response"], "weight": (0.5, 1, 2, 1)[at % 4]},
        ]
        for at, line in enumerate(lines)
    ]
    rows.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _second(launcher: int) -> int:
    """The process id of rank 1."""
    import psutil

    children = psutil.Process(launcher).children(recursive=True)
    return next(child.pid for child in children if child.environ().get("RANK") == "1")
