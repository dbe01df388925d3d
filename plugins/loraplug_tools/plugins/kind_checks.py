"""The checks of each kind: what its verb promises, tried on the tiny model. Slow libraries load inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve

from loraplug import Component, Diagnostic, Encoded, Finding, InputError
from loraplug.testing import tiny_model, tiny_run, tiny_tokenizer, tiny_trained
from loraplug_tools.plugins.adapter_checks import ADAPTER_CHECKS, TRANSFORM_CHECKS
from loraplug_tools.plugins.conformance import given_paths, refuses, require, with_path
from loraplug_tools.plugins.optimizer_checks import OPTIMIZER_CHECKS, SCHEDULER_CHECKS
from loraplug_tools.plugins.row_checks import FORMATTER_CHECKS, SOURCE_CHECKS
from loraplug_tools.plugins.schemas import schemas_are_kept, training_rows


def quiet() -> None:
    """Turn off the progress bars that libraries draw between the findings."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()


def _bad_paths(act: Callable[[Any, Path], object]) -> Callable[[Any, Path], None]:
    def check(part: Component, room: Path) -> None:
        noise = room / "noise"
        noise.write_bytes(b"\xff\xfe\x00\x01{[" * 50)
        for option in given_paths(part):
            for what, path in (("a missing file", room / "missing"), ("a file of noise", noise)):
                changed = with_path(part, option, path)
                refuses(f"{option.name} = {what}", partial(act, changed, room))

    return check


# model loaders


def _base_is_a_folder(part: Any, room: Path) -> None:
    base = part.base(run=tiny_run(room))
    require((base / "config.json").is_file(), f"base() gives {base}, which has no config.json")
    require(any(base.glob("*.safetensors")), f"base() gives {base}, which has no safetensors")


def _loads_alike(part: Any, room: Path) -> None:
    import torch

    first, second = (part.load_model(run=tiny_run(room)) for _ in range(2))
    require(not first.training, "the model comes in training mode: call eval()")
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    differing = [name for (name, one), other in pairs if not torch.equal(one, other)]
    require(not differing, f"loaded twice, {differing[:1]} differs")


def _tells_the_truth(part: Any, room: Path) -> None:
    """Where files are read without loading, and a model is made without weights, they are those that are loaded."""
    run = tiny_run(room)
    facts, empty = part.facts(run=run), part.load_empty(run=run)
    if facts is not None:
        template = part.load_tokenizer(run=run).chat_template
        require(template == facts.chat_template, "facts() and the tokenizer have different chat templates")
    if empty is not None:
        modules = [[name for name, _ in model.named_modules()] for model in (empty, part.load_model(run=run))]
        require(modules[0] == modules[1], "load_empty() has other modules than load_model()")


def _tokenizer_fits(part: Any, room: Path) -> None:
    tokenizer, model = part.load_tokenizer(run=tiny_run(room)), part.load_model(run=tiny_run(room))
    rows = model.get_input_embeddings().weight.shape[0]
    require(len(tokenizer) <= rows, f"the tokenizer has {len(tokenizer)} tokens, the model {rows}")
    require(tokenizer.eos_token_id is not None, "the tokenizer has no end-of-sequence token")


# quantizers


def _config_is_one(part: Any, _: Path) -> None:
    import torch
    from transformers.utils.quantization_config import QuantizationConfigMixin

    first, second = part.config(dtype=torch.float32), part.config(dtype=torch.float32)
    require(isinstance(first, QuantizationConfigMixin), f"config() gives {type(first).__name__}")
    require(first.to_dict() == second.to_dict(), "config() differs from one call to the next")


def _stored_bytes(model: Any) -> int:
    """Bytes of a model's weights; one that is made of several tensors tells which."""
    total = 0
    for weight in model.parameters():
        names = weight.__tensor_flatten__()[0] if hasattr(weight, "__tensor_flatten__") else []
        total += sum(getattr(weight, name).nbytes for name in names) if names else weight.nbytes
    return total


