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
from loraplug_chat.overlong import LONGER, MANY, Fitted, TalkEncoder, account, shortened, too_long
from loraplug_chat.packing import isolates

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat import gate, store
    from loraplug_chat.mask import Encoded
    from loraplug_chat.plain import PlainRow

    Read = Callable[[Mapping[str, Any], int], tuple[Conversation | None, TalkEncoder | PlainRow]]

SAMPLES, EXAMPLES = 8, 3


@frozen
class Encoding(Formatter):
    """Options and behaviour that our formatters share. Not to be used directly."""

    max_length: Annotated[int, Doc("the most tokens a row may have")] = option(
        default=8192, validator=validators.ge(8), kw_only=True
    )
    overlong: Annotated[
        Policy,
        Doc("longer rows: take out middles of tool outputs, then the oldest turns; cut the end off; leave out; stop"),
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
            for line in self._lines(row, index, read, part.report, part.samples):
                writer.add(line)
        writer.close()
        part.report.lengths = writer.lengths
        return part

    def _lines(
        self, row: Mapping[str, Any], index: int, read: Read, report: Report, samples: list[gate.Sample]
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
        if fitted is None:
            raise too_long(encoded, name, self.max_length)
        if not fitted.rows:
            report.lose(name, fitted.reason, LONGER)
            return
        if not all(True in part.trained[1:] for part in fitted.rows):
            report.lose(name, "no trained token is left", LONGER if fitted.counts else None)
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


@define
class Report:
    """What became of the rows.

    Attributes:
        rows: how many there were.
        lost: reason to number of rows; `examples` to the first few row names, `advice` to what to do about it.
        counts: `kept`, `truncated`, `tokens`, `trained`, and of kept rows: `other_prompts` (a trained turn stands
            behind something else than inference would put there), `endless` (a trained turn without a token to stop),
            `lookalikes` (text of control tokens in the row, made plain), `packs`, and those of `overlong.Fitted`.
    """

    rows: int
    lost: Counter[str] = field(factory=Counter)
    examples: dict[str, list[str]] = field(factory=dict)
    advice: dict[str, str] = field(factory=dict)
    counts: Counter[str] = field(factory=Counter)
    lengths: list[int] = field(factory=list)

    def lose(self, row: str, reason: str, todo: str | None = None) -> None:
        """Count a row that is left out."""
        self.lost[reason] += 1
        self._example(reason, row)
        if todo:
            self.advice.setdefault(reason, todo)

    def shorten(self, row: str, counts: Mapping[str, int]) -> None:
        """Count what a row that is kept has lost, or that it was split."""
        self.counts.update(counts)
        for what in ("truncated", "split"):
            if counts.get(what):
                self._example(what, row)

    def _example(self, what: str, row: str) -> None:
        names = self.examples.setdefault(what, [])
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
            todo = "; ".join(dict.fromkeys(self.advice[why] for why, _ in worst if why in self.advice))
            raise InputError(
                f"{lost} of {self.rows} rows cannot be used: {reasons}",
                where="formatter",
                todo=f"{todo or 'mend the rows'}" + "; or allow it with max_lost" * bool(self.counts["kept"]),
            )

    def table(self, packed: bool) -> dict[str, Any]:
        """For the file beside the rows."""
        listed = {name: getattr(self, name) for name in ("lost", "examples", "advice")}
        return {"rows": self.rows, **listed, **self.counts, "packed": packed}


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
        ours.advice = {**theirs.advice, **ours.advice}
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
    if count["truncated"]:
        run.warn(account(count, report["examples"]["truncated"]))
    share = count["trained"] / max(count["tokens"], 1)
    text = f"{count['kept'] - count['pieces'] + count['split']} of {report['rows']} rows, {count['tokens']} tokens, "
    text += f"{share:.0%} of them trained"
    if count["split"]:
        text += f", {count['split']} long texts split into {count['pieces']} rows"
        text += f" ({', '.join(report['examples']['split'])} …)"
    text += f", {count['truncated']} rows truncated" if count["truncated"] else ""
    run.say(f"encoded {text}" + (f", in {count['packs']} packs" if report["packed"] else ""))
    for reason, number in report["lost"].items():
        todo = f"; {report['advice'][reason]}" if reason in report["advice"] else ""
        run.warn(f"left out {number} rows: {reason} ({', '.join(report['examples'][reason])} …){todo}")
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
