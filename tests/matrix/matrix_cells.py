"""The cells of the precision matrix: number format, kernel, adapter, layout of processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import asdict, astuple, frozen

FORMATS = {
    "float32": ('dtype = "float32"', ""),
    "bfloat16": ('dtype = "bfloat16"', ""),
    "float16": ('dtype = "float16"', ""),
    "nf4": ('dtype = "float32"', "bits = 4"),
    "nf4 bfloat16": ('dtype = "bfloat16"', "bits = 4"),
    "int8": ('dtype = "float32"', "bits = 8"),
    "int8 bfloat16": ('dtype = "bfloat16"', "bits = 8"),
}
SUBSET = ("float32", "bfloat16", "float16", "nf4 bfloat16", "int8")  # the formats of the part that every test run takes
KERNELS = {"fast": "auto", "plain": "plain"}  # the fast one is taken where it can be; the run says where it cannot
ADAPTERS = {
    "LoRA": "",
    "DoRA": "use_dora = true",
    "rsLoRA": "use_rslora = true",
    "modules_to_save": 'modules_to_save = ["lm_head", "norm"]',
    "embeddings": 'modules_to_save = ["embed_tokens"]',
    "lm_head": 'target_modules = ["q_proj", "v_proj", "down_proj", "lm_head"]',
}
LAYOUTS: dict[str, dict[str, str]] = {
    "one process": {},
    "two processes": {},
    "FSDP2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "ZeRO-3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
STEPS, SEEN = 4, 2  # optimizer steps of a run; the one whose checkpoint a second run goes on from
RECIPE = """\
run_name = "cell"
[dataset]
use = "jsonl"
path = '{rows}'
[formatter]
use = "chat-template"
max_length = 256
[validation]
rows = 3
[model]
use = "transformers"
id = '{model}'
{dtype}
{quantizer}
[trainer]
use = "sft"
max_steps = {steps}
learning_rate = 1e-2
kernel = "{kernel}"
validate_every = 2
save_every = 1
save_total_limit = {steps}
samples = 1
[trainer.lora]
{lora}
[[exporter]]
use = "adapter"
[[exporter]]
use = "merged"
"""


@frozen
class Cell:
    """One combination; each value is a key of the table of its name above."""

    format: str
    kernel: str
    adapter: str
    layout: str

    def __str__(self) -> str:
        return ", ".join(astuple(self))

    def recipe(self, model: Path, rows: Path) -> str:
        """The recipe's text."""
        dtype, bits = FORMATS[self.format]
        quantizer = f'[quantizer]\nuse = "bitsandbytes"\n{bits}' if bits else ""
        given = {"dtype": dtype, "quantizer": quantizer, "kernel": KERNELS[self.kernel], "lora": ADAPTERS[self.adapter]}
        return RECIPE.format(rows=rows, model=model, steps=STEPS, **given)

    def table(self) -> dict[str, str]:
        """As JSON has it."""
        return asdict(self)


def every() -> list[Cell]:
    """The whole matrix."""
    return [Cell(*values) for values in itertools.product(FORMATS, KERNELS, ADAPTERS, LAYOUTS)]


def is_refused(cell: Cell) -> bool:
    """Whether `recipe check` refuses it: 4- and 8-bit weights cannot be shared out."""
    return bool(FORMATS[cell.format][1]) and cell.layout in ("FSDP2", "ZeRO-3")


def subset() -> list[Cell]:
    """At most 40 cells, always the same: every two values that can meet do, and every kind of refusal is there."""
    given = [cell for cell in every() if cell.format in SUBSET]
    refused = [cell for cell in given if is_refused(cell) and (cell.kernel, cell.adapter) == ("fast", "LoRA")]
    return pairwise([cell for cell in given if not is_refused(cell)]) + refused


def pairwise(cells: Sequence[Cell]) -> list[Cell]:
    """Part of the cells in which every two values that meet in one of them meet, too."""
    wanted = set().union(*map(_pairs, cells))
    chosen = []
    while wanted:
        best = max(cells, key=lambda cell: (len(_pairs(cell) & wanted), cell.layout == "one process"))
        chosen.append(best)
        wanted -= _pairs(best)
    return chosen


def _pairs(cell: Cell) -> set[tuple[str, str, str, str]]:
    table = cell.table()
    pairs: Iterable[tuple[str, str]] = itertools.combinations(table, 2)
    return {(one, table[one], other, table[other]) for one, other in pairs}
