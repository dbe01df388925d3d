"""Bugs of more than one statement: what goes, what stays, and that they become rows of every format."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from bugs_helpers import CLAMP_AND_MEAN

from loraplug import InputError, Run
from loraplug_swe.mutation.candidates import chosen_kinds
from loraplug_swe.mutation.large import LARGE_KINDS, large_mutations
from loraplug_swe.mutation.proposals import python_mutations
from loraplug_swe.mutation.python import KINDS, Python
from loraplug_swe.mutation.source import SweBugsSource

SAMPLE = Path(__file__).parents[2] / "data" / "sample_package"
TEXT = '''\
class Box:
    def add(self, item, n=1):
        """Put it in."""
        # first
        a = item + 1
        b = a * n
        for part in (a, b):
            if part:
                self.log(part)
                self.items.append(part)
            elif n > 3:
                self.skip(part)
        return b
'''


def made(kind: str, text: str = TEXT) -> set[str]:
    """What becomes of a text."""
    return {one.apply(text) for one in large_mutations(text, python_mutations(text)) if one.kind == kind}


def test_blocks_and_bodies_go() -> None:
    """The loop, two statements in a row, all in a branch; the docstring and comments before the body stay."""
    blocks = made("removed_block")
    lines = TEXT.splitlines(keepends=True)
    assert "".join(lines[:6] + lines[12:]) in blocks  # the loop
    assert "".join(lines[:4] + lines[6:]) in blocks  # a and b
    assert "".join([*lines[:7], "            pass\n", *lines[12:]]) in blocks  # the whole `if` in the loop
    assert not any("            elif" in text and "            if" not in text for text in blocks)
    assert made("removed_body") == {"".join(lines[:4]) + "        raise NotImplementedError\n"}
    assert made("removed_body", "def f(a):\n    return -a\n") == set()  # one line is a small bug's
    crlf = "def f(a):\r\n    b = -a\r\n    return b\r\n"
    assert made("removed_body", crlf) == {"def f(a):\r\n    raise NotImplementedError\r\n"}


def test_two_bugs_are_in_different_statements() -> None:
    """Both changes are in it, and nothing else is."""
    small = {one.apply(TEXT) for one in python_mutations(TEXT)}
    pairs = made("two_bugs")
    assert pairs and not pairs & small
    for text in pairs:
        changed = [old for old, new in zip(TEXT.split("\n"), text.split("\n"), strict=False) if old != new]
        assert len(changed) >= 2 or len(text.split("\n")) != len(TEXT.split("\n"))


@pytest.mark.parametrize("path", sorted(SAMPLE.glob("tidyshelf/*.py")), ids=lambda path: path.stem)
def test_real_files(path: Path) -> None:
    """In a real file each is valid Python, inside its function, the same again, and none is a small bug."""
    text = path.read_text()
    small = python_mutations(text)
    found = large_mutations(text, small)
    spans = {span.name: span for span in Python().functions(text)}
    assert found == large_mutations(text, small)
    assert not {one.apply(text) for one in found} & {text}
    for one in found:
        ast.parse(one.apply(text))
        span = spans[one.function]
        assert span.start < one.lines[0] <= one.lines[1] <= span.stop and one.kind in LARGE_KINDS


def test_kinds_by_group() -> None:
    """`small`, `large` and names add up; what is none is told with all there are."""
    assert chosen_kinds(Python(), ()) == ()
    assert chosen_kinds(Python(), ("large", "off_by_one")) == (*LARGE_KINDS, "off_by_one")
    assert chosen_kinds(Python(), ("small", "two_bugs")) == (*KINDS, "two_bugs")
    with pytest.raises(InputError, match="no kind of bug 'typo'"):
        chosen_kinds(Python(), ("typo",))


@pytest.mark.parametrize("edit", ["lines", "search-replace", "diff", "function"])
def test_they_become_rows(tmp_path: Path, edit: str) -> None:
    """Tests notice them, and each answer leads back, in every format."""
    (tmp_path / "sums" / "tests").mkdir(parents=True)
    (tmp_path / "sums" / "sums.py").write_text(CLAMP_AND_MEAN)
    (tmp_path / "sums" / "tests" / "test_sums.py").write_text(
        "import sums\n\n\ndef test_clamp():\n    assert sums.clamp(11) == 10\n    assert sums.clamp(-1) == 0\n\n\n"
        "def test_mean():\n    assert sums.mean([1, 2, 3]) == 2\n"
    )
    source = SweBugsSource(path=str(tmp_path / "sums"), count=50, per_function=50, kinds=("large",), edit=edit,  # type: ignore[arg-type]
                           workers=1, timeout=20.0, tasks_out=tmp_path / "tasks")  # fmt: skip
    rows = list(source.rows(Run(name="made", cache=tmp_path / "cache", outputs=tmp_path / "outputs")))
    tasks = [json.loads(path.read_text()) for path in (tmp_path / "tasks").iterdir()]
    kinds = {task["generation"]["kind"] for task in tasks}
    assert {"removed_body", "two_bugs"} <= kinds and len(rows) == len(tasks)
    for row in rows:
        function = str(row["group"][1]).partition("::")[2]  # type: ignore[index]
        [task] = [one for one in tasks if one["source"]["swe_instance_id"].endswith(f"-{row['task_id']}")]
        assert task["generation"]["function"] == function
