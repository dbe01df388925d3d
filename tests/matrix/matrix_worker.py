"""Runs cells of the matrix through the real pipeline: in the calling process, or as one of several of a launcher.

A launched one reads `cells.json` of the folder it is given, and its first process adds a line to `results.jsonl` there
for every cell. After a cell that failed it ends, as the other processes may wait for it; who started it starts it anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matrix_cells import SEEN, STEPS, Cell

from loraplug import Event, InputError, Reporter, Run, hookimpl, load_registry
from loraplug_train.engine import evaluation

ANSWER = 12


def run_cell(cell: Cell, folder: Path, model: Path) -> dict[str, Any]:
    """What came of a cell: it is refused with its recipe, or it passes, or it fails; `reason` says why.

    It trains and validates, answers before and after, saves, exports adapter and merged model (with its proof). Then a
    second run goes on from what lay on the disk after step 2, and must end with the very adapter. In one process the
    exported adapter is put on its base anew, and must answer as it did after training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.monotonic()
    result: dict[str, Any] = {"cell": cell.table()}
    most, evaluation._ANSWER_TOKENS = (
        evaluation._ANSWER_TOKENS,
        ANSWER,
    )  # 96 tokens tell no more, and take most of the time
    try:
        result |= _run(cell, folder, model)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        result |= {"verdict": "failed", "reason": text[:600], "trace": traceback.format_exc()}
    finally:
        evaluation._ANSWER_TOKENS = most
    return result | {"seconds": round(time.monotonic() - begun, 2)}


def _run(cell: Cell, folder: Path, model: Path) -> dict[str, Any]:
    from loraplug.recipe.building import build
    from loraplug.recipe.layers import read_layers

    recipe_file, outputs = folder / "recipe.toml", folder / "outputs"
    rows = folder / "rows.jsonl"
    recipe_file.write_text(cell.recipe(model, rows), encoding="utf-8")
    _write_rows(rows)

    def killed(event: Event) -> None:
        """Keep what a run would leave that is killed after a step."""
        kept = folder / "killed"
        if event.kind == "metrics" and event.data.get("step") == SEEN + 1 and not kept.exists():
            shutil.copytree(outputs, kept)

    registry = load_registry(extra=[("matrix", SimpleNamespace(loraplug_events=hookimpl(lambda: [killed])))])
    try:
        recipe = build(read_layers(recipe_file, ()), registry)
    except InputError as error:
        return {"verdict": "refused", "reason": " ".join(str(error).split())}
    whole = _execute(recipe, registry, folder)
    if _rank():
        _execute(recipe, registry, folder)
        return {"verdict": "passed"}
    outcome, said = whole
    summary = json.loads((outputs / "adapters/cell/metrics.jsonl").read_text().splitlines()[-1])["summary"]
    _check_products(outputs)
    if cell.layout == "one process":
        _check_answer(outcome, outputs / "adapters/cell", registry, folder)
    outputs.rename(folder / "whole")
    (folder / "killed").rename(outputs)
    _, again = _execute(recipe, registry, folder)
    _check_resumed(outputs, folder / "whole", again)
    kernel = next(line for line in said if "kernel" in line or "parameters on each" in line)
    figures = {name: summary[name] for name in ("validation_loss_before", "validation_loss_after")}
    assert figures["validation_loss_after"] < figures["validation_loss_before"], "the training taught nothing"
    return {"verdict": "passed", "kernel": kernel, **figures}


def _execute(recipe: Any, registry: Any, folder: Path) -> tuple[Any, list[str]]:
    from loraplug.pipeline.pipeline import Pipeline

    run = Run("cell", outputs=folder / "outputs", cache=folder / "cache", reporter=Reporter())
    return Pipeline(recipe, registry, run).execute(), run.reporter.lines


def _check_products(outputs: Path) -> None:
    import torch
    from safetensors.torch import load_file

    saved = load_file(outputs / "adapters/cell/adapter_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}, "adapters are not saved in float32"
    merged = load_file(outputs / "merged/cell/model.safetensors")
    assert all(bool(value.isfinite().all()) for value in merged.values()), "the merged model is not finite"
    assert json.loads((outputs / "merged/cell/loraplug.json").read_text())["proof"], "the merge was not proved"


def _check_answer(outcome: Any, adapter: Path, registry: Any, folder: Path) -> None:
    import torch

    from loraplug.pipeline.reference import open_model

    model, tokenizer = open_model(adapter, registry).load(Run("chat", outputs=folder / "chat"), adapter)
    (sample,) = outcome.samples
    given = tokenizer(sample.prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    with torch.no_grad():
        out = model.generate(**given, max_new_tokens=ANSWER, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    answer = tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == sample.after, f"the exported adapter answers {answer!r}, in training it answered {sample.after!r}"


def _check_resumed(outputs: Path, whole: Path, said: list[str]) -> None:
    from safetensors.torch import load_file

    assert f"resuming from the checkpoint of step {SEEN} of {STEPS}" in said, "it did not go on from its checkpoint"
    for name in ("adapters/cell/adapter_model.safetensors", "merged/cell/model.safetensors"):
        one, other = load_file(whole / name), load_file(outputs / name)
        assert one.keys() == other.keys()
        assert all(_same(one[key], other[key]) for key in one), f"{name} is another after going on"


def _same(one: Any, other: Any) -> bool:
    """Bit for bit on a CPU; on a GPU sums are made in any order, and AdamW magnifies the last bit of a small one."""
    import torch

    return bool(torch.allclose(one, other, atol=2e-3) if torch.cuda.is_available() else one.equal(other))


def _write_rows(path: Path) -> None:
    rows = [{"instruction": f"what is {n} and one?", "response": f"{n + 1}", "task_id": str(n)} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def main(folder: Path) -> None:
    """Run the cells of `cells.json` that `results.jsonl` has no line of yet."""
    import torch

    torch.set_num_threads(1)  # a tiny model's products are too small to share
    given = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
    results = folder / "results.jsonl"
    done = len(results.read_text(encoding="utf-8").splitlines()) if results.exists() else 0
    for number, table in list(enumerate(given["cells"]))[done:]:
        result = run_cell(Cell(**table), folder / f"rank-{_rank()}/cell-{number}", Path(given["model"]))
        if not _rank():
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        if result["verdict"] == "failed":
            sys.stdout.flush()
            os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
