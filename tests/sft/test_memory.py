"""What training keeps in memory beside the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SHAPES = """
import json, sys
import psutil, torch
from loraplug_train.cpu.math import product

weights = [torch.randn(out, width).to(getattr(torch, sys.argv[1])) for out, width in ((192, 576), (1536, 576))]
held = []
for tokens in range(100, 240):
    for weight in weights:
        product(torch.randn(tokens, weight.shape[1]), weight)
        product(torch.randn(tokens, weight.shape[0]), weight.t())
    held.append(psutil.Process().memory_info().rss)
print(json.dumps(held[-1] - held[0]))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_many_lengths_leave_little_behind(dtype: str) -> None:
    """Libraries keep code for every shape; the command line, which is run first, has them keep less of it."""
    begun = "from contextlib import suppress\nfrom loraplug.cli import main\n"
    begun += "with suppress(SystemExit):\n    main(['--version'])\n"
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    grown = []
    for code in (begun + SHAPES, SHAPES):
        done = subprocess.run(
            [sys.executable, "-c", code, dtype], env=env, capture_output=True, text=True, check=True, timeout=300
        )
        grown.append(json.loads(done.stdout.splitlines()[-1]))
    assert grown[0] < 0.6 * grown[1] or grown[1] < 50e6
