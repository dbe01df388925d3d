"""Fuzz for as long as you like: `python tests/fuzz/long.py --minutes 60 [--only rows]`; prints what was tried.
`--atheris patches` lets atheris (pip install atheris) choose the inputs of one target.

Every target has its turn for a minute, with new seeds; a failure is printed with its input, and the others go on.
Needs nothing beyond the tests' requirements. An input that takes over a minute ends the program with a traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import random
import tempfile
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from targets import TARGETS, try_one

GUIDED = (
    "loraplug.recipe.layers", "loraplug.config.tables", "loraplug.recipe.building", "loraplug.recipe.recipe",
    "loraplug.recipe.lock", "loraplug_data.reading", "loraplug_swe.patches.unified",
    "loraplug_swe.patches.reverse", "loraplug_swe.tasks.task", "loraplug_export.tensors", "loraplug_export.lora_files",
)  # fmt: skip
"""What atheris looks into; modules that are loaded only when they are needed, so that it can."""


def coverage_guided(name: str, minutes: float, counts: Counter[str]) -> None:
    """Let atheris choose the inputs by the lines of ours they reach. Ends the program at the first failure."""
    import sys

    import atheris

    with atheris.instrument_imports(include=["loraplug", "loraplug_data", "loraplug_swe", "loraplug_export"]):
        for module in GUIDED:
            import_module(module)

    folder, kept = Path(tempfile.mkdtemp(prefix="fuzz-")), tempfile.mkdtemp(prefix="found-")
    os.chdir(folder)

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        counts["tried"] += 1
        counts["taken"] += try_one(name, data.draw(TARGETS[name][0]), folder)
        if counts["tried"] % 500 == 0:
            print(name, dict(counts), flush=True)

    # a busy machine is no hang, so an input has ten minutes; what breaks is kept outside the folder that is watched
    limits = [f"-max_total_time={int(minutes * 60)}", "-timeout=600", f"-artifact_prefix={kept}{os.sep}"]
    atheris.Setup([sys.argv[0], *limits], attempt.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def turn(name: str, folder: Path, counts: Counter[str], number: int) -> None:
    """Try a hundred inputs of one kind."""

    @seed(number)
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        faulthandler.dump_traceback_later(60, exit=True)
        given_input = data.draw(TARGETS[name][0], label=name)
        counts[f"{name} tried"] += 1
        counts[f"{name} taken"] += try_one(name, given_input, folder)

    try:
        attempt()
    finally:
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    """Take turns until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--turn", type=float, default=60, help="seconds a turn")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--atheris", choices=TARGETS, help="this target only, inputs chosen by atheris")
    words = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    if words.atheris:
        coverage_guided(words.atheris, words.minutes, counts)
        return
    found: Counter[str] = Counter()
    number, until = words.seed, time.monotonic() + words.minutes * 60
    while time.monotonic() < until:
        for name in words.only or TARGETS:
            turn_ends = min(until, time.monotonic() + words.turn)
            while time.monotonic() < turn_ends:
                number += 1
                with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                    fuzz(name, Path(folder), counts, found, number)
        print(f"seed {words.seed}:", dict(counts), "failures:", dict(found) or "none", flush=True)


def fuzz(name: str, folder: Path, counts: Counter[str], found: Counter[str], number: int) -> None:
    """A hundred inputs, and what they break."""
    os.chdir(folder)
    try:
        turn(name, folder, counts, number)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found[f"{name}: {type(error).__name__} at {Path(last.filename).name}:{last.lineno}"] += 1
        print(f"--- {name}, seed {number}", flush=True)
        traceback.print_exc()
    finally:
        os.chdir("/")


if __name__ == "__main__":
    main()
