"""Text files as lines of UTF-8, whatever they are packed with; how a file is packed is told by its first bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from loraplug import InputError

PACKED = (".gz", ".bz2", ".xz", ".zst")
_UTF8_MARK = b"\xef\xbb\xbf"
_MARKS = {  # the longer first: UTF-32's begins as UTF-16's does
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_NOT_TEXT = {
    b"PAR1": ("a parquet file", 'write use = "parquet"'),
    b"ARROW1": ("an Arrow file", 'write use = "arrow"'),
    b"PK\x03\x04": ("a zip archive or a workbook", "unpack the archive, or save the sheet as CSV"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
}


def _gzip(file: IO[bytes]) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=file)


def _bz2(file: IO[bytes]) -> Any:
    import bz2

    return bz2.BZ2File(file)


def _xz(file: IO[bytes]) -> Any:
    import lzma

    return lzma.LZMAFile(file)


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")


_UNPACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": _bz2,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
}
_BZ2_BLOCK = b"1AY&SY"


def lines(path: Path, say: Callable[[str], None] | None = None) -> Iterator[bytes]:
    """The lines of a text file with their ends, unpacked, in UTF-8 and without a byte order mark.

    Args:
        path: the file, plain or as gzip, bzip2, xz or Zstandard.
        say: told where the file is in UTF-16 or UTF-32, which are read where a byte order mark says so.

    Raises:
        InputError: it is cut short or damaged, is no text, or is not in the encoding its mark says.
    """
    import zlib
    from lzma import LZMAError

    try:
        yield from _lines(path, say)
    except (EOFError, zlib.error, LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the file system's, not that of what unpacks
            raise
        raise InputError(
            f"is truncated or damaged, and cannot be unpacked ({error})",
            where=path,
            todo="the file may be incomplete: copy or download it again",
        ) from None


def _lines(path: Path, say: Callable[[str], None] | None) -> Iterator[bytes]:
    with path.open("rb") as raw, closing(_unpacked(raw)) as file:
        head = file.peek(8)[:8]
        for mark, (what, todo) in _NOT_TEXT.items():
            if head.startswith(mark):
                raise InputError(f"is {what}, not a text file", where=path, todo=todo)
        encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
        if encoding is None:
            if b"\0" in head[:4]:
                what = "contains zero bytes: it is UTF-16 or UTF-32 without a byte order mark, or not text"
                raise InputError(what, where=path, todo="save it as UTF-8")
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(_UTF8_MARK)
            return
        if say is not None:
            say(f"{path.name} is in {encoding} (what `>` of PowerShell writes), and is read as such")
        number = 0
        try:
            with io.TextIOWrapper(file, encoding, newline="\n") as text:
                for number, decoded in enumerate(text, 1):  # noqa: B007 - told below
                    yield decoded.encode()
        except UnicodeError as error:
            what = f"is not {encoding}, though its byte order mark says so ({getattr(error, 'reason', error)})"
            raise InputError(what, where=f"{path}, after line {number}", todo="save it as UTF-8") from None


def _unpacked(raw: io.BufferedReader) -> io.BufferedReader:
    head = raw.peek(10)[:10]
    for mark, unpack in _UNPACKERS.items():
        if head.startswith(mark) and (mark != b"BZh" or head[4:] == _BZ2_BLOCK):
            return io.BufferedReader(unpack(raw))
    return raw
