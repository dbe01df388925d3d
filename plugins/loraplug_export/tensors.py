"""Reads and writes safetensors files in chunks.

The `safetensors` package maps whole files and saves only complete tensors, so a merge by chunks of rows uses plain
reads and writes. The package still validates every file that is opened. Format: an 8-byte little-endian header length,
a JSON header, then the tensors' bytes, row-major.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from attrs import Factory, frozen

from loraplug import InputError, LoraplugError, weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CHUNK_BYTES = 2 << 20
"""Bytes of a tensor that are processed at once; about the size of a processor's cache."""

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Safetensors' names of the dtypes that can be merged, and torch's."""


@frozen
class Tensor:
    """A stored tensor: `length` bytes at `start` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    def read(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` (all by default) as a tensor of the stored dtype.

        Raises:
            InputError: the stored dtype is not a floating-point one of 16 bits or more.
        """
        import torch

        if self.dtype not in FLOATS:
            raise InputError(
                f"is stored as {self.dtype}, which cannot be merged", where=self.file, todo="use an unquantized base"
            )
        dtype = getattr(torch, FLOATS[self.dtype])
        rows = self.shape[0] if self.shape else 1
        row_bytes = self.length // rows if rows else 0
        last = rows if last is None else last
        rows_read = torch.empty((last - first, *self.shape[1:]) if self.shape else (), dtype=dtype)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start + first * row_bytes)
            view = _bytes(rows_read)
            while view:
                if not (got := file.readinto(view)):
                    raise InputError("is truncated", where=self.file, todo="download the file again")
                view = view[got:]
        return rows_read

    def same_as(self, other: Tensor) -> bool:
        """Whether dtype, shape and bytes are the same."""
        if (self.dtype, self.shape, self.length) != (other.dtype, other.shape, other.length):
            return False
        with self.file.open("rb") as mine, other.file.open("rb") as its:
            mine.seek(self.start)
            its.seek(other.start)
            sizes = (min(CHUNK_BYTES, self.length - at) for at in range(0, self.length, CHUNK_BYTES))
            return all(mine.read(size) == its.read(size) for size in sizes)

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite; integer dtypes are not checked."""
        if self.dtype not in FLOATS:
            return True
        return all(in_range(self.read(first, last)) for first, last in self.pieces())

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Row ranges of about `CHUNK_BYTES` each that cover the tensor."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, CHUNK_BYTES * rows // max(self.length, 1))
        for first in range(0, rows, step):
            yield first, min(first + step, rows)


def in_range(values: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether `values` hold no NaN and fit `dtype` (their own by default) without becoming infinite."""
    import torch

    if not values.numel():
        return True
    low, high = torch.aminmax(values)
    largest = torch.finfo(dtype or values.dtype).max
    return bool(low >= -largest) and bool(high <= largest)


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two stored tensors are equal in float32: peft may save the base's own embedding with an adapter."""
    import torch

    return one.shape == other.shape and all(
        torch.equal(one.read(first, last).float(), other.read(first, last).float()) for first, last in one.pieces()
    )


def _bytes(values: torch.Tensor) -> memoryview:
    import torch

    flat = values.view(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")


@frozen
class Checkpoint:
    """The weights of a model folder.

    Attributes:
        tensors: name to stored tensor, over all files.
        metadata: file name to the file's own metadata.
    """

    folder: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Mapping[str, str]] = Factory(dict)

    def of_file(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file, in file order."""
        inside = [(key, tensor) for key, tensor in self.tensors.items() if tensor.file.name == name]
        return dict(sorted(inside, key=lambda pair: pair[1].start))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find the weights of a model folder: those that transformers loads, `model.safetensors` or the shards of an index.

    Raises:
        InputError: there are none, they are pickles, or a file is missing, truncated or damaged.
    """
    files = weight_files(folder)
    if not files and (pickles := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])):
        raise InputError(
            "is a pickle, which can run code when it is loaded, and there is no safetensors file beside it",
            where=pickles[0],
            todo="use a base that is published as safetensors",
        )
    if not files:
        raise InputError(
            "no model.safetensors and no model.safetensors.index.json", where=folder, todo="check the base model"
        )
    tensors: dict[str, Tensor] = {}
    metadata = {}
    for file in files:
        inside, metadata[file.name] = read_header(file)
        tensors |= inside
    return Checkpoint(folder, tensors, metadata)


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of one safetensors file.

    Raises:
        InputError: the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise InputError("no such file", where=path, todo="download the model again")
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"not a complete safetensors file ({error})", where=path, todo="download or save the file again"
        ) from None
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(begin - 8))
    metadata = header.pop("__metadata__", None) or {}
    return {
        name: Tensor(path, info["dtype"], tuple(info["shape"]), begin + first, last - first)
        for name, info in header.items()
        for first, last in [info["data_offsets"]]
    }, metadata


def type_bytes(dtype: str) -> int:
    """Bytes of one value of a dtype of `FLOATS`."""
    import torch

    return int(getattr(torch, FLOATS[dtype]).itemsize)


class Writer:
    """Writes a safetensors file with a given layout, tensor after tensor, in chunks.

    Args:
        layout: name to (dtype, shape, length in bytes), in the order in which they will be written.
    """

    def __init__(
        self, path: Path, layout: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"} | dict(metadata)}
        offset = 0
        for name, (dtype, shape, length) in layout.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}
            offset += length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._end = 8 + len(text) + offset
        self._path = path
        self._file: IO[bytes] = path.open("xb", buffering=0)
        self._put(len(text).to_bytes(8, "little") + text)

    def write(self, piece: torch.Tensor) -> None:
        """Append rows of the current tensor."""
        self._put(_bytes(piece.contiguous()))

    def copy(self, tensor: Tensor) -> None:
        """Append a stored tensor unchanged."""
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.start)
            left = tensor.length
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise InputError("is truncated", where=tensor.file)
                self._put(piece)
                left -= len(piece)

    def _put(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self._file.write(view) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        written = self._file.tell()
        self._file.close()
        if kind is None and written != self._end:
            raise LoraplugError(f"wrote {written} of {self._end} bytes", where=self._path, todo="report this as a bug")


def stored_name(name: str, model: PreTrainedModel, base: Checkpoint) -> str | None:
    """The stored name of a parameter, with or without the model's prefix; None if it is not stored directly."""
    prefix = f"{model.base_model_prefix}."
    for stored in (name, name.removeprefix(prefix), prefix + name):
        if stored in base.tensors:
            return stored
    return None
