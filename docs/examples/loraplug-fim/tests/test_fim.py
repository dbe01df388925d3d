"""What fim and source-files promise."""

from pathlib import Path

import loraplug_fim
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from loraplug_fim.files import SourceFiles
from loraplug_fim.formatter import Fim, split
from loraplug_fim.markers import FAMILIES, markers_of

from loraplug import InputError
from loraplug.testing import make_registry, tiny_run, tiny_tokenizer
from loraplug_tools.plugins.conformance import assert_conforms

CODE = "def add(a, b):\n    '''The sum.'''\n    return a + b\n\n\ndef twice(a):\n    return add(a, a)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files to take, and four that are not."""
    place = tmp_path / "src"
    (place / "inner").mkdir(parents=True)
    (place / ".hidden").mkdir()
    (place / "a.py").write_text(CODE)
    (place / "inner" / "b.py").write_bytes(b"x = 1\r\n")
    (place / "notes.txt").write_text("no code")
    (place / ".hidden" / "c.py").write_text("no = 1")
    (place / "latin.py").write_bytes(b"# \xe9\n")
    (place / "empty.py").touch()
    return place


def test_they_are_found_by_name() -> None:
    """A recipe can say `use = "fim"` and `use = "source-files"`."""
    registry = make_registry(loraplug_fim)
    assert registry.find("formatter", "fim") is Fim
    assert registry.find("dataset", "source-files") is SourceFiles


def test_they_conform(folder: Path, tmp_path: Path) -> None:
    """Everything loraplug asks of a formatter and of a source."""
    assert_conforms(Fim(samples=2), tmp_path / "one")
    assert_conforms(SourceFiles(path=folder), tmp_path / "two")


def test_files_become_rows_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    """Line ends included; what is left out is counted."""
    run = tiny_run(tmp_path)
    rows = SourceFiles(path=folder).load(run)
    assert rows.to_list() == [
        {"instance_id": "a.py", "group": ["a.py"], "text": CODE},
        {"instance_id": "inner/b.py", "group": ["inner"], "text": "x = 1\r\n"},
    ]
    assert run.reporter.lines == ["source-files: 2 files left out: empty, not UTF-8 or too large"]


@given(st.text(min_size=1).filter(str.strip), st.integers(1, 5), st.text(max_size=5))
def test_the_parts_are_the_text(text: str, longest: int, seed: str) -> None:
    """Whatever the text: nothing lost, nothing twice, a hole with something in it, the same for the same seed."""
    parts = split(text, longest, seed)
    assert "".join(parts) == text
    assert parts[1].strip()
    assert len(parts[1].splitlines()) <= longest
    assert parts == split(text, longest, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_is_marked_its_way(family: str, tmp_path: Path) -> None:
    """The model's own control tokens, once each, in its order; the hole and the end are trained, nothing else."""
    tokenizer = tiny_tokenizer()
    words = FAMILIES[family]
    controls = [word for word in words if word not in ("BEFORE", "AFTER")]
    tokenizer.add_special_tokens({"additional_special_tokens": controls})
    run = tiny_run(tmp_path)
    (row,) = Fim().encode(Dataset.from_list([{"text": CODE}]), tokenizer, run).dataset
    before, middle, after = split(CODE, 10, f"{run.seed} 0 {CODE}")
    sides = {"BEFORE": before, "AFTER": after}
    assert (
        tokenizer.decode(row["input_ids"]) == "".join(sides.get(word, word) for word in words) + middle + "<|im_end|>"
    )
    assert tokenizer.decode([label for label in row["labels"] if label != -100]) == middle + "<|im_end|>"
    assert [row["input_ids"].count(tokenizer.convert_tokens_to_ids(word)) for word in controls] == [1] * len(controls)
    assert not run.reporter.warnings


def test_control_tokens_in_a_file_stay_text(tmp_path: Path) -> None:
    """A source file about models cannot open a hole of its own."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]})
    rows = Dataset.from_list([{"text": "A = '<fim_middle>'\nB = '<|im_end|>'\n" * 3}])
    (row,) = Fim().encode(rows, tokenizer, tiny_run(tmp_path)).dataset
    assert row["input_ids"].count(tokenizer.convert_tokens_to_ids("<fim_middle>")) == 1
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1


def test_a_model_without_such_tokens_is_told_in_plain_text_or_refused(tmp_path: Path) -> None:
    """With a warning that says how to ask it."""
    run, rows = tiny_run(tmp_path), Dataset.from_list([{"text": CODE}])
    assert markers_of(tiny_tokenizer()) is None
    (row,) = Fim().encode(rows, tiny_tokenizer(), run).dataset
    assert tiny_tokenizer().decode(row["input_ids"]).startswith("[before]\n")
    assert "ask it so: [before]\\nBEFORE\\n[after]\\nAFTER\\n[middle]\\n" in run.reporter.warnings[0]
    with pytest.raises(InputError, match="no fill-in-the-middle tokens"):
        Fim(fallback="error").encode(rows, tiny_tokenizer(), run)


def test_a_long_file_is_cut_far_from_the_hole(tmp_path: Path) -> None:
    """What is next to the hole on either side stays; the row keeps to its length, and is counted."""
    run = tiny_run(tmp_path)
    text = "".join(f"line_{number} = {number}\n" for number in range(400))
    (row,) = Fim(max_length=200, longest=2).encode(Dataset.from_list([{"text": text}]), tiny_tokenizer(), run).dataset
    assert len(row["input_ids"]) == 200
    shown = tiny_tokenizer().decode(row["input_ids"])
    before, rest = shown.removeprefix("[before]\n").split("\n[after]\n")
    after, middle = rest.split("\n[middle]\n")
    assert before + middle.removesuffix("<|im_end|>") + after in text
    assert "1 of 1 rows were cut" in run.reporter.lines[0]


def test_a_hole_that_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    """One line of thousands of characters cannot be shown with anything around it."""
    run = tiny_run(tmp_path)
    rows = Dataset.from_list([{"text": "x = 1\n" + "y" * 5000 + "\n"}])
    encoded = Fim(max_length=64, samples=20).encode(rows, tiny_tokenizer(), run).dataset
    assert 0 < len(encoded) < 20
    left_out = 20 - len(encoded)
    assert run.reporter.warnings[1] == f"fim: {left_out} rows left out: the hole alone is over half of 64 tokens"


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    """The error says which source suits."""
    with pytest.raises(InputError, match="takes rows of text; columns seen: prompt"):
        Fim().encode(Dataset.from_list([{"prompt": "hm"}]), tiny_tokenizer(), tiny_run(tmp_path))
