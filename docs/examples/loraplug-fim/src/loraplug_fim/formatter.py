"""The formatter `fim`: a file with a hole in it, and what belongs in the hole (Bavarian et al. 2022)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Encoded, Formatter, InputError, Run, row_id
from loraplug_fim.markers import Markers, markers_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@frozen
class Fim(Formatter):
    """Fill in the middle: the model sees what stands before and behind a hole, and is trained on what was in it."""

    name = "fim"
    samples: Annotated[int, Doc("holes cut into each text, each a row of its own")] = field(
        default=1, validator=[validators.ge(1), validators.le(1000)]
    )
    longest: Annotated[int, Doc("lines in a hole, at most")] = field(default=10, validator=validators.ge(1))
    max_length: Annotated[int, Doc("tokens; what is far from the hole is cut off")] = field(
        default=2048, validator=validators.ge(32)
    )
    fallback: Annotated[
        Literal["plain", "error"],
        Doc("for a model without fill-in-the-middle tokens: mark the parts with plain text, or refuse"),
    ] = "plain"

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens") -> Encoded:
        """The tokens of the hole and the end-of-sequence token are trained, nothing else."""
        from datasets import Dataset

        if "text" not in rows.column_names:
            what = f"takes rows of text; columns seen: {', '.join(rows.column_names)}"
            raise InputError(what, where="formatter fim", todo='a source such as use = "source-files" gives them')
        markers = self._markers(tokenizer, run)
        encoded: list[dict[str, Any]] = []
        cut = too_long = 0
        for index, row in enumerate(rows):
            name, text = row_id(row, index), row["text"]
            if not isinstance(text, str) or not text.strip():
                raise InputError("text is missing, empty or not text", where=name, todo="mend the row in the data")
            for sample in range(self.samples):
                parts = split(text, self.longest, f"{run.seed} {sample} {text}")
                made, whole = self._tokens(parts, markers, tokenizer)
                if made is None:
                    too_long += 1
                    continue
                cut += not whole
                encoded.append(made | {"row": [name if self.samples == 1 else f"{name} hole {sample + 1}"]})
        if cut:
            run.say(f"fim: {cut} of {len(encoded)} rows were cut far from the hole, to {self.max_length} tokens")
        if too_long:
            run.warn(f"fim: {too_long} rows left out: the hole alone is over half of {self.max_length} tokens")
        return Encoded(Dataset.from_list(encoded), schema)

    def _markers(self, tokenizer: PreTrainedTokenizerBase, run: Run) -> Markers:
        found = markers_of(tokenizer)
        if found is not None:
            return found
        if self.fallback == "error":
            todo = 'train a model that has them, such as Qwen2.5-Coder, or write fallback = "plain"'
            raise InputError("the model has no fill-in-the-middle tokens", where="formatter fim", todo=todo)
        plain = Markers.plain(tokenizer)
        how = f"plain text marks the parts, ask it so: {plain.shown}"
        run.warn(f"fim: the model has no fill-in-the-middle tokens; {how}")
        return plain

    def _tokens(
        self, parts: tuple[str, str, str], markers: Markers, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[dict[str, Any] | None, bool]:
        """Ids and labels, both of length L; whether nothing was cut off. None where the hole is too long."""
        # encoded apart, so that no token lies on both sides of a border; text never becomes a control token
        before, middle, after = (
            list(tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]) for part in parts
        )
        middle.append(int(tokenizer.eos_token_id))
        room = self.max_length - len(middle) - markers.length
        if len(middle) > self.max_length // 2 or room < 0:
            return None, False
        whole = len(before) + len(after) <= room
        # each side may take what the other leaves of its half
        left = min(len(before), max(room // 2, room - len(after)))
        before, after = before[len(before) - left :], after[: room - left]
        prompt = markers.prompt(before, after)
        return {"input_ids": prompt + middle, "labels": [-100] * len(prompt) + middle}, whole


def split(text: str, longest: int, seed: str) -> tuple[str, str, str]:
    """What stands before a hole, in it, and behind it; together the text. The same hole for the same seed.

    A hole begins anywhere in a line, as where someone is typing, and ends with one of the next `longest` lines.
    """
    draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
    lines = text.splitlines(keepends=True)
    filled = [number for number, line in enumerate(lines) if line.strip()]
    first = draw.choice(filled)
    last = min(len(lines), first + draw.randint(1, longest))
    body = lines[first].rstrip("\r\n")
    begin = sum(map(len, lines[:first])) + draw.randrange(len(body.rstrip()) or 1)
    end = sum(map(len, lines[:last])) - (len(lines[last - 1]) - len(lines[last - 1].rstrip("\r\n")))
    return text[:begin], text[begin:end], text[end:]
