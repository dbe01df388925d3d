"""Certificates by type of export: divergence from base + adapter beside its limit, and the time that they take.

    python benchmarks/certificate.py [--adapter FOLDER] [--steps 20] [--types f16 q8_0 q4_k_m]

Without --adapter, SmolLM2-135M-Instruct is trained on the sample package for some steps first. Each export is a process
of its own, which merges, writes and compares; its wall and CPU time are those of all three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parents[1]
TYPES = ("merged", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs", "q3_k_m", "q2_k")


def command(folder: Path, *words: str) -> tuple[float, float]:
    """One command in `folder`; its wall and CPU seconds. A refused certificate is a result, too."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "loraplug", *words], cwd=folder, capture_output=True, text=True,
                          check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})  # fmt: skip
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and not list(folder.glob("outputs/**/*.refused.json")):
        sys.exit(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trained(folder: Path, steps: int) -> Path:
    """An adapter of the quickstart's recipe."""
    few = ["--set", f"trainer.max_steps={steps}", "--set", "dataset.count=60"]
    command(folder, "run", str(HERE / "recipes" / "quickstart.toml"), *few)
    return folder / "outputs" / "adapters" / "quickstart"


def certified(folder: Path, adapter: Path, kind: str) -> tuple[dict[str, Any], float, float]:
    """The certificate of one export, by the engine it was made for, and its wall and CPU seconds."""
    to = ["merged"] if kind == "merged" else ["gguf", "--set", f"type={kind}"]
    times = command(folder, "export", str(adapter), "--to", *to, "--name", kind, "--prove")
    forms = ("/certificate.json", ".certificate.json", ".refused.json")
    place = next(place for form in forms for place in folder.glob(f"outputs/**/*{kind}*{form}"))
    (engine,) = json.loads(place.read_text())["engines"]
    return engine, *times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--types", nargs="*", default=TYPES, choices=TYPES)
    given = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        adapter = trained(folder, given.steps) if given.adapter is None else given.adapter.resolve()
        print(
            "| export | mean divergence, nats per token | largest of a token | limit of the mean | agrees | s | s CPU |"
        )
        print("|---|---|---|---|---|---|---|")
        for kind in given.types:
            engine, wall, cpu = certified(folder, adapter, kind)
            mean, largest = (f"{engine[name]:.2g}" for name in ("mean_kl", "largest_kl"))
            agrees = "yes" if engine["passed"] else "no"
            print(
                f"| {kind} | {mean} | {largest} | {engine['limit']:g} | {agrees} | {wall:.0f} | {cpu:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