def _tells_weights(part: Any, room: Path) -> None:
    """Where it tells what weights become, that is what a quantised layer multiplies by."""
    import torch
    from transformers import AutoModelForCausalLM

    base = tiny_model(room / "told")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).model.layers[0].mlp.up_proj
    config = part.config(dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    layer = part.prepare(model=model).model.layers[0].mlp.up_proj
    try:
        told = part.dequantize(weight=plain.weight.detach(), dtype=torch.float32)
    except InputError:
        return
    with torch.no_grad():
        used = layer(torch.eye(plain.in_features)).T.float()
    require(told.shape == plain.weight.shape, f"dequantize() gives a weight of shape {tuple(told.shape)}")
    apart = float((told - used).abs().max() / used.abs().max())
    require(apart < 0.02, f"dequantize() differs from the weight that the layer uses by {apart:.2g}")


def _adapters_learn(part: Any, room: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_model(room / "base")
    config = part.config(dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base)
    require(_stored_bytes(model) < _stored_bytes(plain), "the model is no smaller than the base")
    model = part.prepare(model=model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        model.eval()(ids)  # measured before it is trained, as a run does
    adapted = get_peft_model(model, LoraConfig("CAUSAL_LM", r=4, target_modules="all-linear")).train()
    adapted(ids, labels=ids).loss.backward()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            require(weight.grad is not None and weight.grad.abs().sum() > 0, f"no gradient reaches {name}")


# trainers


def _trained(part: Any, room: Path, rows: Encoded) -> Any:
    from transformers import AutoModelForCausalLM

    base = tiny_model(room / "base")
    run = tiny_run(room)
    run.folder.mkdir(parents=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    return part.train(
        run=run,
        load_model=lambda placement: model,  # noqa: ARG005 - there is one place here
        tokenizer=tiny_tokenizer(),
        train=rows,
        validation=evolve(rows, dataset=rows.dataset.select([0])),
    )


_FILES = {
    "adapter": {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"},
    "model": {"config.json", "tokenizer.json"},
}


def _trains_alike(part: Any, room: Path) -> None:
    digests = []
    for name in ("one", "two"):
        result = _trained(part, room / name, training_rows(part.consumes))
        files = {path.name for path in result.path.iterdir()}
        require(
            result.kind == part.makes(), f"makes() gives {part.makes()}, and train() made a result of {result.kind}"
        )
        missing = _FILES[result.kind] - files
        require(not missing, f"the folder of the {result.kind} lacks {', '.join(sorted(missing))}")
        expected = tiny_run(room / name).folder / result.kind
        require(result.path == expected, f"the {result.kind} lies in {result.path}, not in {expected}")
        digests.append([_digest(path) for path in sorted(result.path.glob("*.safetensors"))])
        odd = [key for key, value in result.figures.items() if not isinstance(value, int | float)]
        require(not odd, f"figures must be numbers: {', '.join(odd)}")
    require(digests[0] == digests[1], "trained twice from one seed, the results differ")


def _nothing_to_train(part: Any, room: Path) -> None:
    if part.consumes == "rollouts":  # all of whose tokens are trained
        return
    rows = training_rows(part.consumes, trained=False)
    refuses("rows without a trained token", lambda: _trained(part, room, rows))


# exporters


def _exports_alike(part: Any, room: Path) -> None:
    trained = tiny_trained(room)
    before = _tree(trained.adapter)
    made = []
    for name in ("one", "two"):
        out = room / name / part.place(run=trained.run).name
        out.parent.mkdir()
        given = part.export(result=trained, out=out)
        if given is None:  # nothing is left on disk
            return
        require(given == out, f"export() gives {given}, not the path it was handed")
        require(out.exists(), "export() left nothing at the path it was handed")
        made.append(_tree(out))
    differing = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
    require(not differing, f"exported twice, {', '.join(differing)} differ")
    require(_tree(trained.adapter) == before, "export() changed the adapter it was given")


def _bad_adapters(part: Any, room: Path) -> None:
    for what in ("without a config", "with weights cut short"):
        trained = tiny_trained(room / what.replace(" ", "-"))
        if what == "without a config":
            (trained.adapter / "adapter_config.json").unlink()
        else:
            weights = trained.adapter / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])
        refuses(f"an adapter {what}", partial(part.export, result=trained, out=trained.run.outputs / "out"))


def _tree(place: Path) -> dict[str, str]:
    if place.is_file():
        return {place.name: _digest(place)}
    return {path.relative_to(place).as_posix(): _digest(path) for path in sorted(place.rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# observers

EVENTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("stage-start", {"stage": "trainer", "component": "sft"}),
    ("sample", {"step": 0, "prompt": "what is 1 and one?", "answer": "1"}),
    ("metrics", {"step": 1, "steps": 2, "epoch": 0.5, "loss": 2.5, "learning_rate": 1e-4}),
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


def diagnose(diagnostic: Diagnostic) -> None:
    """Ask a diagnostic about this machine; whatever it raises comes out.

    Raises:
        CheckError: it yields something else, or a finding that `loraplug doctor` cannot show.
    """
    with TemporaryDirectory() as room:
        for finding in diagnostic(tiny_run(Path(room))):
            require(isinstance(finding, Finding), f"yields {finding!r}, which is no loraplug.Finding")
            require(finding.severity in ("ok", "warning", "error"), f"has the severity {finding.severity!r}")
            require(bool(finding.subject.strip() and finding.text.strip()), f"yields {finding!r}, which says nothing")
            require("\n" not in finding.subject + finding.text, f"{finding.text!r} has more than one line")


CHECKS: dict[str, dict[str, Callable[[Any, Path], None]]] = {
    "dataset": {
        **SOURCE_CHECKS,
        "paths that cannot be read are refused": _bad_paths(lambda part, room: part.load(run=tiny_run(room))),
    },
    "transform": TRANSFORM_CHECKS,
    "formatter": {**FORMATTER_CHECKS, "rows of other schemas are sound": schemas_are_kept},
    "adapter": ADAPTER_CHECKS,
    "optimizer": OPTIMIZER_CHECKS,
    "scheduler": SCHEDULER_CHECKS,
    "model": {
        "base() is a safetensors folder": _base_is_a_folder,
        "loaded twice, the same weights": _loads_alike,
        "tokenizer and model fit": _tokenizer_fits,
        "facts() agrees with the loaded model": _tells_the_truth,
        "paths that cannot be read are refused": _bad_paths(lambda part, room: part.load_model(run=tiny_run(room))),
    },
    "quantizer": {
        "config() returns a transformers config": _config_is_one,
        "adapters on it can be trained": _adapters_learn,
        "dequantize() returns the weight that the layer uses": _tells_weights,
    },
    "trainer": {
        "trained twice, the same result": _trains_alike,
        "rows without a trained token are refused": _nothing_to_train,
    },
    "exporter": {"exported twice, the same bytes": _exports_alike, "a damaged adapter is refused": _bad_adapters},
}
"""Title to check, by kind; each is given the component and an empty folder."""
