"""The way all formatters go: rows in batches to ids, over-long rows, packing, counting, the cache."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import define, field, frozen, validators
from attrs import field as option

from loraplug import Conversation, Doc, Formatter, InputError, Progress, Run, row_id, shape_of
from loraplug_chat.choices import Policy
from loraplug_chat.overlong import shortened
from loraplug_chat.packing import isolates

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat import gate, store
    from loraplug_chat.mask import Encoded

    Read = Callable[[Mapping[str, Any], int], tuple[Conversation | None, Callable[[Any], Encoded]]]

SAMPLES, EXAMPLES = 8, 3


@frozen
class Encoding(Formatter):
    """Options and behaviour that our formatters share. Not to be used directly."""

    max_length: Annotated[int, Doc("the most tokens a row may have")] = option(
        default=8192, validator=validators.ge(8), kw_only=True
    )
    overlong: Annotated[
        Policy,
        Doc("longer rows: take out the oldest turns, cut the end off, leave the row out, or stop"),
    ] = option(default="truncate-left", kw_only=True)
    packing: Annotated[
        bool | Literal["auto"], Doc("put short rows together up to `max_length`; `auto` does so on a GPU")
    ] = option(default="auto", kw_only=True)
    max_lost: Annotated[float, Doc("stop if more than this share of the rows cannot be used")] = option(
        default=0.3, validator=[validators.ge(0), validators.le(1)], kw_only=True
    )

    def recognise(self, columns: Sequence[str]) -> str:
        """The shape of the rows; InputError where it is none of those known."""
        return f"shape {shape_of(columns)}"

    @abstractmethod
    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """What turns a row (with its number) into its conversation, if it is one, and a function that encodes it."""

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run) -> Dataset:
        """See `Formatter.encode`. Over-long, refused and untrained rows are counted and told, with reasons."""
        from loraplug_chat import clock

        with clock.stopped_at(run.date):
            return self._encode(rows, tokenizer, run)

    def _encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run) -> Dataset:
        from loraplug_chat import store

        packing = isolates(self.packing)
        place = run.cache / "encoded" / f"{store.fingerprint(rows, tokenizer, (self.name, self, packing))}.arrow"
        if place.with_suffix(".json").exists() and place.exists():
            encoded, told = store.read(place)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = place.with_name(f".{place.name}.{os.getpid()}")
            lines = fresh.with_name(f"{fresh.name}.lines")
            try:
                report = self._write(rows, tokenizer, run, lines)
                if packing:
                    packs = store.packed(lines, report.lengths, self.max_length, fresh)
                    report.counts["packs"] = len(packs)
                (fresh if packing else lines).replace(place)
            finally:
                fresh.unlink(missing_ok=True)
                lines.unlink(missing_ok=True)
            encoded, told = store.read(place, report.table(packing))
        _tell(told, run)
        return encoded

    def _write(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, path: Path) -> Report:
        import tempfile

        from loraplug_chat import gate, store, workers

        processes = workers.count(len(rows))
        with run.progress("encoding", len(rows)) as bar, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            if processes == 1:
                read = self.reader(shape_of(rows.column_names), tokenizer)
                whole = self.part(rows, read, 0, path, bar)
            else:
                whole = Part(path, Report(0))
                files = []
                for part in workers.parts(self, rows, tokenizer, Path(folder), processes, run.date):
                    whole.take(part)
                    files.append(part.path)
                    bar.advance(part.report.rows)
                store.join(files, path)
        gate.check(tokenizer, whole.samples)
        whole.report.check(self.max_lost)
        return whole.report

    def part(self, rows: Dataset, read: Read, first: int, path: Path, bar: Progress | None = None) -> Part:
        """Encode rows, the first of which has the number `first`, into a file."""
        from loraplug_chat import store

        part, writer = Part(path, Report(len(rows))), store.Writer(path)
        for index, row in enumerate(_each(rows), first):
            if bar is not None:
                bar.advance(1)
            line = self._line(row, index, read, part.report, part.samples)
            if line is not None:
                writer.add(line)
        writer.close()
        part.report.lengths = writer.lengths
        return part

    def _line(
        self, row: Mapping[str, Any], index: int, read: Read, report: Report, samples: list[gate.Sample]
    ) -> store.Line | None:
        from loraplug_chat.store import Line

        name = row_id(row, index)
        try:
            talk, encode = read(row, index)
            encoded: Encoded | None = encode(talk)
        except InputError as error:
            report.lose(name, error.what)
            return None
        assert encoded is not None  # noqa: S101 - for the type checker
        if talk is not None and len(samples) < SAMPLES and len(encoded.ids) <= self.max_length:
            samples.append((talk, encoded))
        if len(encoded.ids) > self.max_length:
            try:
                encoded = shortened(encoded, talk, encode, self.max_length, self.overlong)
            except InputError as error:
                raise InputError(error.what, where=name, todo=error.todo) from None
            if encoded is None:
                report.lose(name, f"more than {self.max_length} tokens")
                return None
            report.counts["truncated"] += 1
        if True not in encoded.trained[1:]:
            report.lose(name, "no trained token is left")
            return None
        report.take(encoded)
        return Line(name, encoded.ids, encoded.trained)


@define
class Report:
    """What became of the rows.

    Attributes:
        rows: how many there were.
        lost: reason to number of rows; `examples` to the first few row names.
        counts: `kept`, `truncated`, `tokens`, `trained`, and of kept rows: `other_prompts` (a trained turn stands
            behind something else than inference would put there), `endless` (a trained turn without a token to stop),
            `lookalikes` (text of control tokens in the row, made plain), `packs`.
    """

    rows: int
    lost: Counter[str] = field(factory=Counter)
    examples: dict[str, list[str]] = field(factory=dict)
    counts: Counter[str] = field(factory=Counter)
    lengths: list[int] = field(factory=list)

    def lose(self, row: str, reason: str) -> None:
        """Count a row that is left out."""
        self.lost[reason] += 1
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            names.append(row)

    def take(self, row: Encoded) -> None:
        """Count a row that is kept."""
        self.counts["kept"] += 1
        self.counts["tokens"] += len(row.ids)
        self.counts["trained"] += row.trained.count(True)
        self.counts["other_prompts"] += not row.same_prompts
        self.counts["endless"] += not row.stops
        self.counts["lookalikes"] += row.hostile

    def check(self, most: float) -> None:
        """Raise InputError if more than this share was lost, or all."""
        lost = sum(self.lost.values())
        if self.rows and (lost > most * self.rows or not self.counts["kept"]):
            worst = self.lost.most_common(5)
            reasons = "; ".join(f"{count} rows: {why} ({', '.join(self.examples[why])} …)" for why, count in worst)
            raise InputError(
                f"{lost} of {self.rows} rows cannot be used: {reasons}",
                where="formatter",
                todo="raise max_length, choose another `overlong`, mend the rows, or allow it with max_lost",
            )

    def table(self, packed: bool) -> dict[str, Any]:
        """For the file beside the rows."""
        return {"rows": self.rows, "lost": self.lost, "examples": self.examples, **self.counts, "packed": packed}


@define
class Part:
    """Some of the rows, encoded: their file, what became of them, and the first few for the gate."""

    path: Path
    report: Report
    samples: list[gate.Sample] = field(factory=list)

    def take(self, part: Part) -> None:
        """Add what another part counted."""
        ours, theirs = self.report, part.report
        ours.rows += theirs.rows
        ours.lost.update(theirs.lost)
        ours.counts.update(theirs.counts)
        ours.lengths += theirs.lengths
        for reason, names in theirs.examples.items():
            ours.examples[reason] = (ours.examples.get(reason, []) + names)[:EXAMPLES]
        self.samples = (self.samples + part.samples)[:SAMPLES]


def _each(rows: Dataset) -> Iterator[dict[str, Any]]:
    from loraplug_chat.store import ROWS_A_BATCH

    for batch in rows.with_format(None).iter(batch_size=ROWS_A_BATCH):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def _tell(report: Mapping[str, Any], run: Run) -> None:
    count = Counter({key: value for key, value in report.items() if isinstance(value, int)})
    share = count["trained"] / max(count["tokens"], 1)
    text = f"{count['kept']} of {report['rows']} rows, {count['tokens']} tokens, {share:.0%} of them trained"
    text += f", {count['truncated']} rows truncated" if count["truncated"] else ""
    run.say(f"encoded {text}" + (f", in {count['packs']} packs" if report["packed"] else ""))
    for reason, number in report["lost"].items():
        run.warn(f"left out {number} rows: {reason} ({', '.join(report['examples'][reason])} …)")
    if count["other_prompts"]:
        run.warn(
            f"in {count['other_prompts']} rows a trained turn stands behind a prompt that inference would write "
            "otherwise: the template rewrites earlier turns, or begins an answer with what it leaves out later"
        )
    if count["endless"]:
        run.warn(
            f"in {count['endless']} rows the template writes no end-of-turn token, so the model cannot learn to stop"
        )
    if count["lookalikes"]:
        run.say(f"{count['lookalikes']} rows hold text that looks like control tokens; it was made plain text")
