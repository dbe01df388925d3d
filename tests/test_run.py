"""The whole pipeline on the tiny model, through the real command line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import torch

from command import Cli

pytestmark = pytest.mark.slow


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_recipe_in_adapter_and_merged_model_out(recipe: Path, loraplug: Cli, tmp_path: Path, tiny_model: Path) -> None:
    """Everything a run promises to leave is there, loads with plain transformers and peft, and agrees."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = loraplug("run", recipe)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "validation loss" in done.stdout
    assert done.stdout.endswith("Next: loraplug chat outputs/merged/tiny\n")
    adapter, merged = tmp_path / "outputs/adapters/tiny", tmp_path / "outputs/merged/tiny"
    names = {"adapter_model.safetensors", "adapter_config.json", "recipe.lock.toml", "metrics.jsonl", "loss.svg"}
    assert names | {"README.md", "tokenizer.json"} <= {path.name for path in adapter.iterdir()}
    steps = [json.loads(line) for line in (adapter / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps[:-1]] == [1, 2, 3, 4]
    assert steps[-1]["summary"]["validation_loss_after"] < steps[-1]["summary"]["validation_loss_before"]

    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = torch.tensor(
        [tokenizer.apply_chat_template([{"role": "user", "content": "what is 3 and one?"}])["input_ids"]]
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, adapter)(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    assert (whole - adapted).abs().max() < 1e-4
    assert (whole - plain).abs().max() > 1e-2

    # what training saw is what the saved tokenizers and templates write
    (row,) = json.loads(loraplug("preview", recipe, "-n", "1", "--json").stdout)
    number = int(row["id"])
    talk = [("user", f"what is {number} and one?"), ("assistant", f"{number + 1}")]
    for folder in (adapter, merged):
        saved = AutoTokenizer.from_pretrained(folder)
        written = saved.apply_chat_template([{"role": role, "content": text} for role, text in talk])["input_ids"]
        assert written == [token["id"] for token in row["tokens"]]

    # a second call has nothing to do, says the same, and changes nothing
    before = weights(adapter)
    again = loraplug("run", recipe)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert weights(adapter) == before


def test_the_lock_file_makes_the_same_adapter_anywhere(recipe: Path, cold: Cli, tmp_path: Path) -> None:
    """Bit for bit, from another working folder and with an environment that says otherwise; and it holds no secret."""
    secret = "hf_" + "s3cr3t" * 5
    assert cold("run", recipe, env={"HF_TOKEN": secret}).returncode == 0
    first = tmp_path / "outputs/adapters/tiny"
    lock = first / "recipe.lock.toml"
    table = tomllib.loads(lock.read_text())
    assert table["seed"] == 42
    assert table["lock"]["data"]["rows"] == 12
    assert len(table["lock"]["base"]["sha256"]) == 64
    assert {"torch", "transformers", "trl", "peft", "loraplug"} <= table["lock"]["versions"].keys()
    for path in (tmp_path / "outputs").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"MODEL_ID": "not/there", "RUN_NAME": "other", "ADAPTER_OUTPUT_DIR": "/nowhere"}
    done = cold("run", lock, "--set", "run_name=again", env=env, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert weights(elsewhere / "outputs/adapters/again") == weights(first)


def test_a_killed_export_goes_on_without_training_again(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """What is finished stays; what is missing is made."""
    assert loraplug("run", recipe).returncode == 0
    kept = (tmp_path / "outputs/runs/tiny/adapter/adapter_model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "outputs/merged/tiny")
    assert loraplug("run", recipe).returncode == 0
    assert (tmp_path / "outputs/merged/tiny/config.json").exists()
    assert (tmp_path / "outputs/runs/tiny/adapter/adapter_model.safetensors").stat().st_mtime_ns == kept


def test_one_name_one_recipe(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """Another recipe, or other data, under a name that is taken is refused; --fresh replaces."""
    assert inside("run", recipe).returncode == 0
    other = inside("run", recipe, "--set", "trainer.lora.r=2")
    assert other.returncode == 2
    assert "made with another recipe (different: trainer.lora.r)" in other.stderr
    before = weights(tmp_path / "outputs/adapters/tiny")
    fresh = inside("run", recipe, "--set", "trainer.lora.r=2", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert weights(tmp_path / "outputs/adapters/tiny") != before


def test_an_adapter_of_somebody_else_is_not_overwritten(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """A folder that this run did not make stays, and the run does not begin."""
    mine = tmp_path / "outputs/adapters/tiny"
    mine.mkdir(parents=True)
    (mine / "precious").touch()
    done = loraplug("run", recipe)
    assert done.returncode == 2
    assert "was not made by this run" in done.stderr
    assert (mine / "precious").exists()


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[list[str]]:
    """A real file system of that size; gives the command that mounts it, for another size."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_without_room_is_told_before_the_work(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """What all stages together will write is added up; nothing is loaded, and with room the same command runs."""
    with small_disk(disk := tmp_path / "outputs", "700k") as mount:
        done = loraplug("run", recipe)
        assert done.returncode == 1
        assert "MB will be written here (trainer" in done.stderr and "free space" in done.stderr
        assert "dataset:" not in done.stdout and not list(disk.glob("adapters/*"))
        subprocess.run([*mount[:4], "remount,size=50m", *mount[5:]], check=True)
        assert loraplug("run", recipe).returncode == 0


@pytest.mark.parametrize("left", [100, 500, 750])
def test_a_full_disk_is_told_and_leaves_nothing_half_made(
    recipe: Path, loraplug: Cli, tmp_path: Path, left: int
) -> None:
    """Full at the trainer's or an exporter's writing, by what others write; with room the same command goes on.

    `left` is what is left free, in KB, once the run has begun.
    """
    with small_disk(disk := tmp_path / "outputs", "20m"):
        ballast = disk / "ballast"

        def fill() -> None:
            while not (disk / "runs/tiny/state.json").exists():
                time.sleep(0.01)
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left * 1024)))

        other = Thread(target=fill, daemon=True)
        other.start()
        done = loraplug("run", recipe)
        other.join(10)
        assert done.returncode == 1, done.stdout
        assert "No space left" in done.stderr
        assert "free disk space" in done.stderr
        assert "Traceback" not in done.stderr
        for kind, whole in (("adapters", "README.md"), ("merged", "README.md")):
            place = disk / kind / "tiny"
            assert not place.exists() or (place / whole).exists()
        assert not list(disk.rglob(".*.new"))
        ballast.unlink()
        again = loraplug("run", recipe)
        assert again.returncode == 0, again.stderr
        assert (disk / "merged/tiny/model.safetensors").exists()


@pytest.mark.parametrize("stage", ["dataset", "formatter", "model", "quantizer", "trainer"])
def test_until_stops_after_a_stage(recipe: Path, loraplug: Cli, tmp_path: Path, stage: str) -> None:
    """Each stage can be the last; what is said to go on with is the whole command, overrides included."""
    done = loraplug("run", recipe, "--until", stage, "--set", "seed=7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"Next: loraplug run {recipe} --set seed=7")
    assert not (tmp_path / "outputs/adapters/tiny").exists()
    assert (tmp_path / "outputs/runs/tiny/adapter").exists() == (stage == "trainer")


def test_data_that_changed_since_the_run_began_is_refused(recipe: Path, loraplug: Cli, tmp_path: Path) -> None:
    """A run that goes on must not train on other rows than it began with."""
    assert loraplug("run", recipe, "--until", "formatter").returncode == 0
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"instruction": "new", "response": "row", "task_id": "99"}\n')
    done = loraplug("run", recipe)
    assert done.returncode == 2
    assert "data has changed since this run began" in done.stderr


def test_the_quantised_base_passes_gradients_after_it_was_measured(tiny_model: Path) -> None:
    """bitsandbytes repacks for inference on some CPUs, in a layout without backward; `prepare` must prevent that."""
    from loraplug import Run
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_hf.loader import TransformersModel

    quantizer = BitsAndBytes()
    model = quantizer.prepare(TransformersModel(id=str(tiny_model)).load_model(Run("x"), quantizer))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        measured = model.eval()(ids).logits
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    inputs = torch.randn(1, 4, 64, requires_grad=True)
    layer.train()(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, measured)


def test_the_next_step_after_a_run_is_to_talk_to_what_it_made(recipe: Path, loraplug: Cli) -> None:
    """The merged model where there is one, else the adapter."""
    only = loraplug("run", recipe, "--set", 'exporter=[{use="adapter"}]')
    assert only.stdout.rstrip().endswith("Next: loraplug chat outputs/adapters/tiny"), only.stderr
    both = loraplug("run", recipe)
    assert both.stdout.rstrip().endswith("Next: loraplug chat outputs/merged/tiny"), both.stderr
