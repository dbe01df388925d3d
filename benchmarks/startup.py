"""Startup time of the commands that only list or check, compared with the bare imports of the libraries they use.

    python benchmarks/startup.py                # as installed
    python benchmarks/startup.py --plugins 20   # with twenty more distributions that bring a formatter each

Every command runs in a process of its own, in turn with the bare imports, so that a noisy machine is noisy for both.
Bytecode may be kept, as for any installed program: the first run of each command is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
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
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
PLUGIN = """
from typing import Annotated
from attrs import frozen
from loraplug import Doc, Formatter, hookimpl

@frozen
class Made(Formatter):
    '''A formatter of somebody else's.'''
    name = "made-{number}"
    width: Annotated[int, Doc("how wide")] = 1
    mode: Annotated[str, Doc("how")] = "plain"
    def encode(self, rows, tokenizer, run):
        return rows

@hookimpl
def loraplug_formatters():
    return [Made]
"""


def more_plugins(folder: Path, count: int) -> None:
    """Distributions as pip leaves them."""
    for number in range(count):
        (folder / f"made_{number}.py").write_text(PLUGIN.format(number=number))
        info = folder / f"made_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[loraplug]\nmade-{number} = made_{number}\n")


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table: medians, and the median of the ratios pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=0, metavar="N", help="install N more plugins for the time of it")
    with tempfile.TemporaryDirectory() as folder:
        more_plugins(Path(folder), parser.parse_args().plugins)
        ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(filter(None, [ENVIRONMENT.get("PYTHONPATH"), folder]))
        measure()


def measure() -> None:
    """Every command beside the bare imports."""
    print(
        f"{'command':28} {'wall s':>8} {'cpu s':>8} {'bare wall':>10} {'bare cpu':>9}"
        f" {'wall ratio':>11} {'cpu ratio':>10}"
    )
    for name, words in COMMANDS.items():
        ours = [sys.executable, "-m", "loraplug", *words]
        timed(ours)
        pairs = [(timed(ours), timed(BARE)) for _ in range(RUNS)]
        figures = [statistics.median(pair[side][unit] for pair in pairs) for side in (0, 1) for unit in (0, 1)]
        ratios = [statistics.median(ours[unit] / bare[unit] for ours, bare in pairs) for unit in (0, 1)]
        print(f"{name:28} {figures[0]:8.3f} {figures[1]:8.3f} {figures[2]:10.3f} {figures[3]:9.3f}", end="")
        print(f" {ratios[0]:11.2f} {ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
