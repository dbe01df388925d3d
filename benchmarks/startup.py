"""How long the commands that only look take, beside the bare imports of what they stand on.

    python benchmarks/startup.py

Every command runs in a process of its own, in turn with the bare imports, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = [sys.executable, "-c", "import click, attrs, cattrs, pluggy"]
COMMANDS = {
    "loraplug --help": ["--help"],
    "loraplug plugins list": ["plugins", "list"],
    "loraplug plugins show sft": ["plugins", "show", "sft"],
    "loraplug recipe check": ["recipe", "check", "recipes/swe_qlora.toml"],
}
RUNS = 9


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table: medians, and the median of the ratios pair by pair."""
    print(
        f"{'command':28} {'wall s':>8} {'cpu s':>8} {'bare wall':>10} {'bare cpu':>9}"
        f" {'wall ratio':>11} {'cpu ratio':>10}"
    )
    for name, words in COMMANDS.items():
        pairs = [(timed([sys.executable, "-m", "loraplug", *words]), timed(BARE)) for _ in range(RUNS)]
        figures = [statistics.median(pair[side][unit] for pair in pairs) for side in (0, 1) for unit in (0, 1)]
        ratios = [statistics.median(ours[unit] / bare[unit] for ours, bare in pairs) for unit in (0, 1)]
        print(f"{name:28} {figures[0]:8.3f} {figures[1]:8.3f} {figures[2]:10.3f} {figures[3]:9.3f}", end="")
        print(f" {ratios[0]:11.2f} {ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
