"""Answer formats: what is written comes back to the letter, and what models write instead is taken or refused."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path
from typing import get_args

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from loraplug_swe.edits import Applied, Format, Refused, apply, numbered, render, unified_diff
from loraplug_swe.mutation import functions
from loraplug_swe.mutation.functions import dedented, indented, python_functions

FORMATS = get_args(Format)
OLD = textwrap.dedent('''\
    """Pages."""

    class Pager:
        """Cuts."""

        def __init__(self, size):
            self.size = size

        @property
        def last(self):
            """The last page.

    not indented
            """
            return self.count() + 1

        def count(self):
            return len(self.items) // self.size

    def count(items):
        # how many
        return len(items)
    ''')
FIXED = OLD.replace("self.count() + 1", "self.count() - 1")
COUNT = OLD.replace("// self.size", "// max(1, self.size)")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("new", [FIXED, COUNT, OLD.replace("len(items)", "sum(items)")])
def test_round_trip(form: Format, new: str) -> None:
    """An answer rendered is applied to the same text, bare, in a fence and with words around."""
    answer = render("lib/pager.py", OLD, new, form)
    target = next(
        ("lib/pager.py", span.name)
        for span in python_functions(new)
        if new.split("\n")[span.start : span.stop] != OLD.split("\n")[span.start : span.stop]
    )
    for told in (
        answer,
        f"Here is the fix:\n\n```python\n{answer}```\nIt was wrong.",
        f"```\n{answer}",
        answer.rstrip(),
    ):
        assert apply(told, {"lib/pager.py": OLD}, form, target) == Applied({"lib/pager.py": new})
        assert apply(told, {"lib/pager.py": OLD}, None, target) == Applied({"lib/pager.py": new})
        assert apply(told.replace("\n", "\r\n"), {"lib/pager.py": OLD}, form, target) == Applied({"lib/pager.py": new})


@pytest.mark.parametrize("form", FORMATS)
def test_line_ends_of_the_file_are_kept(form: Format) -> None:
    """A file with CRLF stays one."""
    old, new = OLD.replace("\n", "\r\n"), COUNT.replace("\n", "\r\n")
    answer = render("p.py", OLD, COUNT, form)
    assert apply(answer, {"p.py": old}, form, ("p.py", "Pager.count")) == Applied({"p.py": new})


_line = st.sampled_from(["", "a", "b", "    c", "+d", "-e", " f", "-- g", "++ h", "=====", "@@"])
_texts = st.lists(_line, min_size=1, max_size=14).map(lambda lines: "".join(f"{line}\n" for line in lines))


@given(_texts, _texts)
def test_any_texts_round_trip_as_diff_and_blocks(old: str, new: str) -> None:
    """Whatever changes, hunks and blocks lead from one text to the other, unless the text looks like a block's mark."""
    if old == new:
        return
    assert apply(render("a.txt", old, new, "diff"), {"a.txt": old}, "diff") == Applied({"a.txt": new})
    if "=====\n" not in old + new:
        answer = render("a.txt", old, new, "search-replace")
        assert answer.startswith("a.txt\n<<<<<<< SEARCH\n")
        assert apply(answer, {"a.txt": old}, "search-replace") == Applied({"a.txt": new})


_body = st.lists(st.sampled_from(["x", "    y", "", "3|4", "7-", "\t", "''"]), max_size=8)


@given(_body, _body, st.sampled_from(["", "    "]))
def test_any_function_round_trips_as_numbered_lines(old: list[str], new: list[str], indent: str) -> None:
    """Whatever changes below the def line, at any depth; the target may be named or not."""
    old, new = (
        [f"{indent}def f():", *(f"{indent}    {line}" if line else "" for line in body), f"{indent}    return , "]
        for body in (old, new)
    )
    head = ["class C:"] if indent else ["c = 1"]
    texts = ["\n".join([*head, *body, "d = 2", ""]) for body in (old, new)]
    if old == new:
        return
    span = functions.Span("f", 1, 1 + len(old), indent, 1)
    find = {texts[0]: [span], texts[1]: [evolve(span, stop=1 + len(new))]}.__getitem__
    for target in (("p.py", "f"), None):
        answer = render("p.py", texts[0], texts[1], "lines", find, target)
        assert apply(answer, {"p.py": texts[0]}, "lines", ("p.py", "f"), find) == Applied({"p.py": texts[1]})


