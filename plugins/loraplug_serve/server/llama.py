"""llama.cpp's own server in this process, for .gguf files: one base, and adapters that are chosen by request."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from loraplug import InputError
from loraplug_serve.server.served import Forwarded

_CONTEXT = 16384


@frozen
class GgufFacts:
    """What the header of a .gguf file says.

    Attributes:
        adapter: whether it is a LoRA adapter.
        architecture: as llama.cpp calls it.
        context: tokens the model reads at most; 0 where that is not said.
    """

    adapter: bool
    architecture: str
    context: int


def facts(file: Path) -> GgufFacts:
    """Read a file's header.

    Raises:
        InputError: it is no GGUF file, or cut short.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields

        def told(name: str, plain: Any) -> Any:
            return fields[name].contents() if name in fields else plain

        kind = told("general.architecture", "")
        return GgufFacts(told("general.type", "model") == "adapter", kind, int(told(f"{kind}.context_length", 0)))
    except (ValueError, OSError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"is not a complete GGUF file ({error})", where=file, todo="copy it again") from error


def is_there() -> bool:
    """Whether llama.cpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def start(
    name: str, file: Path, adapters: Mapping[str, Path], slots: int, context: int | None
) -> tuple[list[Forwarded], Any]:
    """Load a base and its adapters into llama.cpp's server, which listens on a port of 127.0.0.1 with a key of its own.

    Args:
        name: of the base.
        adapters: files by name.
        slots: answers at once.
        context: tokens of all answers at once; None takes the model's own, up to 16,384.

    Returns:
        The models, and the server, which ends when nobody holds it.

    Raises:
        InputError: an adapter is for another architecture, or llama.cpp cannot load a file.
    """
    import xllamacpp

    base = facts(file)
    for path in adapters.values():
        if (kind := facts(path).architecture) != base.architecture:
            what = f"is an adapter for {kind}, but {name} is {base.architecture}"
            raise InputError(what, where=path, todo="serve it with the base it was trained on")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames, params.port, params.ui = ["127.0.0.1"], 0, False
    key = secrets.token_urlsafe(24)
    params.api_keys = [key]
    params.n_parallel, params.kv_unified = slots, True
    params.n_ctx = context or min(base.context or _CONTEXT, _CONTEXT)
    params.verbosity = -1
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE  # a file that is changed later is not read again
    params.cpuparams.n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    infos = []
    for path in adapters.values():
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(path), 1.0
        infos.append(info)
    params.lora_adapters, params.lora_init_without_apply = infos, True
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        what = f"llama.cpp cannot load it ({' '.join(str(error).split())[:200]})"
        raise InputError(
            what, where=file, todo="check that the adapters were trained on this base, or copy the files again"
        ) from error
    address = server.listening_address

    def model(called: str, on: int | None) -> Forwarded:
        lora = [{"id": at, "scale": float(at == on)} for at in range(len(infos))]
        return Forwarded(called, address, called, {"lora": lora} if infos else {}, key, renamed=True)

    return [model(name, None), *(model(called, at) for at, called in enumerate(adapters))], server
