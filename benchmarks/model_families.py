"""Which features work with which model family: a tiny model of each is trained, packed, quantised, merged and exported.

    make families                                   all of them, into docs/models.md and what `plan` reads
    python benchmarks/model_families.py llama lfm2        some, printed

Every cell is measured: the model is trained for a few steps in float32, in bfloat16 and on an NF4 base; documents laid
end to end are checked not to see each other; the logits of the merged folder are compared with those of base + adapter;
the next tokens of the GGUF file in llama.cpp are compared with those of the merged folder. A cell is right, refused
(with a message, before the work) or wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, frozen

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/sft"), str(ROOT / "tests/export")]

from sft_rows import encoded  # noqa: E402

import families  # noqa: E402 - the tests' own models
from loraplug import ExportContext, InputError, LoraplugError, Run  # noqa: E402

KNOWN = {**families.FAMILIES, **families.MORE}
DATA = ROOT / "plugins/loraplug_tools/inspect/models.json"
PAGE = ROOT / "docs/models.md"
COLUMNS = {
    "trains": "trains",
    "covered": "adapters on",
    "packs": "documents together",
    "nf4": "NF4, weights in 4 bits",
    "bfloat16": "bfloat16",
    "merge": "merge verified by",
    "gguf": "GGUF",
    "kernel": "fast kernel",
}
HEAD = """# Model families

