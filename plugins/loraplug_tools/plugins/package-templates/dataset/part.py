"""The dataset source `my-part`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class MyPart(DatasetSource):
    """Paragraphs of a text file, each a training example."""

    name = "my-part"
    path: Annotated[Path, Doc("the text file, UTF-8; blank lines separate paragraphs")]
    min_length: Annotated[int, Doc("shorter paragraphs, in characters, are left out")] = field(
        default=1, validator=validators.ge(1)
    )

    def load(self, run: Run) -> Dataset:
        """Rows of the shape `text`."""
        from datasets import Dataset

        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            todo = "give the path of a UTF-8 text file"
            raise InputError(f"cannot be read ({error})", where=f"dataset.path {self.path}", todo=todo) from None
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        kept = [part for part in paragraphs if len(part) >= self.min_length]
        if len(kept) < len(paragraphs):
            run.say(f"my-part: {len(paragraphs) - len(kept)} paragraphs are under {self.min_length} characters")
        return Dataset.from_dict({"text": kept})