@given(_texts, _texts)
def test_git_takes_the_diffs(tmp_path_factory: pytest.TempPathFactory, old: str, new: str) -> None:
    """Our diffs are git's: the same change applies with git apply, also without a last line feed."""
    old, new = old.removesuffix("\n"), new + "end"
    folder = tmp_path_factory.mktemp("git")
    (folder / "a.txt").write_text(old)
    done = subprocess.run(
        ["git", "apply", "-"], cwd=folder, input=unified_diff("a.txt", old, new), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "a.txt").read_text() == new


@given(st.lists(st.sampled_from(["    x", "        y", "", "  ", "z", "     "]), min_size=1, max_size=6))
def test_dedent_can_be_taken_back(tail: list[str]) -> None:
    """Lines moved left and back right are the same to the letter, whatever strings are in them."""
    lines = ["    def f():", *tail]
    assert indented(dedented(lines).split("\n")[:-1], "    ") == lines


def test_functions_are_found_with_decorators_and_last_of_a_name() -> None:
    """Qualified names, lines with decorators, and the definition that counts where there are several."""
    spans = {span.name: span for span in python_functions(OLD)}
    assert list(spans) == ["Pager.__init__", "Pager.last", "Pager.count", "count"]
    last = spans["Pager.last"]
    assert (last.start, last.definition, last.indent) == (8, 9, "    ")
    twice = python_functions("def f(): pass\ndef g(): pass\ndef f():\n    def h(): pass\n")
    assert [(span.name, span.start) for span in twice] == [("g", 1), ("f", 2), ("f.h", 3)]


def reason(answer: str, form: Format | None = None, files: dict[str, str] | None = None, **more: object) -> str:
    """The reason for which an answer is refused."""
    done = apply(answer, files or {"p.py": OLD}, form, **more)  # type: ignore[arg-type]
    assert isinstance(done, Refused) and done.detail
    return done.reason


def test_refusals_have_reasons() -> None:
    """Each way in which an answer does not apply has its own reason."""
    two = {"p.py": OLD, "q.py": OLD}
    block = "<<<<<<< SEARCH\n{}\n=======\n{}\n>>>>>>> REPLACE\n"
    assert reason("  \n") == "empty"
    assert reason("I do not know.") == "no-edit"
    assert reason("I do not know.", "diff") == "no-edit"
    assert reason("I do not know.", "search-replace") == "no-edit"
    assert reason(block.format("nowhere", "x")) == "not-found"
    assert reason(block.format("        # how", "x")) == "not-found"  # part of a line is not a line
    assert reason(block.format("        # how many", "x"), files=two) == "unknown-file"
    assert reason("lib/other.py\n" + block.format("    # how many", "x")) == "unknown-file"
    assert reason(block.format("", "x")) == "ambiguous"
    assert reason(block.format("    # how many", "    # how many")) == "no-change"
    assert reason("@@ -1,2 +1,2 @@\n-nowhere\n+x\n") == "not-found"
    assert reason("--- a/z.py\n+++ b/z.py\n@@ -1 +1 @@\n-a\n+b\n") == "unknown-file"
    assert reason("@@ -1,0 +1,1 @@\n+x\n") == "no-edit"
    count = ("p.py", "count")
    assert reason("line 3 is wrong", "lines", target=count) == "no-edit"
    assert reason("3|    return 0", "lines") == "unknown-function"
    assert reason("3|    return 0", "lines", target=("p.py", "total")) == "unknown-function"
    assert reason("9|    return 0", "lines", target=count) == "not-found"
    assert reason("3|    return len(items)", "lines", target=count) == "no-change"
    assert reason("def count(items):\n    return (", "function") == "syntax"
    assert reason("def total(items):\n    return 1", "function") == "unknown-function"
    assert reason("def count(items):\n    return 1", "function") == "ambiguous"
    assert reason("def count(items):\n    return 1", "function", target=("p.py", "Pager.last")) == "unknown-function"
    assert reason("def last(self): pass", "function", files={"p.py": "x = 1\n"}) == "unknown-function"


