"""The checks of transforms and adapters. Slow libraries load inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loraplug import LoraplugError
from loraplug.testing import tiny_model, tiny_run
from loraplug_tools.plugins.conformance import CheckError, refuses, require
from loraplug_tools.plugins.row_checks import ROWS, as_dataset

_ODD: list[dict[str, Any]] = [{"no such": n, "columns": None} for n in range(3)]


def _applied(part: Any, room: Path, rows: Any) -> Any | None:
    """The rows that come out; None where these rows are refused in words."""
    try:
        return part.apply(rows=rows, run=tiny_run(room))
    except LoraplugError:
        return None


def _same_rows_twice(part: Any, room: Path) -> None:
    from datasets import Dataset

    for shape, rows in ROWS.items():
        given = as_dataset(rows)
        first = _applied(part, room / "one", given)
        if first is None:
            continue
        require(isinstance(first, Dataset), f"{shape}: apply() gives {type(first).__name__}, not a datasets.Dataset")
        second = _applied(part, room / "two", as_dataset(rows))
        require(second is not None and first.to_list() == second.to_list(), f"{shape}: applied twice, the rows differ")
        require(given.to_list() == rows, f"{shape}: apply() changed the rows it was given")


def _odd_rows(part: Any, room: Path) -> None:
    try:
        _applied(part, room, as_dataset(_ODD))
    except Exception as error:
        text = f"rows of columns {', '.join(_ODD[0])} raise {type(error).__name__} ({error}): raise an InputError"
        raise CheckError(text) from error


TRANSFORM_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "applied twice, the same rows": _same_rows_twice,
    "odd rows get a clear error": _odd_rows,
}


def _base(room: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model(room / "base")).eval()


def _answer(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits


def _fresh_is_base(part: Any, room: Path) -> None:
    import torch

    expected = _answer(_base(room))
    require(torch.allclose(_answer(part.attach(model=_base(room))), expected, atol=1e-5),
            "with a new adapter, the model answers differently from the base")  # fmt: skip


def _only_what_is_trainable(part: Any, room: Path) -> None:
    import torch

    model = part.attach(model=_base(room)).train()
    named = part.trainable(model=model)
    require(named, "trainable() names nothing")
    trained = {id(weight) for weight in named.values()}
    loose = [name for name, weight in model.named_parameters() if weight.requires_grad != (id(weight) in trained)]
    require(not loose, f"trainable() and requires_grad disagree on {loose[:1]}")
    ids = torch.tensor([[5, 6, 7, 8]])
    model(input_ids=ids, labels=ids).loss.backward()
    reached = [name for name, weight in named.items() if weight.grad is not None and weight.grad.abs().sum() > 0]
    require(reached, "no gradient reaches what is to be trained")


def _changed(part: Any, room: Path) -> Any:
    """A model in which everything trainable was moved, always the same way."""
    import torch

    model, draw = part.attach(model=_base(room)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in part.trainable(model=model).values():
            weight.add_(torch.randn(weight.shape, generator=draw, dtype=torch.float32).to(weight) * 0.02)
    return model


def _comes_back(part: Any, room: Path) -> None:
    import torch

    model, folder = _changed(part, room), room / "saved"
    folder.mkdir()
    expected = _answer(model)
    require(not torch.equal(expected, _answer(_base(room))), "what is trained does not change the answers")
    part.save(model=model, folder=folder)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    require(any(name.endswith(".safetensors") for name in names), "save() leaves no safetensors")
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl")))
    require(not pickled, f"save() leaves {', '.join(pickled)}, which can run code when it is opened")
    settings = next((folder / name for name in ("adapter_config.json", "config.json") if name in names), None)
    require(settings is not None, "save() leaves neither adapter_config.json nor config.json")
    config = json.loads(Path(str(settings)).read_text(encoding="utf-8"))
    require(isinstance(part.mergeable(config=config), bool), "mergeable() gives neither True nor False")
    again = part.load(model=_base(room), folder=folder)
    require(torch.equal(_answer(again), expected), "saved and loaded, the answers differ")


def _empty_folder(part: Any, room: Path) -> None:
    folder = room / "empty"
    folder.mkdir()
    refuses("an empty folder", lambda: part.load(model=_base(room), folder=folder))


ADAPTER_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "a new one does not change the answers": _fresh_is_base,
    "only what it names is trained": _only_what_is_trainable,
    "saved and loaded, the same answers": _comes_back,
    "an empty folder is refused": _empty_folder,
}
