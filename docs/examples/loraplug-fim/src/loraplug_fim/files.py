"""The dataset source `source-files`: a row of text for each file of a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset


@frozen
class SourceFiles(DatasetSource):
    """The files of a folder and all below it, one row of text a file; hidden files and folders are passed over."""

    name = "source-files"
    path: Annotated[Path, Doc("the folder")]
    suffixes: Annotated[tuple[str, ...], Doc("take files that end so")] = (".py",)
    largest: Annotated[int, Doc("leave out files of more bytes")] = field(default=200_000, validator=validators.ge(1))

    def load(self, run: Run) -> Dataset:
        """Rows of the shape `text`, by path; `instance_id` is the path below the folder, `group` its top folder."""
        from datasets import Dataset

        if not self.path.is_dir():
            raise InputError("is no folder", where=f"dataset.path {self.path}", todo="name the folder of your sources")
        rows, left_out = [], Counter[str]()
        for path in sorted(self.path.rglob("*")):
            inside = path.relative_to(self.path)
            if path.suffix not in self.suffixes or not path.is_file() or any(p.startswith(".") for p in inside.parts):
                continue
            text = self._text(path)
            if not text.strip():
                left_out["empty, not UTF-8 or too large"] += 1
                continue
            rows.append({"instance_id": inside.as_posix(), "group": [inside.parts[0]], "text": text})
        for reason, count in left_out.items():
            run.say(f"source-files: {count} files left out: {reason}")
        if not rows:
            todo = f"name another folder, or other suffixes than {', '.join(self.suffixes)}"
            raise InputError("holds no such file", where=f"dataset.path {self.path}", todo=todo)
        return Dataset.from_list(rows)

    def _text(self, path: Path) -> str:
        """A file's text; empty where it is to be left out."""
        if path.stat().st_size > self.largest:
            return ""
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return ""
