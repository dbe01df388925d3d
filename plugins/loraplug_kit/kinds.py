"""The checks of each kind: what its verb promises, tried on the tiny model. Slow libraries load inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from loraplug import Component, LoraplugError, conversation, shape_of
from loraplug.testing import tiny_model, tiny_run, tiny_tokenizer, tiny_trained
from loraplug_kit.conformance import CheckError, given_paths, refuses, require, with_path

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": [{"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": f"it is {n}"}]}
        for n in range(3)
    ],
    "prompt-completion": [{"prompt": f"{n} and one is ", "completion": f"{n + 1}"} for n in range(3)],
    "instruction-response": [{"instruction": f"add one to {n}", "response": f"{n + 1}"} for n in range(3)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"hello {n}"}, {"from": "gpt", "value": "hello"}]}
        for n in range(3)
    ],
    "text": [{"text": f"def number_{n}():\n    '''The number.'''\n    return {n}\n" * 3} for n in range(3)],
}
"""Three sound rows of every shape that sources may yield."""

_BAD_ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"content": "who says this?"}]},
    "prompt-completion": {"prompt": None, "completion": None},
    "instruction-response": {"instruction": None, "response": None},
    "sharegpt": {"conversations": [{"from": "nobody known", "value": "hm"}]},
    "text": {"text": None},
}


def quiet() -> None:
    """Turn off the progress bars that libraries draw between the findings."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


# dataset sources


def _rows_have_a_shape(part: Any, room: Path) -> None:
    rows = part.load(tiny_run(room))
    require(len(rows), "gave no rows")
    shape = shape_of(rows.column_names)
    for index, row in enumerate(rows):
        if shape == "text":
            require(isinstance(row["text"], str), f"row {index}: text is {type(row['text']).__name__}")
        else:
            conversation(row, shape, index)


def _same_rows_twice(part: Any, room: Path) -> None:
    first, second = (part.load(tiny_run(room / name)) for name in ("one", "two"))
    require(first.column_names == second.column_names, "the columns differ from one load to the next")
    for index, (row, again) in enumerate(zip(first, second, strict=True)):
        require(row == again, f"row {index} differs from one load to the next")


def _bad_paths(act: Callable[[Any, Path], object]) -> Callable[[Any, Path], None]:
    def check(part: Component, room: Path) -> None:
        noise = room / "noise"
        noise.write_bytes(b"\xff\xfe\x00\x01{[" * 50)
        for option in given_paths(part):
            for what, path in (("a missing file", room / "missing"), ("a file of noise", noise)):
                changed = with_path(part, option, path)
                refuses(f"{option.name} = {what}", partial(act, changed, room))

    return check


# formatters


def _encoded(part: Any, room: Path, rows: list[dict[str, Any]]) -> tuple[Any, list[str]]:
    run = tiny_run(room)
    return part.encode(_dataset(rows), tiny_tokenizer(), run), run.reporter.lines + run.reporter.warnings


def _shapes_taken(part: Any, room: Path) -> dict[str, Any]:
    taken, refused = {}, []
    for shape, rows in ROWS.items():
        try:
            taken[shape], said = _encoded(part, room, rows)
        except LoraplugError as error:
            refused.append(f"{shape}: {error.what}")
            continue
        whole = sum(len(str(row).split()) for row in taken[shape]["row"]) >= len(rows)
        require(whole or said, f"{shape}: rows were left out and nobody was told")
    require(any(len(encoded) for encoded in taken.values()), f"takes no shape of rows ({'; '.join(refused)})")
    return {shape: encoded for shape, encoded in taken.items() if len(encoded)}


def _labels_are_exact(part: Any, room: Path) -> None:
    known = set(range(len(tiny_tokenizer())))
    for shape, encoded in _shapes_taken(part, room).items():
        missing = {"input_ids", "labels", "row"} - set(encoded.column_names)
        require(not missing, f"{shape}: lacks the columns {', '.join(sorted(missing))}")
        for row in encoded:
            ids, labels = row["input_ids"], row["labels"]
            require(len(ids) == len(labels) > 0, f"{shape}: {len(ids)} tokens, {len(labels)} labels")
            require(set(ids) <= known, f"{shape}: a token the tokenizer does not have")
            odd = [at for at, (id_, label) in enumerate(zip(ids, labels, strict=True)) if label not in (-100, id_)]
            require(not odd, f"{shape}: the label at {odd[:1]} is neither -100 nor its token")
            require(any(label != -100 for label in labels), f"{shape}: a row trains no token")
            require(sum(row.get("seq_lengths") or [len(ids)]) == len(ids), f"{shape}: seq_lengths do not sum up")
            require(isinstance(row["row"], list), f"{shape}: `row` is not a list of row ids")