def test_numbered_lines_say_more_than_one_change() -> None:
    """A number twice makes two lines of one, a number with a dash takes its line away; numbers are those shown."""
    assert numbered("def count(items):\n    # how many\n") == "1|def count(items):\n2|    # how many\n"
    answer = "The fix:\n2-\n3|    items = list(items)\n3|    return sum(items)\nThat is all."
    wanted = OLD.replace("    # how many\n", "").replace(
        "return len(items)", "items = list(items)\n    return sum(items)"
    )
    assert apply(answer, {"p.py": OLD}, None, ("p.py", "count")) == Applied({"p.py": wanted})
    answer = render("p.py", OLD, COUNT, "lines", target=("p.py", "Pager.count"))
    assert answer == "2|    return len(self.items) // max(1, self.size)\n"


def test_the_function_in_question_decides_between_equal_places() -> None:
    """Lines that are there twice are taken where the question was about."""
    text = "def f():\n    return 1\n\n\ndef g():\n    return 1\n"
    block = "<<<<<<< SEARCH\n    return 1\n=======\n    return 2\n>>>>>>> REPLACE\n"
    assert reason(block, files={"p.py": text}) == "ambiguous"
    for name, wanted in (
        ("f", text.replace("1", "2", 1)),
        ("g", "def f():\n    return 1\n\n\ndef g():\n    return 2\n"),
    ):
        assert apply(block, {"p.py": text}, target=("p.py", name)) == Applied({"p.py": wanted})
        hunk = "@@ -99,1 +99,1 @@\n-    return 1\n+    return 2\n"
        assert apply(hunk, {"p.py": text}, target=("p.py", name)) == Applied({"p.py": wanted})
        answer = f"def {name}():\n    return 2"
        assert apply(answer, {"p.py": text}, target=("p.py", name)) == Applied({"p.py": wanted})


def test_leniency_is_told() -> None:
    """White space at line ends and wrong line numbers and counts are forgiven; the first is told."""
    diff = "--- a/p.py\n+++ b/p.py\n@@ -500,9 +400,2 @@\n     # how many  \n"
    diff += "-    return len(items)\n+    return 0\n"
    wanted = OLD.replace("len(items)", "0")
    assert apply(diff, {"p.py": OLD}) == Applied({"p.py": wanted.replace("# how many", "# how many  ")}, exact=False)
    assert apply(diff.replace("  \n", "\n"), {"p.py": OLD}) == Applied({"p.py": wanted})


def test_several_files_in_one_answer() -> None:
    """Hunks and blocks go to the file named before them."""
    files = {"a.py": "x = 1\n", "lib/b.py": "x = 1\n"}
    wanted = Applied({"a.py": "x = 2\n", "lib/b.py": "x = 3\n"})
    diff = unified_diff("a.py", "x = 1\n", "x = 2\n") + unified_diff("lib/b.py", "x = 1\n", "x = 3\n")
    assert apply(diff, files) == wanted
    blocks = render("a.py", "x = 1\n", "x = 2\n", "search-replace") + render(
        "lib/b.py", "x = 1\n", "x = 3\n", "search-replace"
    )
    assert apply(blocks, files) == wanted


def test_a_change_outside_functions_has_no_function_answer() -> None:
    """Such a change cannot be rendered, and neither can none."""
    outside = OLD.replace('"""Pages."""', '"""Page."""')
    for form, target in (("function", None), ("lines", None), ("lines", ("p.py", "count"))):
        with pytest.raises(ValueError, match="not inside"):
            render("p.py", OLD, outside, form, target=target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no function total"):
        render("p.py", OLD, COUNT, "lines", target=("p.py", "total"))
    for form in FORMATS:
        with pytest.raises(ValueError, match="nothing differs"):
            render("p.py", OLD, OLD, form)


def test_diffs_of_real_files_are_git_s(tmp_path: Path) -> None:
    """The diff of a change in a package applies and takes back."""
    package = Path(__file__).parents[2] / "data" / "sample_package" / "tidyshelf" / "paging.py"
    old = package.read_text()
    new = old.replace("return", "return  ", 3)
    (tmp_path / "p.py").write_text(old)
    for patch, flag in ((unified_diff("p.py", old, new), []), (unified_diff("p.py", old, new), ["-R"])):
        subprocess.run(["git", "apply", *flag, "-"], cwd=tmp_path, input=patch, text=True, check=True)
    assert (tmp_path / "p.py").read_text() == old
