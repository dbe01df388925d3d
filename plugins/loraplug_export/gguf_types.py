"""The number formats of GGUF tensors, and who encodes them."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, LoraplugError
from loraplug_export.choices import TypeName

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType

FILE_TYPES: dict[TypeName, str] = {
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_k_m": "MOSTLY_Q4_K_M",
}


def tensor_type(wanted: TypeName, name: str, shape: tuple[int, ...], layers: int, tied: bool) -> GGMLQuantizationType:
    """The format of one tensor, as llama.cpp's own quantizer chooses it.

    Vectors stay fp32. `q4_k_m` gives 6 bits to the output matrix and, in the layers that suffer most from 4, to
    attention values and the feed-forward's way back. A format whose blocks do not divide a row gives way to a finer.

    Args:
        name: GGUF's name of the tensor.
        tied: the embedding is the output matrix too.
    """
    from gguf import GGMLQuantizationType as Type

    if len(shape) < 2:
        return Type.F32
    if wanted in ("f16", "bf16"):
        return Type.F16 if wanted == "f16" else Type.BF16
    if wanted == "q8_0":
        return Type.Q8_0 if shape[-1] % 32 == 0 else Type.F16
    sensitive = name == "output.weight" or (tied and name == "token_embd.weight")
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        sensitive = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    if shape[-1] % 256 == 0:
        return Type.Q6_K if sensitive else Type.Q4_K
    if shape[-1] % 32 == 0:
        return Type.Q8_0 if sensitive else Type.Q5_0
    return Type.F16


def encode(rows: torch.Tensor, kind: GGMLQuantizationType, name: str) -> np.ndarray[Any, Any]:
    """Rows of a tensor as the bytes of a format.

    Raises:
        LoraplugError: a value is too large for fp16.
    """
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType as Type
    from gguf import quants

    if kind == Type.BF16:
        return np.asarray(rows.to(torch.bfloat16).contiguous().view(torch.uint8).numpy())
    values = rows.float().contiguous()
    if kind == Type.F32:
        return np.asarray(values.view(torch.uint8).numpy())
    if kind == Type.F16:
        halves = values.to(torch.float16)
        if not halves.isfinite().all():
            raise LoraplugError(f"{name} has values too large for f16", where="exporter.gguf", todo='use type = "bf16"')
        return np.asarray(halves.view(torch.uint8).numpy())
    if kind == Type.Q8_0:
        return np.asarray(quants.quantize(values.numpy(), kind))
    return _by_llama_cpp(values, kind)


def _by_llama_cpp(values: torch.Tensor, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    import numpy as np
    from gguf import GGML_QUANT_SIZES

    quantize = llama_cpp_quantizer()
    block, size = GGML_QUANT_SIZES[kind]
    count, width = values.shape
    out = np.empty((count, width // block * size), dtype=np.uint8)
    values = values.contiguous()

    def part(first: int, last: int) -> None:
        source, target = values[first:last], out[first:last]
        quantize(int(kind), source.data_ptr(), target.ctypes.data, 0, last - first, width, None)

    step = -(-count // (os.cpu_count() or 1))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda first: part(first, min(first + step, count)), range(0, count, step)))
    return out


@cache
def llama_cpp_quantizer() -> Callable[..., int]:
    """`ggml_quantize_chunk` of the llama.cpp that the package xllamacpp carries.

    Raises:
        InputError: the package is not installed, or does not show the function.
    """
    todo = "pip install xllamacpp; or export f16, and run llama.cpp's llama-quantize on it"
    try:
        module = importlib.import_module("xllamacpp.xllamacpp")
    except ImportError:
        raise InputError(
            "llama.cpp's quantizer is needed for q4_k_m, and xllamacpp is not installed",
            where="exporter.gguf",
            todo=todo,
        ) from None
    try:
        function = ctypes.CDLL(str(Path(str(module.__file__)))).ggml_quantize_chunk
    except (AttributeError, OSError) as error:
        raise InputError(f"this xllamacpp does not show llama.cpp's quantizer ({error})", where="exporter.gguf",
                         todo="export f16, and run llama.cpp's llama-quantize on it") from None  # fmt: skip
    function.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    return function