def _encodes_alike(part: Any, room: Path) -> None:
    for shape, encoded in _shapes_taken(part, room / "one").items():
        again, _ = _encoded(part, room / "two", ROWS[shape])
        require(encoded.to_list() == again.to_list(), f"{shape}: encoded twice, the rows differ")


def _bad_rows_are_told(part: Any, room: Path) -> None:
    for shape in _shapes_taken(part, room):
        bad, whole = _BAD_ROWS[shape], ROWS[shape]
        try:
            encoded, said = _encoded(part, room, [*whole, bad])
        except LoraplugError:
            continue
        except Exception as error:
            raise CheckError(f"{shape}: {bad} raises {type(error).__name__} ({error})") from error
        left = sum(len(row) for row in encoded["row"])
        require(left <= len(whole) and said, f"{shape}: {bad} is neither refused nor left out with a word")


# model loaders


def _base_is_a_folder(part: Any, room: Path) -> None:
    base = part.base(tiny_run(room))
    require((base / "config.json").is_file(), f"base() gives {base}, which has no config.json")
    require(any(base.glob("*.safetensors")), f"base() gives {base}, which has no safetensors")


def _loads_alike(part: Any, room: Path) -> None:
    import torch

    first, second = (part.load_model(tiny_run(room)) for _ in range(2))
    require(not first.training, "the model comes in training mode: call eval()")
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    differing = [name for (name, one), other in pairs if not torch.equal(one, other)]
    require(not differing, f"loaded twice, {differing[:1]} differs")


def _tokenizer_fits(part: Any, room: Path) -> None:
    tokenizer, model = part.load_tokenizer(tiny_run(room)), part.load_model(tiny_run(room))
    rows = model.get_input_embeddings().weight.shape[0]
    require(len(tokenizer) <= rows, f"the tokenizer has {len(tokenizer)} tokens, the model {rows}")
    require(tokenizer.eos_token_id is not None, "the tokenizer has no end-of-sequence token")


# quantizers


def _config_is_one(part: Any, _: Path) -> None:
    import torch
    from transformers.utils.quantization_config import QuantizationConfigMixin

    first, second = part.config(torch.float32), part.config(torch.float32)
    require(isinstance(first, QuantizationConfigMixin), f"config() gives {type(first).__name__}")
    require(first.to_dict() == second.to_dict(), "config() differs from one call to the next")


def _adapters_learn(part: Any, room: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_model(room / "base")
    config = part.config(torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base)
    require(model.get_memory_footprint() < plain.get_memory_footprint(), "the model is no smaller than the base")
    model = part.prepare(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        model.eval()(ids)  # measured before it is trained, as a run does
    adapted = get_peft_model(model, LoraConfig("CAUSAL_LM", r=4, target_modules="all-linear")).train()
    adapted(ids, labels=ids).loss.backward()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            require(weight.grad is not None and weight.grad.abs().sum() > 0, f"no gradient reaches {name}")


# trainers


def _training_rows() -> Any:
    tokenizer = tiny_tokenizer()
    rows = []
    for n in range(4):
        prompt, answer = (tokenizer(text)["input_ids"] for text in (f"what is {n} and one?", f" it is {n + 1}"))
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "row": [f"row {n}"]})
    return _dataset(rows)


def _trained(part: Any, room: Path, rows: Any) -> Any:
    from transformers import AutoModelForCausalLM

    base = tiny_model(room / "base")
    run = tiny_run(room)
    run.folder.mkdir(parents=True)
    return part.train(run, AutoModelForCausalLM.from_pretrained(base), tiny_tokenizer(), rows, rows.select([0]))


