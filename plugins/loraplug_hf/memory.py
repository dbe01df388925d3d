"""Reduces the memory that loading a model takes beyond the model itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from loraplug_hf.compat import weights_opened_with

if TYPE_CHECKING:
    import torch

_NAMES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}  # in safetensors files
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_USERS = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
_LOADING, _AFTER = 1 << 20, 32 << 20  # bytes; 32 MB is what glibc's own threshold grows to as large blocks are freed

_one_at_a_time = RLock()


def stored_as(folder: Path, dtype: torch.dtype) -> bool:
    """Whether a model's weights are stored in `dtype`, judged by the first one; False if unknown."""
    from safetensors import SafetensorError, safe_open

    files = [folder / "model.safetensors", *sorted(folder.glob("model-*.safetensors"))]
    with suppress(SafetensorError, OSError, StopIteration), safe_open(next(filter(Path.is_file, files)), "pt") as file:
        return bool(file.get_slice(next(iter(file.keys()))).get_dtype() == _NAMES.get(str(dtype)))
    return False


@contextmanager
def low_memory_loading(mapped: bool) -> Iterator[None]:
    """Context manager: load weights without leaving holes in the heap, by reading files, or by mapping them.

    Weights used in their stored dtype are best mapped: their pages are shared by all training processes. Others are
    converted, and transformers keeps every file mapped until the last is done, so the process grows to the size of the
    model and its files: too much for a limit on address space (`ulimit -v`) or for batch systems that count resident
    pages. On Windows files are read. transformers' argument `disable_mmap` does not help: it reads whole files into
    memory. Models that other threads load meanwhile are affected too.
    """
    if mapped:
        with _large_blocks_given_back():
            yield
        return
    with _one_at_a_time, weights_opened_with(backend="pread"), _large_blocks_given_back():
        yield


@contextmanager
def _large_blocks_given_back() -> Iterator[None]:
    """Context manager: return buffers between file and weight to the system when freed, with glibc.

    In its heap they would leave holes, of half a gigabyte for a model of a billion parameters quantised to 4 bits.
    Thresholds that the user's environment sets are kept.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    ours = hasattr(libc, "mallopt") and not os.environ.keys() & _USERS
    if libc is None or not ours:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _AFTER)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _AFTER)
        libc.malloc_trim(0)
