"""Run a benchmark and store its output with machine, versions and date; or build the page of all stored results.

    python benchmarks/record.py startup.py --plugins 20    # writes benchmarks/results/startup-plugins-20.json
    python benchmarks/record.py                            # writes docs/benchmarks.md from benchmarks/results/*.json

A benchmark that fails leaves no result. The page holds nothing that is typed by hand.
"""

from __future__ import annotations

import ast
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE, RESULTS, PAGE = ROOT / "benchmarks", ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
HEAD = """# Benchmarks

`python benchmarks/record.py` makes this page from `benchmarks/results/`; every figure is as the script printed it.
Programs that are compared take turns in one run, so load on the machine affects all of them alike. Absolute figures
hold for the named machine only; ratios are more general. For their meaning see [Training](training.md),
[Evaluation](eval.md), [Transform rows](data-transforms.md#speed-and-memory) and [Your repository](fix-my-repo.md).

Nothing has been measured on a GPU.
"""


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GB and the vector units that matter here."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", facts)
    flags = (re.search(r"flags\s*: (.*)", facts) or ["", ""])[1].split()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1),
        "units": [unit for unit in UNITS if unit in flags],
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def record(script: str, arguments: list[str]) -> Path:
    """Run one script to its end, its output shown as it comes, and keep what it wrote to stdout.

    Raises:
        SystemExit: the script failed.
    """
    load, lines = os.getloadavg()[0], []
    begun = datetime.datetime.now(datetime.UTC)
    with subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise SystemExit(f"{script} ended with {process.returncode}: nothing is kept")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    told = {
        "script": script,
        "arguments": arguments,
        "date": begun.date().isoformat(),
        "minutes": round((datetime.datetime.now(datetime.UTC) - begun).total_seconds() / 60, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "output": lines,
    }
    name = "-".join([Path(script).stem, *(re.sub(r"\W+", "-", word).strip("-") for word in arguments)])[:80]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return path


def purpose(script: str) -> str:
    """The first sentence of a script's docstring."""
    text = ast.get_docstring(ast.parse((HERE / script).read_text(encoding="utf-8"))) or script
    return " ".join(text.split("\n\n")[0].split())


def page() -> str:
    """The page: scripts with results first, then those of which none is kept."""
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    parts = [HEAD]
    for told in kept:
        at, versions = told["machine"], ", ".join(f"{name} {number}" for name, number in told["versions"].items())
        units = ", ".join(at["units"]) or "no vector units of note"
        parts.append(
            f"## {told['script']}{''.join(' ' + word for word in told['arguments'])}\n\n{purpose(told['script'])}\n\n"
            f"```text\n{chr(10).join(told['output']).strip()}\n```\n\n"
            f"{told['date']}, {told['minutes']} minutes, commit {told['commit']}. {at['processor']}, {at['cores']}"
            f" cores ({units}), {at['memory_gb']} GB, {at['system']}; load {told['load'][0]} before,"
            f" {told['load'][1]} after. {versions}.\n"
        )
    recorded, own = {told["script"] for told in kept}, {Path(__file__).name, "turns.py"}
    others = [path.name for path in sorted(HERE.glob("*.py")) if path.name not in recorded | own]
    parts.append(
        "## Benchmarks without a stored result\n\n"
        + "".join(f"- `{name}`: {purpose(name)}\n" for name in others)
        + "\n`python benchmarks/record.py SCRIPT …` stores one.\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(record(sys.argv[1], sys.argv[2:]).relative_to(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
