"""Encoded rows of random words, as a formatter would leave them."""

from __future__ import annotations

import random
from typing import Any


def encoded(count: int, seed: int = 0, longest: int = 40) -> Any:
    """Rows of 6 to `longest` ids; the first third of each is not trained."""
    from datasets import Dataset

    draw = random.Random(seed)
    ids = [[draw.randrange(3, 250) for _ in range(draw.randint(6, longest))] for _ in range(count)]
    labels = [[-100] * (len(row) // 3) + row[len(row) // 3 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "row": [[f"r{at}"] for at in range(count)]})
