"""The encoding report: rows kept, left out and why, and columns and keys that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from attrs import define, field

from loraplug import Conversation, InputError, Reporter, Run
from loraplug_chat.overlong import account
from loraplug_chat.reasoning import KEYS
from loraplug_chat.wording import counted, named

if TYPE_CHECKING:
    from loraplug_chat import parity_check as gate
    from loraplug_chat.mask import Encoded

EXAMPLES, SAMPLES = 3, 8


@define
class Report:
    """The counts of the encoding report.

    Attributes:
        rows: how many there were.
        lost: reason to number of rows; `examples` to the first few row names, `advice` to what to do about it.
        counts: `kept`, `truncated`, `tokens`, `trained`, and of kept rows: `other_prompts` (a trained turn stands
            behind something else than inference would put there), `missing_eos` (a trained turn without a token to
            stop), `escaped_special` (text of control tokens in the row, made plain), `weighted` (a token has a weight
            other than 0 and 1), `empty` (a trained answer says nothing), `dropped_earlier` and `dropped_last` (the
            template leaves out reasoning of earlier answers, or of the last one), `packs`, and those of
            `overlong.Fitted`.
        columns: columns that nothing reads to the number of rows that fill them.
        keys: keys of messages that nothing reads to the number of rows that have them.
        roles: `name as role` for roles that rows call otherwise, to the number of rows.
    """

    rows: int
    lost: Counter[str] = field(factory=Counter)
    examples: dict[str, list[str]] = field(factory=dict)
    advice: dict[str, str] = field(factory=dict)
    counts: Counter[str] = field(factory=Counter)
    columns: Counter[str] = field(factory=Counter)
    keys: Counter[str] = field(factory=Counter)
    roles: Counter[str] = field(factory=Counter)
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

    def note(self, talk: Conversation) -> None:
        """Count what a conversation tells of itself."""
        if talk.unread:
            self.keys.update(talk.unread)
        if talk.roles:
            self.roles.update(f'"{name}" as {role}' for name, role in talk.roles.items())
        self.counts["empty"] += any(map(_says_nothing, talk.messages))

    def take(self, row: Encoded) -> None:
        """Count a row that is kept."""
        self.counts["kept"] += 1
        self.counts["tokens"] += len(row.ids)
        self.counts["trained"] += len(row.ids) - row.trained.count(0)
        self.counts["weighted"] += not {*row.trained} <= {0, 1}
        self.counts["other_prompts"] += not row.same_prompts
        self.counts["missing_eos"] += not row.stops
        self.counts["escaped_special"] += row.has_special_text
        if row.dropped:
            self.counts[f"dropped_{row.dropped}"] += 1

    def add(self, other: Report) -> None:
        """Add what was counted of further rows."""
        self.rows += other.rows
        for name in ("lost", "counts", "columns", "keys", "roles"):
            getattr(self, name).update(getattr(other, name))
        self.lengths += other.lengths
        self.advice = {**other.advice, **self.advice}
        for reason, names in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + names)[:EXAMPLES]

    def check(self, most: float) -> None:
        """Raise InputError if more than this share was lost, or all."""
        lost = sum(self.lost.values())
        if self.rows and (lost > most * self.rows or not self.counts["kept"]):
            worst = self.lost.most_common(5)
            reasons = "; ".join(f"{counted(count)}: {why} {named(self.examples[why], count)}" for why, count in worst)
            todo = "; ".join(dict.fromkeys(self.advice[why] for why, _ in worst if why in self.advice))
            raise InputError(
                f"{lost} of {self.rows} rows cannot be used: {reasons}",
                where="formatter",
                todo=f"{todo or 'correct the rows'}"
                + "; or allow it by raising max_dropped" * bool(self.counts["kept"]),
            )

    def table(self, packed: bool) -> dict[str, Any]:
        """For the file beside the rows."""
        listed = {name: getattr(self, name) for name in ("lost", "examples", "advice", "columns", "keys", "roles")}
        return {"rows": self.rows, **listed, **self.counts, "packed": packed}


@define
class Part:
    """Some of the rows, encoded: their file, what became of them, and the first few for the gate."""

    path: Path
    report: Report
    samples: list[gate.Sample] = field(factory=list)

    def take(self, part: Part) -> None:
        """Add what another part counted."""
        self.report.add(part.report)
        self.samples = (self.samples + part.samples)[:SAMPLES]


_told: WeakKeyDictionary[Reporter, set[str]] = WeakKeyDictionary()


def tell(report: Mapping[str, Any], run: Run) -> None:
    """Say what became of the rows; of names that rows use or nothing reads, each once in a run."""
    told = _told.setdefault(run.reporter, set())
    roles, columns, keys = (
        {name: rows for name, rows in report[what].items() if f"{what} {name}" not in told}
        for what in ("roles", "columns", "keys")
    )
    told |= {f"{what} {name}" for what in ("roles", "columns", "keys") for name in report[what]}
    count = Counter({key: value for key, value in report.items() if isinstance(value, int)})
    if roles:
        run.say(f"roles recognised: {_listed(roles)}")
    if columns:
        run.say(f"columns that are not used: {_listed(columns)}")
    if keys:
        run.warn(f"keys of messages that neither the formatter nor the chat template uses: {_listed(keys)}")
    if count["empty"]:
        run.warn(f"in {counted(count['empty'])} an answer is empty or blank: only its end-of-turn token is trained")
    if count["truncated"]:
        run.warn(account(count, report["examples"]["truncated"]))
    share = count["trained"] / max(count["tokens"], 1)
    text = f"{count['kept'] - count['pieces'] + count['split']} of {report['rows']} rows, {count['tokens']} tokens, "
    text += f"{share:.0%} of them trained"
    if count["split"]:
        text += f", {counted(count['split'], 'long text')} split into {counted(count['pieces'])}"
        text += f" {named(report['examples']['split'], count['split'])}"
    text += f", {counted(count['weighted'])} weighted" if count["weighted"] else ""
    text += f", {counted(count['truncated'])} truncated" if count["truncated"] else ""
    run.say(f"encoded {text}" + (f", in {count['packs']} packs" if report["packed"] else ""))
    for reason, number in report["lost"].items():
        todo = f"; {report['advice'][reason]}" if reason in report["advice"] else ""
        run.warn(f"left out {counted(number)}: {reason} {named(report['examples'][reason], number)}{todo}")
    if count["other_prompts"]:
        run.warn(
            f"in {counted(count['other_prompts'])} a trained turn follows a prompt that is different at inference: the "
            "template rewrites earlier turns, or begins an answer with text that it omits later"
        )
    if count["dropped_earlier"]:
        run.say(f"in {counted(count['dropped_earlier'])} the chat template omits the reasoning of earlier answers")
    if count["dropped_last"]:
        run.warn(
            f"in {counted(count['dropped_last'])} the chat template omits the reasoning of the last answer, so it "
            "cannot be trained"
        )
    if endless := count["missing_eos"]:
        run.warn(f"in {counted(endless)} the template writes no end-of-turn token, so the model cannot learn to stop")
    if count["escaped_special"]:
        run.say(
            f"text that looks like control tokens was encoded as plain text, in {counted(count['escaped_special'])}"
        )


def _listed(names: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({counted(number)})" for name, number in sorted(names.items()))


def _says_nothing(message: Mapping[str, Any]) -> bool:
    """Whether this is a trained answer without a word, a call or a thought."""
    content = message.get("content")
    if message["role"] != "assistant" or (content.strip() if isinstance(content, str) else content):
        return False
    return message.get("weight", 1) != 0 and not any(message.get(key) for key in ("tool_calls", *KEYS))