Which features work with which model family. `make families` measures it on tiny random models of each family, with
transformers {transformers} on a CPU. Of the cells of {families} families, {right} work, {refused} are refused with a
message before any work, and {wrong} are wrong. `loraplug plan` shows the row of your model. The first table has the
families that people fine-tune most; the [second](#further-model-types), by model type, has the others.

- **adapters on**: the share of the layers' weights that `target_modules = "all-linear"` adapts. Experts stored in one
  tensor are not included; `"experts"` adapts them.
- **documents together**: how documents share a batch so that none changes another: end to end in one row, in padded
  rows, or one at a time.
- **NF4**: the share of the layers' weights that `[quantizer]` stores in 4 bits.
- **merge verified by**: the number of modules compared one by one, or the logits of the whole model.
- **GGUF**: whether llama.cpp predicts the same next tokens from the GGUF file. "with a certificate": exported only with
  `prove = "always"`, which compares the file with the model ([certificate](certificate.md)); "no" alone: the converter
  does not support the architecture.
- **fast kernel**: whether training on a CPU uses it.
"""
FURTHER = """
## Further model types

The other causal language models in transformers, among them decoders of models that translate, see or hear. Models that
cannot be loaded as a causal language model, such as T5, are refused.
"""
Verdict = Literal["right", "refused", "wrong"]
LOGITS, LEAK = 1e-3, 1e-3  # relative to the logits' size; fp32


@frozen
class Cell:
    """What one column says of a family: a few words, and whether they are what a user wants to find."""

    text: str
    verdict: Verdict = "right"


class _Family:
    """A family's model on disk, with what training it has left there."""

    def __init__(self, name: str, folder: Path) -> None:
        self.base, self.folder = families.save(name, folder / "base"), folder
        self.trained: ExportContext | None = None
        self.facts: dict[str, Any] = {}

    def train(self, dtype: str = "float32", quantised: bool = False) -> ExportContext:
        """Eight steps of LoRA on all linear layers."""
        from loraplug import Encoded
        from loraplug_bnb.quantizer import BitsAndBytes
        from loraplug_hf.loader import TransformersModel
        from loraplug_train.adapters.lora import Lora
        from loraplug_train.trainer import Sft

        run = Run(f"{dtype}{'-nf4' * quantised}", outputs=self.folder / "outputs", cache=self.folder / "cache")
        run.folder.mkdir(parents=True, exist_ok=True)
        loader = TransformersModel(id=str(self.base), dtype=dtype)
        quantizer = BitsAndBytes() if quantised else None
        model = loader.load_model(run, quantizer)
        if quantizer is not None:
            model = quantizer.prepare(model)
        rows = encoded(16, longest=32)
        options = Sft(samples=0, learning_rate=1e-2, epochs=2.0, batch_size=4, lora=Lora(r=4))
        result = options.train(run, lambda _: model, loader.load_tokenizer(run), Encoded(rows), Encoded(rows))
        before, after = (result.figures[f"validation_loss_{when}"] for when in ("before", "after"))
        if not after < before:
            raise AssertionError(f"the loss went from {before:.3g} to {after:.3g}")
        self.facts = json.loads((result.path / "loraplug.json").read_text())
        return ExportContext(run, result.path, self.base, str(self.base), {}, {})


def row(name: str, folder: Path) -> dict[str, Cell]:
    """All cells of a family, whose files go into `folder`."""
    one = _Family(name, folder)
    cells = {"trains": _cell(lambda: _trains(one))}
    works = cells["trains"].verdict == "right"
    makers: dict[str, Callable[[], Cell]] = {
        "covered": lambda: _share(one, "adapted"),
        "packs": lambda: _packs(one),
        "kernel": lambda: _kernel(one),
        "merge": lambda: _merge(one),
        "gguf": lambda: _gguf(one),
        "bfloat16": lambda: (one.train("bfloat16"), Cell("yes"))[1],
        "nf4": lambda: (one.train(quantised=True), _share(one, "quantised"))[1],
    }
    for column, make in makers.items():
        cells[column] = _cell(make) if works else Cell("no", "refused")
    return {column: cells[column] for column in COLUMNS}


def _cell(make: Callable[[], Cell]) -> Cell:
    try:
        return make()
    except LoraplugError as error:
        return Cell(" ".join(f"no: {error.what}".split())[:160], "refused")
    except Exception as error:  # a traceback is what no user should see
        return Cell(" ".join(f"{type(error).__name__}: {error}".split())[:160], "wrong")


def _trains(one: _Family) -> Cell:
    one.trained = one.train()
    return Cell("yes")


def _share(one: _Family, what: Literal["adapted", "quantised"]) -> Cell:
    told = one.facts[what]
    return Cell(f"{told['weights'] / max(told['of'], 1):.0%}")


def _adapted(one: _Family) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from loraplug.adapters.load import load_adapter

    model = AutoModelForCausalLM.from_pretrained(one.base, dtype=torch.float32)
    return load_adapter(model, _trained(one).adapter).eval()


def _trained(one: _Family) -> ExportContext:
    if one.trained is None:
        raise AssertionError("nothing was trained")
    return one.trained


def _packs(one: _Family) -> Cell:
    """How training lays documents; where end to end, another first document must leave the second as it is."""
    import torch

    from loraplug_train.engine.separation import separation

    model = _adapted(one)
    found = separation(model)
    if found.way == "end-to-end":
        second, positions = torch.arange(40, 60), torch.cat([torch.arange(16), torch.arange(20)])[None]
        with torch.no_grad():
            either = [
                model(
                    input_ids=torch.cat([torch.arange(start, start + 16), second])[None],
                    position_ids=positions,
                    use_cache=False,
                ).logits[0, 16:]
                for start in (10, 100)
            ]
        leak = float((either[0] - either[1]).norm() / either[0].norm())
        if not leak < LEAK:
            return Cell(f"end to end, and they see each other ({leak:.1g})", "wrong")
    text = {"end-to-end": "end to end", "padded": "padded", "one-by-one": "one at a time"}[found.way]
    return Cell(text + ("" if found.limit is None else f", up to {found.limit} tokens"))


def _kernel(one: _Family) -> Cell:
    from loraplug_train.cpu.kernel import install

    return Cell("yes" if install(_adapted(one))[0] else "no")


def _merge(one: _Family) -> Cell:
    """The exporter's own proof, and beside it the merged folder's logits against base + adapter's."""
    import torch
    from transformers import AutoModelForCausalLM

    from loraplug_export.merged import MergedExporter

    merged = MergedExporter().export(_trained(one), one.folder / "merged")
    proof = json.loads((merged / "loraplug.json").read_text())["proof"]
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        wanted = _adapted(one)(input_ids=ids, use_cache=False).logits
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        got = model(input_ids=ids, use_cache=False).logits
    apart = float((got - wanted).norm() / wanted.norm())
    if not apart < LOGITS:
        return Cell(f"proved, but the logits are {apart:.1g} apart", "wrong")
    return Cell(f"{proof['modules']} modules" if proof["by"] == "modules" else "logits")


def _gguf(one: _Family) -> Cell:
    """Next tokens of the file in llama.cpp, where transformers is sure of them."""
    from export_llama import LlamaCpp
    from test_export_gguf import sure_next_tokens

    from loraplug_gguf.exporter import GgufExporter
    from loraplug_gguf.proved import unproved

    try:
        file = GgufExporter(verify=False).export(_trained(one), one.folder / "tiny.gguf")
    except InputError as error:
        if error.what == unproved(json.loads((one.base / "config.json").read_text())):
            return Cell("with a certificate", "refused")
        return Cell("no" if "converter does not support" in error.what else f"no: {error.what[:120]}", "refused")
    rows = [[(start * 37 + at * 11) % 240 + 5 for at in range(48)] for start in range(12)]
    wanted, server = sure_next_tokens(one.folder / "merged", rows), LlamaCpp(file)
    got = [server.answer(row, 1)[0] if number is not None else None for row, number in zip(rows, wanted, strict=True)]
    return Cell("yes") if got == wanted else Cell("the file answers otherwise", "wrong")


def page(data: dict[str, Any]) -> str:
    """docs/models.md of what `DATA` holds."""
    verdicts = Counter(cell["verdict"] for one in data["rows"].values() for cell in one["cells"].values())
    counts = {"families": len(data["rows"])} | {key: verdicts[key] for key in ("right", "refused", "wrong")}
    head = HEAD.format(transformers=data["transformers"], **counts)
    first = {name: one for name, one in data["rows"].items() if name in families.FAMILIES}
    further = {name: one for name, one in data["rows"].items() if name not in first}
    parts = [head, *_table("family", first)]
    if further:
        parts += [FURTHER, *_table("model type", further)]
    return "\n".join(parts) + "\n"


def _table(called: str, rows: Mapping[str, Any]) -> Iterator[str]:
    yield f"| {called} | " + " | ".join(COLUMNS.values()) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name, one in rows.items():
        cells = [one["cells"][column] for column in COLUMNS]
        marked = [f"**{cell['text']}**" if cell["verdict"] == "wrong" else cell["text"] for cell in cells]
        yield f"| {name} | " + " | ".join(text.replace("|", "/") for text in marked) + " |"


def write(name: str, cells: Mapping[str, Cell], version: str) -> None:
    """Put a row into `DATA` and its page; rows of another version of transformers, or of families gone, are dropped."""
    old = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    rows = old["rows"] if old.get("transformers") == version else {}
    words = {key: asdict(cell) for key, cell in cells.items()}
    rows[name] = {"model_type": KNOWN[name].model_type, "cells": words}
    data = {"transformers": version, "rows": {key: rows[key] for key in KNOWN if key in rows}}
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(data), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run families; 1 where a cell is wrong."""
    import torch
    import transformers

    torch.set_num_threads(1)  # such small models are faster so
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="default: all")
    parser.add_argument("--write", action="store_true", help="write what `plan` reads, and docs/models.md")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", FutureWarning)  # inside libraries
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    wrong = 0
    for name in given.names or KNOWN:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cells = row(name, Path(folder))
        wrong += sum(cell.verdict == "wrong" for cell in cells.values())
        print(f"{name} ({time.monotonic() - begun:.0f} s)")
        for key, cell in cells.items():
            print(f"  {key:10} {cell.verdict:8} {cell.text}", flush=True)
        if given.write:
            write(name, cells, transformers.__version__)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
