"""Files at addresses (`https://`, `s3://`, `gs://`): asked for by their version, and kept in the cache as local files.

A copy lies in a folder named by the address without what is secret in it, and by the version that the server tells
(ETag, version or date, and size), so a file that changed is fetched anew and one that did not is not. What has come
when a download breaks off is kept, and the next try goes on behind it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from attrs import frozen

from loraplug import InputError, LoraplugError, Run, atomic_output, redact, wrap_os_errors

TRIES, ASKS, WAIT = 5, 3, 0.5
"""Attempts at one file, at asking for it, and seconds before the second; doubled for each further one."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters and more: c:// is a drive
_HTTP, _STORES = ("http", "https"), {"s3": "s3", "gs": "gs", "gcs": "gs"}
_PASSING = re.compile(
    r"(x-amz-|x-goog-|(awsaccesskeyid|googleaccessid|expires|signature|sig|token|key-pair-id)$)", re.I
)
_PAGES = re.compile(r"https?://(www\.)?huggingface\.co/(?!.*/(resolve|raw)/)")  # of the hub: they are no files
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_LINES = {"jsonl", "csv"}
_ResultT = TypeVar("_ResultT")


class Broken(Exception):  # noqa: N818 - goes no further than this package
    """A connection was interrupted, or the server asks to retry; `wait`: seconds it asked for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class Changed(Exception):  # noqa: N818 - goes no further than this package
    """The file has changed since the first request."""


class Stream(Protocol):
    """Gives a file's bytes."""

    def __call__(self, start: int) -> Iterator[bytes]:
        """Pieces from the byte `start` on.

        Raises:
            Broken: it may go on later from where it stopped.
            Changed: what the server has now is another file.
        """


@frozen
class Remote:
    """A file at an address, as its server told of it.

    Attributes:
        address: as the recipe writes it; it may hold secrets, and is shown by `shown` alone.
        size: bytes; None where the server does not tell, so that it may have no end.
        version: what changes with the file (ETag, version, date); "" where the server does not tell.
        stream: its bytes.
    """

    address: str
    size: int | None
    version: str
    stream: Stream

    @property
    def shown(self) -> str:
        """The address without what is secret in it."""
        return shown(self.address)

    @property
    def name(self) -> str:
        """What the copy is called: the last part of the address' path."""
        return name_of(self.address)


def is_address(path: object) -> bool:
    """Whether a path of a recipe is an address rather than a place on the disk."""
    return _ADDRESS.match(str(path)) is not None


def is_remote(path: object) -> bool:
    """Whether it is an address of a kind that is read here."""
    match = _ADDRESS.match(str(path))
    return match is not None and match[1].lower() in (*_HTTP, *_STORES) and not _PAGES.match(str(path))


def shown(address: str) -> str:
    """An address as it may be written and shown."""
    return redact(address)


def name_of(address: str) -> str:
    """The plain file name at the end of an address' path."""
    path = urlsplit(address).path if _is_http(address) else address.split("://", 1)[1]
    name = _PLAIN.sub("_", PurePosixPath(unquote(path)).name).lstrip(".")
    return name[-120:] or "data"


def ask(address: str) -> list[Remote]:
    """The files that an address means, by asking its server; several where it is a pattern or folder of a bucket.

    Raises:
        InputError: no such file, no access, a library that is missing, or an address that cannot be read.
        LoraplugError: the server does not answer.
    """
    if _is_http(address):
        from loraplug_data.remote_http import ask_http

        return [_patiently(lambda: ask_http(address), address, ASKS)]
    from loraplug_data.remote_store import ask_store

    scheme = _STORES[address.split("://", 1)[0].lower()]
    return _patiently(lambda: ask_store(scheme, address), address, 1)  # its library asks several times itself


def check_end(one: Remote, source: str, limit: int | None) -> None:
    """InputError where a file may have no end and the recipe sets none."""
    if one.size is not None:
        return
    what = "the server does not report its size, so it may be endless"
    if source not in _LINES:
        raise InputError(what, where=one.shown, todo="download it, and give the path of the file")
    if limit is None:
        raise InputError(what, where=one.shown, todo="set the number of rows: limit = 10000")


def kept(one: Remote, run: Run, limit: int | None = None) -> Path | None:
    """The copy in the cache, if it is there and the server's file is still the same."""
    place = _place(one, run, limit)
    return place if place.is_file() and (one.version or one.size is None) else None