def _trains_alike(part: Any, room: Path) -> None:
    digests = []
    for name in ("one", "two"):
        result = _trained(part, room / name, _training_rows())
        files = {path.name for path in result.adapter.iterdir()}
        missing = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} - files
        require(not missing, f"the adapter folder lacks {', '.join(sorted(missing))}")
        expected = tiny_run(room / name).folder / "adapter"
        require(result.adapter == expected, f"the adapter lies in {result.adapter}, not in run.folder / 'adapter'")
        digests.append(_digest(result.adapter / "adapter_model.safetensors"))
        odd = [key for key, value in result.figures.items() if not isinstance(value, int | float)]
        require(not odd, f"figures must be numbers: {', '.join(odd)}")
    require(digests[0] == digests[1], "trained twice from one seed, the adapters differ")


def _nothing_to_train(part: Any, room: Path) -> None:
    rows = _training_rows().map(lambda row: {"labels": [-100] * len(row["labels"])})
    refuses("rows without a trained token", lambda: _trained(part, room, rows))


# exporters


def _exports_alike(part: Any, room: Path) -> None:
    trained = tiny_trained(room)
    before = _tree(trained.adapter)
    made = []
    for name in ("one", "two"):
        out = room / name / part.place(trained.run).name
        out.parent.mkdir()
        given = part.export(trained, out)
        if given is None:  # nothing is left on disk
            return
        require(given == out, f"export() gives {given}, not the path it was handed")
        require(out.exists(), "export() left nothing at the path it was handed")
        made.append(_tree(out))
    differing = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
    require(not differing, f"exported twice, {', '.join(differing)} differ")
    require(_tree(trained.adapter) == before, "the adapter it was given is not what it was")


def _bad_adapters(part: Any, room: Path) -> None:
    for what in ("without a config", "with weights cut short"):
        trained = tiny_trained(room / what.replace(" ", "-"))
        if what == "without a config":
            (trained.adapter / "adapter_config.json").unlink()
        else:
            weights = trained.adapter / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])
        refuses(f"an adapter {what}", partial(part.export, trained, trained.run.outputs / "out"))


def _tree(place: Path) -> dict[str, str]:
    if place.is_file():
        return {place.name: _digest(place)}
    return {path.relative_to(place).as_posix(): _digest(path) for path in sorted(place.rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# observers

EVENTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("stage-start", {"stage": "trainer", "component": "sft"}),
    ("metrics", {"step": 1, "epoch": 0.5, "loss": 2.5, "learning_rate": 1e-4}),
    ("metrics", {"step": 1, "validation_loss": 2.25}),
    ("stage-end", {"stage": "trainer", "component": "sft"}),
    ("artefact", {"name": "adapter", "path": "outputs/adapters/tiny"}),
    ("a-kind-of-the-future", {}),
)


def observe(observer: Callable[[Any], None]) -> None:
    """Tell an observer of one event of each kind; whatever it raises comes out."""
    from loraplug import Event

    for kind, data in EVENTS:
        observer(Event(kind, "tiny", json.loads(json.dumps(data))))


CHECKS: dict[str, dict[str, Callable[[Any, Path], None]]] = {
    "dataset": {
        "rows have a known shape": _rows_have_a_shape,
        "loaded twice, the same rows": _same_rows_twice,
        "paths that cannot be read are refused": _bad_paths(lambda part, room: part.load(tiny_run(room))),
    },
    "formatter": {
        "labels are exact": _labels_are_exact,
        "encoded twice, the same tokens": _encodes_alike,
        "bad rows are refused or counted": _bad_rows_are_told,
    },
    "model": {
        "base() is a safetensors folder": _base_is_a_folder,
        "loaded twice, the same weights": _loads_alike,
        "tokenizer and model fit": _tokenizer_fits,
        "paths that cannot be read are refused": _bad_paths(lambda part, room: part.load_model(tiny_run(room))),
    },
    "quantizer": {"config() is transformers' own": _config_is_one, "adapters on it learn": _adapters_learn},
    "trainer": {"trained twice, the same adapter": _trains_alike, "nothing to train is refused": _nothing_to_train},
    "exporter": {"exported twice, the same bytes": _exports_alike, "a spoilt adapter is refused": _bad_adapters},
}
"""Title to check, by kind; each is given the component and an empty folder."""
