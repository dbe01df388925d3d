"""Starts the worker for cells of several processes: one launcher for all cells of a layout."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrix_cells import LAYOUTS, Cell

from forked import Server, together

WORKER = Path(__file__).with_name("matrix_worker.py")
_SECONDS_TO_START, _SECONDS_A_CELL = 240, 60  # on a busy machine


def launched(
    cells: Sequence[Cell],
    folder: Path,
    model: Path,
    env: Mapping[str, str],
    processes: int = 2,
    server: Server | None = None,
) -> list[dict[str, Any]]:
    """What came of cells of one layout. A cell in which a process dies or hangs has failed.

    Those that `folder` has results of are not run again, unless they failed.

    Args:
        env: what is added to the environment beside what the layout asks of it.
        server: what processes are forked from; without one, torchrun starts them.
    """
    (layout,) = {cell.layout for cell in cells}
    folder.mkdir(parents=True, exist_ok=True)
    tables = [cell.table() for cell in cells]
    (folder / "cells.json").write_text(json.dumps({"cells": tables, "model": str(model)}), encoding="utf-8")
    results = folder / "results.jsonl"
    kept = list(itertools.takewhile(lambda one: one["verdict"] != "failed", _read(results)))
    results.write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")
    while len(done := _read(results)) < len(cells):
        said = _launch(folder, {**LAYOUTS[layout], **env}, len(cells) - len(done), processes, server)
        after = _read(results)
        if len(after) < len(cells) and (not after[len(done) :] or after[-1]["verdict"] != "failed"):
            lost = {"cell": tables[len(after)], "verdict": "failed", "reason": "a process ended", "trace": said}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lost | {"seconds": 0.0}) + "\n")
    return _read(results)


def _launch(folder: Path, env: Mapping[str, str], cells: int, processes: int, server: Server | None) -> str:
    """Run the launcher to its end; the last of what it said."""
    limit = _SECONDS_TO_START + cells * _SECONDS_A_CELL
    if server is not None:
        said, _ = together(server, folder, folder, processes=processes, env=env, script=WORKER).communicate(limit)
        return said[-3000:]
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", **env}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    begun = subprocess.Popen(
        [*command, str(WORKER), str(folder)],
        env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = begun.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(begun.pid, signal.SIGKILL)
        said, _ = begun.communicate()
        said = f"{said}\ntook too long"
    return said[-3000:]


def _read(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]