def fetched(one: Remote, run: Run, source: str, limit: int | None) -> Path:
    """The file's copy in the cache, made where it is not there; memory stays flat.

    Raises:
        InputError: it may have no end and there is no limit.
        LoraplugError: it broke off again and again; what came is kept.
    """
    check_end(one, source, limit)
    place = _place(one, run, limit)
    place.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with wrap_os_errors(place), FileLock(place.parent / ".lock"):  # a second run waits for the first, and has its copy
        if (copy := kept(one, run, limit)) is not None:
            if one.size is None:
                run.say(
                    f"dataset: {one.shown}: using the rows of an earlier run; to load new ones delete {copy.parent}"
                )
            return copy
        if one.size is None:
            _take(one, place, source, limit or 0, run)
        else:
            _download(one, place, run)
    return place


def _is_http(address: str) -> bool:
    return address.split("://", 1)[0].lower() in _HTTP


def _place(one: Remote, run: Run, limit: int | None) -> Path:
    """Where the copy lies. Secrets, and what a signature passes away with, are no part of its name."""
    parts = urlsplit(redact(one.address))
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if not _PASSING.match(key)])
    host = parts.netloc.rpartition("@")[2]
    words = [parts.scheme, host, parts.path, query, one.version, str(one.size if one.size is not None else limit)]
    return run.cache / "remote" / sha256(json.dumps(words).encode()).hexdigest()[:24] / one.name


def _download(one: Remote, place: Path, run: Run) -> None:
    size = one.size or 0
    part = place.with_name(f".{place.name}.part")
    if not one.version:  # nothing tells whether what came before is of the same file
        part.unlink(missing_ok=True)
    with run.progress(f"fetching {one.name}", size) as bar:
        have = part.stat().st_size if part.exists() else 0
        if have:
            run.say(f"dataset: {one.shown}: goes on behind the {have:,} of {size:,} bytes that are here")
            bar.advance(have)

        def more() -> None:
            have = part.stat().st_size if part.exists() else 0
            if have > size or (have and not one.version):
                part.unlink()
                have = 0
            why, wait = "", 0.0
            with part.open("ab") as file:
                try:
                    for piece in one.stream(have) if have < size else ():
                        file.write(piece)
                        bar.advance(len(piece))
                except Broken as error:
                    why, wait = f" ({error})", error.wait
            if (got := part.stat().st_size) < size:
                raise Broken(f"the connection was interrupted after {got:,} of {size:,} bytes{why}", wait)

        try:
            _patiently(more, one.address)
        except Changed:
            part.unlink(missing_ok=True)
            todo = "run it again when the file is not being written"
            raise LoraplugError("changed during the download", where=one.shown, todo=todo) from None
    if part.stat().st_size != size:
        part.unlink()
        raise LoraplugError(f"more than the {size:,} bytes that the server announced were received", where=one.shown)
    part.replace(place)
    told = f", version {one.version}" if one.version else ""
    run.say(f"dataset: {one.shown}: {size:,} bytes{told}")


def _take(one: Remote, place: Path, source: str, limit: int, run: Run) -> None:
    """The first rows of a file that may have no end."""
    with atomic_output(place) as fresh, fresh.open("wb") as file, run.progress(f"taking {one.name}", limit) as bar:
        try:
            for line in _rows(_lines(one.stream(0)), source, limit):
                file.write(line)
                bar.advance()
        except (Broken, Changed) as error:
            raise LoraplugError(f"was interrupted: {error}", where=one.shown, todo="run it again") from None
    run.say(f"dataset: {one.shown}: the first {limit:,} rows; they are cached for later runs")


def _rows(lines: Iterable[bytes], source: str, limit: int) -> Iterator[bytes]:
    """The lines of the first rows: of CSV with the line that names the columns, and rows of several lines whole."""
    if source == "jsonl":
        yield from islice((line for line in lines if line.strip()), limit)
        return
    quotes, rows = 0, -1
    for line in lines:
        yield line
        quotes += line.count(b'"')
        rows += quotes % 2 == 0 and bool(line.strip())
        if rows == limit:
            return


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _patiently(work: Callable[[], _ResultT], address: str, tries: int = TRIES) -> _ResultT:
    """What the work gives, tried again where a connection broke."""
    for attempt in range(1, tries + 1):
        try:
            return work()
        except Broken as error:
            if attempt == tries:
                todo = "check the network and run it again: the download continues where it stopped"
                raise LoraplugError(
                    f"cannot be downloaded: {error}{f' ({tries} attempts)' if tries > 1 else ''}",
                    where=shown(address),
                    todo=todo,
                ) from None
            time.sleep(max(error.wait, WAIT * 2 ** (attempt - 1)))
    raise AssertionError
