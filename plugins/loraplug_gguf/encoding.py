"""Values to the bytes of a format, by llama.cpp's own quantizer, which the package xllamacpp carries."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType

    Array = np.ndarray[Any, Any]

_TODO = "pip install xllamacpp; or export f16, and run llama.cpp's llama-quantize on it"


def encode(rows: Array, kind: GGMLQuantizationType, importance: Array | None = None) -> Array:
    """Rows of a matrix as the bytes of a format, uint8, (rows, bytes of a row).

    Args:
        rows: fp32, (rows, columns).
        importance: how much each column counts, fp32, (columns,); None where all count alike.

    Raises:
        InputError: there is no quantizer.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES

    library = llama_cpp()
    block, size = GGML_QUANT_SIZES[kind]
    count, width = rows.shape
    values = np.ascontiguousarray(rows, dtype=np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    out = np.empty((count, width // block * size), dtype=np.uint8)

    def part(first: int, last: int) -> None:
        given = None if weights is None else weights.ctypes.data
        source, target = values[first:last].ctypes.data, out[first:last].ctypes.data
        library.ggml_quantize_chunk(int(kind), source, target, 0, last - first, width, given)

    library.ggml_quantize_init(int(kind))  # before the threads, which would all do it
    step = -(-count // (os.cpu_count() or 1))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda first: part(first, min(first + step, count)), range(0, count, step)))
    return out


def needs_importance(kind: GGMLQuantizationType) -> bool:
    """Whether a format is made with an importance matrix alone."""
    return bool(llama_cpp().ggml_quantize_requires_imatrix(int(kind)))


@cache
def llama_cpp() -> Any:
    """The llama.cpp that the package xllamacpp carries, for the functions of its quantizer.

    Raises:
        InputError: the package is not installed, or does not show the functions.
    """
    where = "exporter.gguf"
    try:
        module = importlib.import_module("xllamacpp.xllamacpp")
    except ImportError:
        what = "this type needs llama.cpp's quantizer, and xllamacpp is not installed"
        raise InputError(what, where=where, todo=_TODO) from None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    try:
        library = ctypes.CDLL(str(Path(str(module.__file__))))
        _declare(library.ggml_quantize_chunk, ctypes.c_size_t, number, pointer, pointer, count, count, count, pointer)
        _declare(library.ggml_quantize_init, None, number)
        _declare(library.ggml_quantize_requires_imatrix, ctypes.c_bool, number)
    except (AttributeError, OSError) as error:
        raise InputError(f"this version of xllamacpp does not expose llama.cpp's quantizer ({error})", where=where,
                         todo="export f16, and run llama.cpp's llama-quantize on it") from None  # fmt: skip
    return library


def _declare(function: Any, result: Any, *arguments: Callable[..., Any]) -> None:
    function.restype, function.argtypes = result, arguments
