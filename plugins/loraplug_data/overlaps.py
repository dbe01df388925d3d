"""`decontaminate`: removes rows that share text, or a task, with evaluation data."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run, Transform, iter_rows, row_id
from loraplug_data.caching import Fallen, texts, without_fallen
from loraplug_data.columns import check_columns, content

if TYPE_CHECKING:
    from datasets import Dataset

_ID_COLUMNS = ("instance_id", "swe_instance_id", "task_id", "id")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def _repositories(_: Any, __: Any, value: tuple[str, ...]) -> None:
    for name in value:
        if not _REPOSITORY.fullmatch(name):
            raise ValueError(f"expected owner/name, got {name!r}")


@frozen
class Decontaminate(Transform):
    """Removes rows that overlap with a benchmark or validation data: by n-grams of words, task ids, repositories."""

    name = "decontaminate"
    for_validation: ClassVar[bool] = False
    against: Annotated[
        tuple[DatasetSource, ...],
        Doc("the data to exclude: sources as in [dataset], such as a benchmark, or tasks for evaluation"),
    ] = ()
    columns: Annotated[tuple[str, ...], Doc("columns of `against` to compare; default: all but ids")] = ()
    ngram: Annotated[int, Doc("number of consecutive words that count as one match")] = field(
        default=13, validator=validators.ge(4)
    )
    overlap: Annotated[
        float, Doc("a row is removed if it contains this share of the n-grams of one text of `against`")
    ] = field(default=0.5, validator=[validators.gt(0), validators.le(1)])
    instance_ids: Annotated[tuple[str, ...], Doc("remove rows of these tasks, by instance_id, task_id or id")] = ()
    ids_file: Annotated[Path | None, Doc("a file with more of them, one per line")] = None
    repositories: Annotated[
        tuple[str, ...], Doc("remove rows about these repositories (owner/name), by repo, group or instance_id")
    ] = field(default=(), validator=_repositories)
    report: Annotated[Path | None, Doc("a .jsonl file that lists every removed row, with what it overlaps")] = None

    def __attrs_post_init__(self) -> None:
        if not (self.against or self.instance_ids or self.ids_file or self.repositories):
            raise InputError("needs at least one of: against, instance_ids, ids_file, repositories")

    def preflight(self, run: Run, recipe: Any) -> Iterator[Any]:  # noqa: ARG002
        """Whether the file of ids can be read."""
        self._ids()
        yield from ()

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows that overlap with none of it, in their order.

        Raises:
            InputError: what to hold them against cannot be read, or has no text of `ngram` words.
        """
        known = _Known(self.ngram, self.overlap)
        ids = {name: name for name in self._ids()}
        for source in self.against:
            kept_out = source.load(run=run)
            check_columns(self.columns, kept_out.column_names, "dataset.transform decontaminate: columns")
            for index, row in enumerate(iter_rows(kept_out)):
                ids |= {name: name for name in _names(row)[:1]}  # its own id, not that of a file it is numbered in
                known.add(row_id(row, index), texts(content(row, self.columns)))
        if self.against and not known.sizes and len(ids) == len(self._ids()):
            where = "dataset.transform decontaminate: against"
            raise InputError(f"has no text of {self.ngram} words", where=where, todo="set a smaller ngram")
        if known.short:
            run.say(f"decontaminate: {known.short} texts of less than {self.ngram} words are not compared")
        beside = hashlib.sha256(json.dumps([known.digest.hexdigest(), sorted(ids)]).encode()).hexdigest()

        def find() -> Iterator[Fallen]:
            with run.progress("decontaminate", len(rows)) as bar:
                for index, row in enumerate(iter_rows(rows)):
                    if (fallen := self._judged(index, row, ids, known)) is not None:
                        yield fallen
                    bar.advance()

        return without_fallen(rows, self, run, find, self.report, beside)

    def _ids(self) -> list[str]:
        if self.ids_file is None:
            return list(self.instance_ids)
        try:
            lines = self.ids_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            where = f"dataset.transform decontaminate: {self.ids_file}"
            why = getattr(error, "strerror", None) or error
            todo = "give a text file with one id per line"
            raise InputError(f"cannot be read ({why})", where=where, todo=todo) from None
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise InputError("has no ids", where=f"dataset.transform decontaminate: {self.ids_file}")
        return [*self.instance_ids, *found]

    def _judged(self, index: int, row: Mapping[str, Any], ids: Mapping[str, str], known: _Known) -> Fallen | None:
        for name in _names(row):
            if name in ids:
                return Fallen(index, "of an excluded task", name)
        if self.repositories and (repository := _repository(row, self.repositories)):
            return Fallen(index, "about an excluded repository", repository)
        if known.sizes and (like := known.like(texts(content(row)))) is not None:
            return Fallen(index, f"shares {self.ngram}-grams with excluded data", like)
        return None


def _names(row: Mapping[str, Any]) -> list[str]:
    found = [row.get(name) for name in _ID_COLUMNS]
    return [str(value) for value in found if isinstance(value, str | int) and value != ""]


def _repository(row: Mapping[str, Any], wanted: Iterable[str]) -> str | None:
    """Which of these repositories a row is about: `repo`, the first of `group`, or `owner__name-123` as its id."""
    group = row.get("group")
    said = [row.get("repo"), group[0] if isinstance(group, list) and group else group]
    about = {value.lower() for value in said if isinstance(value, str)}
    ids = [name.lower() for name in _names(row)]
    for name in wanted:
        low = name.lower()
        stem = low.replace("/", "__")
        if low in about or any(re.fullmatch(rf"{re.escape(stem)}-\d+", one) for one in ids):
            return name
    return None


class _Known:
    """The n-grams of texts, by 64-bit hash. Its size follows from what is kept out, not from the rows."""

    def __init__(self, ngram: int, overlap: float) -> None:
        self.ngram, self.overlap, self.short = ngram, overlap, 0
        self.sizes: list[int] = []
        self.names: list[str] = []
        self.index: dict[int, int | list[int]] = {}
        self.digest = hashlib.sha256()

    def add(self, name: str, parts: Iterable[str]) -> None:
        """Keep a row's texts out."""
        for part in parts:
            grams = set(self._grams(part))
            if not grams:
                self.short += 1
                continue
            number = len(self.sizes)
            self.sizes.append(len(grams))
            self.names.append(name)
            self.digest.update(json.dumps([name, sorted(grams)]).encode())
            for gram in grams:
                there = self.index.setdefault(gram, number)
                if isinstance(there, list):
                    there.append(number)
                elif there != number:
                    self.index[gram] = [there, number]

    def like(self, parts: Iterable[str]) -> str | None:
        """The name of the first row that is kept out and overlaps with these texts."""
        met: Counter[int] = Counter()
        for gram in {gram for part in parts for gram in self._grams(part)}:
            there = self.index.get(gram)
            if there is not None:
                met.update([there] if isinstance(there, int) else there)
        found = [number for number, count in met.items() if count >= self.overlap * self.sizes[number]]
        return self.names[min(found)] if found else None

    def _grams(self, text: str) -> Iterator[int]:
        from xxhash import xxh3_64_intdigest

        words = re.findall(r"\w+", text.lower())
        for at in range(len(words) - self.ngram + 1):
            yield xxh3_64_intdigest(" ".join(words[at : at + self.ngram]).encode("utf-8", "surrogatepass"))
