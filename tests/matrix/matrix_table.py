"""Runs the whole matrix and writes its table into docs/precision.md: `make matrix`.

What was run is kept in the folder given, so that a stopped one goes on; ends with 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matrix_cells import ADAPTERS, FORMATS, KERNELS, LAYOUTS, Cell, every, is_refused
from matrix_launch import launched

DOCS = Path(__file__).parents[2] / "docs/precision.md"
BEGIN, END = "<!-- the matrix: written by `make matrix` -->", "<!-- end of the matrix -->"
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
DEEPSPEED = ("deepspeed==0.19.8", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo")


def run(folder: Path, layouts: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """The results of all cells of these layouts."""
    from loraplug import testing

    model = folder / "model"
    if not model.exists():
        testing.tiny_model(model)
    results = []
    for layout in layouts:
        cells = [cell for cell in every() if cell.layout == layout]
        env = {}
        if layout == "ZeRO-3":
            env["PYTHONPATH"] = _deepspeed(folder / "deepspeed")
        results += launched(
            cells, folder / layout.replace(" ", "-"), model, env, 1 if layout == "one process" else processes
        )
        print(f"{layout}: {dict(Counter(one['verdict'] for one in results))} so far", flush=True)  # noqa: T201
    return results


def _deepspeed(folder: Path) -> str:
    """DeepSpeed in a folder of its own, as transformers and accelerate change where it is installed."""
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, *DEEPSPEED], check=True)
    return str(folder)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line for every format and adapter, a column for every layout and kernel."""
    found = {Cell(**one["cell"]): one for one in results}
    columns = [(layout, kernel) for layout in LAYOUTS for kernel in KERNELS]
    heads = [f'{layout}, `kernel = "{KERNELS[kernel]}"`' for layout, kernel in columns]
    lines = ["| format | adapter | " + " | ".join(heads) + " |", "|" + "---|" * (len(columns) + 2)]
    for name in FORMATS:
        for adapter in ADAPTERS:
            told = [_told(found.get(Cell(name, kernel, adapter, layout))) for layout, kernel in columns]
            lines.append(f"| {name} | {adapter} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def _told(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not run"
    if result["verdict"] != "passed":
        return str(result["verdict"])
    fast = " fast" if result["kernel"].startswith("fast") else ""
    return f"{result['validation_loss_after']:.3f}{fast}"


def write(results: Sequence[Mapping[str, Any]]) -> None:
    """Put figures and table between the two marks of the docs page."""
    counts = Counter(one["verdict"] for one in results)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    said = (
        f"{date.today().isoformat()}, {_processor()}, Python {platform.python_version()}, {versions}: "
        f"{len(results)} of {len(every())} cells tried, {counts['passed']} passed, {counts['refused']} refused with "
        f"their recipe, {counts['failed']} failed."
    )
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n\n{said}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def _processor() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    units = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"CPU ({platform.machine()}{', ' if units else ''}{', '.join(units)})"


def main() -> int:
    """Run, write, tell."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--layout", action="append", choices=tuple(LAYOUTS), help="only this one, may be given again")
    asked.add_argument("--no-docs", action="store_true", help="leave docs/precision.md as it is")
    given = asked.parse_args()
    results = run(given.folder.absolute(), given.layout or tuple(LAYOUTS), 2)
    if not given.no_docs:
        write(results)
    wrong = [one for one in results if (one["verdict"] == "refused") != is_refused(Cell(**one["cell"]))]
    wrong += [one for one in results if one["verdict"] == "failed" and one not in wrong]
    for one in wrong:
        print(json.dumps(one["cell"]), one["verdict"], one.get("reason", ""))  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
