"""What all formatters share: encoding in batches, over-long rows, packing, counting, the cache."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field as option
from attrs import frozen, validators

import loraplug
from loraplug import (
    Conversation,
    Doc,
    Formatter,
    InputError,
    Progress,
    Run,
    iter_rows,
    row_id,
    shape_of,
    unread_columns,
)
from loraplug_chat.option_types import Policy
from loraplug_chat.overlong import LONGER, MANY, Fitted, TalkEncoder, shortened, too_long
from loraplug_chat.packing import isolates
from loraplug_chat.report import SAMPLES, Part, Report, tell

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat import parity_check as gate
    from loraplug_chat import store
    from loraplug_chat.mask import Encoded
    from loraplug_chat.plain import PlainRow

    Read = Callable[[Mapping[str, Any], int], tuple[Conversation | None, TalkEncoder | PlainRow]]
    Lines = Callable[[Mapping[str, Any], int, Report, list[gate.Sample]], Iterator[Any]]

_NOTHING = "check that rows have an answer, and that `weight` and `train_on` do not exclude all"


@frozen
class Encoding(Formatter):
    """Options and behaviour that our formatters share. Not to be used directly."""

    max_length: Annotated[int, Doc("maximum number of tokens of a row")] = option(
        default=8192, validator=validators.ge(8), kw_only=True
    )
    overlong: Annotated[
        Policy,
        Doc(
            "longer rows: shorten tool outputs, then remove the oldest turns; cut off the end; drop the row; stop with "
            "an error"
        ),
    ] = option(default="truncate-left", kw_only=True)
    packing: Annotated[bool | Literal["auto"], Doc("pack short rows together up to `max_length`; auto: on a GPU")] = (
        option(default="auto", kw_only=True)
    )
    max_dropped: Annotated[
        float, Doc("stop with an error if more than this share of the rows cannot be used", aka=("max_lost",))
    ] = option(default=0.3, validator=[validators.ge(0), validators.le(1)], kw_only=True)

    def recognise(self, columns: Sequence[str], schema: str = "tokens") -> str:
        """The shape of the rows; InputError where it is none of those that can be encoded so."""
        return f"shape {shape_of(columns, schema)}"

    @abstractmethod
    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """What turns a row (with its number) into its conversation, if it is one, and a function that encodes it."""

    def lines(self, schema: str, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Lines:
        """What turns a row (with its number) into what is written of it, and counts it in a report.

        Raises:
            InputError: this formatter makes no rows of that schema.
        """
        if schema != "tokens":
            todo = "use another formatter, or a trainer for tokens, such as sft"
            raise InputError(f"{self.name} cannot encode rows for a trainer that takes {schema}",
                             where="formatter", todo=todo)  # fmt: skip
        return partial(self._lines, read=self.reader(shape_of(columns, schema), tokenizer))

    def encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens"
    ) -> loraplug.Encoded:
        """See `Formatter.encode`. Over-long, refused and untrained rows are counted and told, with reasons."""
        from loraplug_chat import clock

        with clock.stopped_at(run.date):
            encoded, report = self._encode(rows, tokenizer, run, schema)
        return loraplug.Encoded(encoded, schema, report)

    def _encode(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str
    ) -> tuple[Dataset, dict[str, Any]]:
        from loraplug_chat import store

        packing = schema == "tokens" and isolates(self.packing)
        options = (self.name, self, packing, schema)
        place = run.cache / "encoded" / f"{store.fingerprint(rows, tokenizer, options)}.arrow"
        if place.with_suffix(".json").exists() and place.exists():
            encoded, told = store.read(place)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = place.with_name(f".{place.name}.{os.getpid()}")
            lines = fresh.with_name(f"{fresh.name}.lines")
            try:
                report = self._write(rows, tokenizer, run, lines, schema)
                weighted = bool(report.counts["weighted"])
                if packing:
                    report.counts["packs"] = store.packed(lines, report.lengths, self.max_length, fresh, weighted)
                elif weighted:
                    store.weighted(lines, fresh)
                (fresh if packing or weighted else lines).replace(place)
            finally:
                fresh.unlink(missing_ok=True)
                lines.unlink(missing_ok=True)
            encoded, told = store.read(place, report.table(packing))
        tell(told, run)
        return encoded, told

    def _write(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, path: Path, schema: str) -> Report:
        import tempfile

        from loraplug_chat import parity_check as gate
        from loraplug_chat import store, workers

        processes = workers.count(len(rows), run.workers)
        with run.progress("encoding", len(rows)) as bar, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            if processes == 1:
                lines = self.lines(schema, rows.column_names, tokenizer)
                whole = self.part(rows, lines, 0, path, schema, bar)
            else:
                whole = Part(path, Report(0))
                files = []
                for part in workers.parts(
                    self, rows, tokenizer, Path(folder), run.workers, processes, run.date, schema
                ):
                    whole.take(part)
                    files.append(part.path)
                    bar.advance(part.report.rows)
                store.join(files, path)
        gate.check(tokenizer, whole.samples)
        whole.report.check(self.max_dropped)
        return whole.report

    def part(
        self, rows: Dataset, lines: Lines, first: int, path: Path, schema: str, bar: Progress | None = None
    ) -> Part:
        """Encode rows, the first of which has the number `first`, into a file."""
        from loraplug_chat import store

        part = Part(path, Report(len(rows)))
        writer = store.Writer(path) if schema == "tokens" else store.JudgedWriter(path, schema)
        unread = unread_columns(rows.column_names, shape_of(rows.column_names, schema))
        for index, row in enumerate(iter_rows(rows), first):
            if bar is not None:
                bar.advance(1)
            part.report.columns.update(name for name in unread if row[name] is not None)
            for line in lines(row, index, part.report, part.samples):
                writer.add(line)
        writer.close()
        part.report.lengths = writer.lengths
        return part

    def _lines(
        self, row: Mapping[str, Any], index: int, report: Report, samples: list[gate.Sample], read: Read
    ) -> Iterator[store.Line]:
        """The row as it will be trained: one line, several of a text that is split, or none."""
        from loraplug_chat.store import Line

        name = row_id(row, index)
        try:
            talk, encode = read(row, index)
            encoded = self._encoded(talk, encode)
            fitted = Fitted([encoded], talk=talk) if encoded and len(encoded.ids) <= self.max_length else None
            if fitted is None and self.overlong != "error":
                fitted = shortened(encoded, talk, encode, self.max_length, self.overlong)
        except InputError as error:
            report.lose(name, error.what, error.todo)
            return
        if talk is not None:
            report.note(talk)
        if fitted is None:
            raise too_long(encoded, name, self.max_length)
        if not fitted.rows:
            report.lose(name, fitted.reason, LONGER)
            return
        if not all(any(part.trained[1:]) for part in fitted.rows):
            report.lose(name, "no trained tokens are left", LONGER if fitted.counts else _NOTHING)
            return
        if fitted.talk is not None and len(samples) < SAMPLES:
            samples.append((fitted.talk, fitted.rows[0]))
        if fitted.counts:
            report.shorten(name, fitted.counts)
        for number, part in enumerate(fitted.rows, 1):
            report.take(part)
            label = name if len(fitted.rows) == 1 else f"{name} (part {number} of {len(fitted.rows)})"
            yield Line(label, part.ids, part.trained)

    def _encoded(self, talk: Conversation | None, encode: Callable[[Any], Encoded]) -> Encoded | None:
        """The whole row; None where a measure says that it is too long and a proof would take long."""
        if talk is not None and len(talk.messages) > MANY and not encode.fits(talk, self.max_length):  # type: ignore[attr-defined]
            return None
        return encode(talk)
