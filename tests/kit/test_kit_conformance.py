"""The conformance checks find what they are there to find, and pass what is sound."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import pytest
from attrs import field, frozen

from loraplug import (
    DatasetSource,
    Doc,
    Encoded,
    ExportContext,
    Exporter,
    Formatter,
    InputError,
    LoraplugError,
    Quantizer,
    Run,
    options,
)
from loraplug_tools.plugins.conformance import Finding, assert_conforms, check_class, conformance

COUNTER = itertools.count()


@frozen
class Sound(DatasetSource):
    """Rows of numbers from a file of one number."""

    name = "sound"
    path: Annotated[Path, Doc("the file")]

    def load(self, run: Run) -> Any:
        """Rows."""
        from datasets import Dataset

        try:
            count = int(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({error})", where=self.path) from None
        return Dataset.from_dict({"text": [str(n) for n in range(count)]})


@frozen
class Bare(Sound):  # noqa: D101 - what is to be found
    name = "bare"

    def load(self, run: Run) -> Any:
        """Fails with whatever reading a file raises."""
        from datasets import Dataset

        return Dataset.from_dict({"text": [self.path.read_text(encoding="utf-8")]})


@frozen
class Fickle(Sound):
    """Never twice the same."""

    name = "fickle"
    hidden: int = 1

    def load(self, run: Run) -> Any:
        """Rows that nobody knows the shape of when they are of the other kind."""
        from datasets import Dataset

        return Dataset.from_dict({"number": [next(COUNTER)]})


def _explode(instance: object, attribute: object, value: int) -> None:
    if value < 0:
        raise RuntimeError("boom")


@frozen
class Touchy(Sound):
    """Its validator raises what no user can read."""

    name = "touchy"
    count: Annotated[int, Doc("how many")] = field(default=1, validator=_explode)


@frozen
class Sloppy(Formatter):
    """Labels that are not the tokens, and a word about nothing."""

    name = "sloppy"

    def encode(self, rows: Any, tokenizer: Any, run: Run, schema: str = "tokens") -> Any:
        """Trains on the token before."""
        from datasets import Dataset

        ids = [tokenizer(str(row.get("text") or "?"))["input_ids"] for row in rows]
        labels = [[0, *one[:-1]] for one in ids]
        return Encoded(Dataset.from_dict({"input_ids": ids, "labels": labels, "row": [["x"]] * len(ids)}), schema)


@frozen
class Clock(Exporter):
    """Writes what changes from one call to the next, whatever it is given."""

    name = "clock"

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the count."""
        out.write_text(str(next(COUNTER)))
        return out


@frozen
class Lazy(Quantizer):
    """Quantises nothing."""

    name = "lazy"

    def config(self, dtype: Any) -> Any:
        """No config at all."""
        return {"bits": 4}


def failed(findings: list[Finding]) -> dict[str, str]:
    return {item.check: item.detail for item in findings if item.status == "failed"}


@pytest.fixture
def number(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("3")
    return path


def test_a_sound_source_passes_and_its_paths_were_tried(number: Path, tmp_path: Path) -> None:
    """All seven checks of a source are run."""
    found = conformance(Sound(number), tmp_path)
    assert [item.status for item in found] == ["ok"] * 7
    assert_conforms(Sound(number), tmp_path / "again")


def test_a_source_that_raises_what_it_pleases_is_found(number: Path, tmp_path: Path) -> None:
    """Missing docstring, and a FileNotFoundError where an InputError belongs."""
    found = failed(conformance(Bare(number), tmp_path))
    assert found["has a docstring"] == "has no docstring of its own"
    assert "raises FileNotFoundError" in found["paths that cannot be read are refused"]
    assert len(found) == 2


def test_a_fickle_source_is_found(number: Path, tmp_path: Path) -> None:
    """Rows that differ, a shape nobody knows, an option without a word, a missing file that goes unnoticed."""
    found = failed(conformance(Fickle(number), tmp_path))
    assert found["every option is documented"].startswith("no Doc on hidden")
    assert "rows of unknown shape" in found["rows have a known shape"]
    assert found["loaded twice, the same rows"] == "row 0 differs from one load to the next"
    assert "accepted without an error" in found["paths that cannot be read are refused"]
    with pytest.raises(AssertionError, match="dataset fickle: every option is documented: no Doc on hidden"):
        assert_conforms(Fickle(number), tmp_path / "again")


def test_a_validator_that_breaks_is_found(number: Path, tmp_path: Path) -> None:
    """A RuntimeError from an odd option value would end the command line in a traceback."""
    found = failed(conformance(Touchy(number), tmp_path))
    assert found == {"odd option values get a clear error": found["odd option values get a clear error"]}
    assert "raises RuntimeError (boom)" in found["odd option values get a clear error"]


def test_wrong_labels_are_found(tmp_path: Path) -> None:
    """A label that is neither -100 nor its token trains the model on something else."""
    found = failed(conformance(Sloppy(), tmp_path))
    assert "is neither -100 nor its token" in found["labels are exact"]
    assert "is neither refused nor reported as dropped" in found["bad rows are refused or counted"]


def test_an_exporter_that_is_not_reproducible_is_found(tmp_path: Path) -> None:
    """And one that exports a spoilt adapter as if it were whole."""
    found = failed(conformance(Clock(), tmp_path))
    assert "differ" in found["exported twice, the same bytes"]
    assert found["a damaged adapter is refused"] == "an adapter without a config is accepted without an error"


def test_a_quantizer_without_a_config_is_found(tmp_path: Path) -> None:
    """What transformers cannot take is named by its type."""
    found = failed(conformance(Lazy(), tmp_path))
    assert found["config() returns a transformers config"] == "config() gives dict"
    assert "adapters on it can be trained" in found


def test_every_built_in_option_is_documented() -> None:
    """Every class that a recipe can name has a docstring and what each option is for."""
    from loraplug import load_registry

    for entry in load_registry().entries:
        assert not failed(check_class(entry.cls)), entry.full_name
        assert all(option.doc for option in options(entry.cls))


def test_our_errors_are_what_the_checks_ask_for() -> None:
    """`refuses` takes any of our errors, and nothing else."""
    from loraplug_tools.plugins.conformance import CheckError, refuses

    def raising(error: Exception) -> Any:
        def action() -> None:
            raise error

        return action

    refuses("this", raising(LoraplugError("no")))
    with pytest.raises(CheckError, match="this raises KeyError"):
        refuses("this", raising(KeyError("k")))
