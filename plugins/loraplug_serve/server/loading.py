"""From the models that a user names to what answers behind each name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError, ModelReference, Prompter, Registry, Run, open_model
from loraplug_hf import gguf_file
from loraplug_serve.remote import KEY, address_of, is_url, models_at
from loraplug_serve.sampling import Prefixes, Running
from loraplug_serve.server import llama
from loraplug_serve.server.served import Forwarded, Sampled, Served
from loraplug_serve.server.worker import Worker

_NAMED = re.compile(r"([\w][\w./-]{0,98})=(.+)", re.DOTALL)


@frozen
class RequestedModel:
    """A model as the user named it, and the name to serve it by."""

    name: str
    place: str


@frozen
class Settings:
    """What the command line says of all models."""

    batch: int
    queue: int
    context: int | None
    engine: str
    base: str | None
    trust: bool


def requested_models(models: Sequence[str]) -> list[RequestedModel]:
    """Parse `NAME=MODEL` or `MODEL`; the name of the latter is the last part of its path.

    Raises:
        InputError: two have the same name.
    """
    found = []
    for model in models:
        named = None if Path(model).exists() or is_url(model) else _NAMED.fullmatch(model)
        place = named[2] if named else model
        found.append(RequestedModel(named[1] if named else _name(place), place))
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        todo = "give each a different name: NAME=MODEL"
        raise InputError(f"several models would be named {', '.join(twice)}", where="MODEL", todo=todo)
    return found


def _name(place: str) -> str:
    if not Path(place).exists() and not place.startswith("package:") and re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        return place  # owner/name on the hub
    path = Path(place.removeprefix("package:")).expanduser()
    return path.stem if path.suffix == ".gguf" else path.absolute().name


def load(models: Sequence[RequestedModel], settings: Settings, registry: Registry, run: Run) -> Served:
    """Load all models, saying which engine each is answered by.

    Raises:
        InputError: one cannot be served.
    """
    served = Served()
    urls = [one for one in models if is_url(one.place)]
    ggufs = [one for one in models if one.place.endswith(".gguf") and one not in urls]
    if settings.engine == "sampler" or (ggufs and not llama.is_there()):
        if settings.engine == "llama.cpp":
            what = "llama.cpp is not installed"
            raise InputError(what, where="--engine", todo='pip install "xllamacpp>=2026.10"')
        if ggufs and settings.engine == "auto":
            run.say('llama.cpp is not installed (pip install "xllamacpp>=2026.10"): .gguf files are dequantised')
        ggufs = []
    for one in urls:
        _add(served, _at_url(one, run))
    if ggufs:
        _add(served, _by_llama(ggufs, settings, served, run))
    _by_sampler([one for one in models if one not in urls and one not in ggufs], settings, registry, served, run)
    return served


def _add(served: Served, models: Sequence[Forwarded | Sampled]) -> None:
    for model in models:
        if model.name in served.models:
            raise InputError(f"two models are called {model.name}", where="MODEL", todo="name one: NAME=MODEL")
        served.models[model.name] = model


def _at_url(one: RequestedModel, run: Run) -> list[Forwarded]:
    """The models that a server at a URL tells of."""
    address, key = address_of(one.place), os.environ.get(KEY) or None
    names = models_at(address, key)
    run.say(f"{', '.join(names)}: forwarded to {address}")
    return [Forwarded(name, address, name, {}, key) for name in names]


def _by_llama(ggufs: Sequence[RequestedModel], settings: Settings, served: Served, run: Run) -> list[Forwarded]:
    files = {one.name: gguf_file(one.place) for one in ggufs}
    kinds = {name: llama.facts(file) for name, file in files.items()}
    bases = [name for name, kind in kinds.items() if not kind.adapter]
    if len(bases) != 1:
        what = f"{len(bases)} of the .gguf files are models, and exactly one can be served"
        raise InputError(what, where="MODEL", todo="give one model and its adapters")
    adapters = {name: file for name, file in files.items() if kinds[name].adapter}
    models, server = llama.start(bases[0], files[bases[0]], adapters, settings.batch, settings.context)
    served.kept.append(server)
    run.say(f"{', '.join(model.name for model in models)}: served by llama.cpp")
    return models


def _by_sampler(
    models: Sequence[RequestedModel], settings: Settings, registry: Registry, served: Served, run: Run
) -> None:
    """Models with the same base share it in memory."""
    opened = [(one, open_model(one.place, registry, settings.base, settings.trust)) for one in models]
    groups: list[list[tuple[RequestedModel, ModelReference]]] = []
    for one, reference in opened:
        mine = next((group for group in groups if _same_base(group[0][1], reference)), None)
        groups.append([(one, reference)]) if mine is None else mine.append((one, reference))
    for group in groups:
        group.sort(key=lambda pair: pair[1].adapter is None)  # an adapter first: it makes a model of peft
        _load_group(group, settings, served, run)


def _same_base(one: ModelReference, other: ModelReference) -> bool:
    return one.loader == other.loader and one.quantizer == other.quantizer


def _load_group(
    group: Sequence[tuple[RequestedModel, ModelReference]], settings: Settings, served: Served, run: Run
) -> None:
    (first, reference), *others = group
    model, tokenizer = reference.load(run, first.place)
    detach(model)
    lanes: dict[str, Running] = {}
    worker = Worker(lanes, settings.batch, settings.queue)
    adapters = sum(one.adapter is not None for _, one in group)
    prefixes = max(1 << 26, (1 << 29) // len(group))

    def add(
        one: RequestedModel, of: ModelReference, tokenizer: Any, context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        prompter = Prompter.of(tokenizer, one.place) if tokenizer.chat_template else None
        stops = prompter.stops(model.generation_config) if prompter else _ends(tokenizer, model.generation_config)
        lanes[one.name] = Running(model, stops, context, prefixes=Prefixes(prefixes))

        def encode(messages: Sequence[Mapping[str, Any]], tools: Any) -> list[int]:
            return of.encode_prompt(messages, tokenizer, run, tools)

        _add(served, [Sampled(one.name, worker, one.name, model, tokenizer, prompter, encode)])

    add(first, reference, tokenizer, _on(model, "default") if adapters > 1 else nullcontext)
    for number, (one, other) in enumerate(others):
        if other.adapter is None:
            add(one, other, other.load_tokenizer(run), model.disable_adapter if adapters else nullcontext)
            continue
        other.load_beside(model, f"adapter_{number}")
        add(one, other, other.load_tokenizer(run), _on(model, f"adapter_{number}"))
    served.workers.append(worker)
    run.say(f"{', '.join(one.name for one, _ in group)}: served by loraplug's sampler")


def detach(model: Any) -> None:
    """Take a model's weights into memory of their own, one by one, so that files which change later are not read."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _on(model: Any, name: str) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def on() -> Iterator[None]:
        if model.active_adapter != name:
            model.set_adapter(name)
        yield

    return on


def _ends(tokenizer: Any, config: Any) -> frozenset[int]:
    named = config.eos_token_id
    return frozenset({tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])} - {None})
