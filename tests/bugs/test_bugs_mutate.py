"""Kinds of bugs: each is found where a person could make it, changes nothing else, and leaves valid Python."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from loraplug_swe.mutation.candidates import Candidate, Found, find
from loraplug_swe.mutation.functions import Span
from loraplug_swe.mutation.language import BaselineRun, Mutation
from loraplug_swe.mutation.proposals import python_mutations
from loraplug_swe.mutation.python import KINDS, Python

SAMPLE = Path(__file__).parents[2] / "data" / "sample_package"

# kind, a function, one thing that must be among what becomes of it
CASES = [
    ("off_by_one", "return items[n + 1]", "return items[n + 2]"),
    ("off_by_one", "return items[n - 1]", "return items[n]"),
    ("off_by_one", "return [i for i in range(n)]", "return [i for i in range(n + 1)]"),
    ("wrong_comparison", "return a <= b  # at most", "return a < b  # at most"),
    ("wrong_comparison", "return a not   in b", "return a in b"),
    ("swapped_arguments", "return pad(a,  n)", "return pad(n,  a)"),
    ("inverted_condition", "return 1 if not a else 2", "return 1 if a else 2"),
    ("inverted_condition", "while a and (b):\n    n += 1", "while not (a and (b)):\n    n += 1"),
    ("dropped_condition", "return (a) and b", "return (a)"),
    ("dropped_condition", "return [x for x in a if x > n]", "return [x for x in a]"),
    ("dropped_condition", "if not a:  # none\n    return 0\nreturn b / a", "return b / a"),
    ("wrong_variable", "size = len(a)\nreturn size - n", "size = len(a)\nreturn a - n"),
    ("missing_return", "return a + b  # sum", "a + b  # sum"),
    ("missing_await", "return await a.get(n)", "return a.get(n)"),
    ("removed_call", "a.sort()  # in place\nreturn a", "return a"),
    ("removed_call", "if n:\n    a.sort()\nreturn a", "if n:\n    pass\nreturn a"),
    ("removed_call", "return a.strip() + b", "return a + b"),
    ("wrong_exception", "raise ValueError(a)", "raise TypeError(a)"),
    ("wrong_exception", "try: n()\nexcept (KeyError, a):\n    n = 1", "try: n()\nexcept (IndexError, a):\n    n = 1"),
    ("slice_boundary", "return a[1:n]", "return a[1:n - 1]"),
    ("slice_boundary", "return a[n:]", "return a[:n]"),
    ("copied_branch", "if a:\n    n = 1\nelse:\n    # other\n    n = 2\nreturn n",
     "if a:\n    n = 1\nelse:\n    # other\n    n = 1\nreturn n"),
    ("copied_branch", "return a if n else b", "return b if n else b"),
    ("wrong_operator", "return a*b", "return a+b"),
    ("wrong_operator", "return a or b", "return a and b"),
    ("missing_update", "n += 1\nreturn n", "return n"),
    ("missing_update", "self.total = n\nreturn n", "return n"),
    ("missing_negation", "return -a", "return a"),
    ("missing_argument", "return pad(a, fill=b)", "return pad(a)"),
    ("similar_name", "return min(a, b)", "return max(a, b)"),
    ("similar_name", "return a.lstrip(b)", "return a.rstrip(b)"),
    ("wrong_constant", "return pad(a, strict=True)", "return pad(a, strict=False)"),
    ("wrong_index", "return a[0]", "return a[-1]"),
    ("wrong_loop_exit", "for x in a:\n    break", "for x in a:\n    continue"),
    ("wrong_order", "x = a  # first\nn = x  # then", "n = x  # first\nx = a  # then"),
    ("removed_yield", "n = 1\nyield a", "n = 1\n"),
    ("wrong_yield", "yield from a", "yield a"),
]  # fmt: skip


def wrapped(body: str, head: str = "def f(self, a, b, n):") -> str:
    """A method with a body."""
    return f"class C:\n    async {head}\n{textwrap.indent(body, ' ' * 8)}\n"


@pytest.mark.parametrize(("kind", "body", "wanted"), CASES)
def test_kinds(kind: str, body: str, wanted: str) -> None:
    """The bug is among those proposed, in the right place, with layout and comments as they were."""
    text = wrapped(body)
    results = {one.apply(text).rstrip("\n ") for one in python_mutations(text) if one.kind == kind}
    assert wrapped(wanted).rstrip("\n ") in results


def test_defaults() -> None:
    """Other defaults, and one that all calls share."""
    text = (
        'def f(a, n=1, *, into=None, sep=", "):\n    # all\n    if into is None:\n        into = []\n    return into\n'
    )
    made = {(one.kind, one.apply(text)) for one in python_mutations(text)}
    assert ("wrong_default", text.replace("n=1", "n=2")) in made
    assert ("wrong_default", text.replace('", "', '""')) in made
    shared = text.replace("into=None", "into=[]").replace("    if into is None:\n        into = []\n", "")
    assert ("mutable_default", shared) in made


def test_every_kind_has_a_case() -> None:
    """All names are listed, and none of them goes untested."""
    assert {case[0] for case in CASES} | {"wrong_default", "mutable_default"} == set(KINDS)
    assert len(KINDS) >= 12


def test_what_is_left_alone() -> None:
    """Module level, decorators, annotations, docstrings and imports get no bugs; nothing is proposed twice."""
    head = 'X = 1 + 2\n\n@cached(1)\ndef f(a: "int | 3" = None) -> Literal[4]:\n    """1 + 2."""\n'
    text = head + "    import b\n    return b\n"
    found = python_mutations(text)
    assert {one.kind for one in found} == {"wrong_default", "missing_return"}
    assert len({(one.start, one.stop, one.replacement) for one in found}) == len(found)


def test_what_cannot_be_read_has_none() -> None:
    """Broken files, and files whose lines are counted differently by everybody, get no bugs."""
    for text in (
        "def f(:\n",
        "\ufeffdef f(a):\n    return a + 1\n",
        "def f(a):\n    return a + 1\r",
        "def f(a):\n\f    return -a\n",
    ):
        assert python_mutations(text) == []
    assert (
        python_mutations("def f(a):\r\n    return a + 1\r\n")[0].apply("def f(a):\r\n    return a + 1\r\n").count("\r")
        == 2
    )


@pytest.mark.parametrize("path", sorted(SAMPLE.glob("tidyshelf/*.py")), ids=lambda path: path.stem)
def test_real_files(path: Path) -> None:
    """In a real file every bug is valid Python, touches only its characters and lies in the statement it names."""
    text = path.read_text()
    lines = text.split("\n")
    names = {span.name: span for span in Python().functions(text)}
    found = python_mutations(text)
    assert found == python_mutations(text)
    for one in found:
        ast.parse(one.apply(text))
        span = names[one.function]
        first = text.count("\n", 0, one.start) + 1
        assert span.start < first <= span.stop
        assert one.lines[0] <= first <= one.lines[1] or one.kind in ("wrong_default", "mutable_default")
        assert one.apply(text)[: one.start] == text[: one.start] and lines


def candidate(function: str, kind: str, at: int) -> Candidate:
    """A candidate."""
    return Candidate(
        "m.py", Mutation(kind, function, at, at, kind + function, (1, 1), ""), (0,), Span(function, 0, 9, "", 0)
    )


def test_order_is_spread_and_seeded() -> None:
    """Each function has its turn before one has its second, kinds too, and the seed decides."""
    functions = {f"m.py::f{n}": [candidate(f"f{n}", kind, at) for kind in "abc" for at in range(4)] for n in range(9)}
    found = Found({}, functions)
    order = list(found.in_order(1))
    assert order == list(found.in_order(1)) and order != list(found.in_order(2))
    assert len(order) == 9 * 12 == len({(one.group, one.key) for one in order})
    assert len({one.group for one in order[:9]}) == 9
    of_one = [one.mutation.kind for one in order if one.group == "m.py::f3"]
    assert sorted(of_one[:3]) == sorted(of_one[3:6]) == ["a", "b", "c"]


def test_only_what_tests_run_is_tried(tmp_path: Path) -> None:
    """Lines no test runs, lines run at import, names that are there twice and files left out are counted or skipped."""
    from loraplug import Run

    code = (
        "def f(a):\n    if a:\n        return a + 1\n    return a - 1\n\n\n"
        "def g(a):\n    return a * 2\n\n\ndef h(a):\n    return -a\n\n\ndef h(a):\n    return ~a\n"
    )
    (tmp_path / "m.py").write_text(code)
    (tmp_path / "n.py").write_text(code)
    lines = {2: (0, 1), 3: (1,), 8: (-1, 0), 12: (0,), 16: (1,)}
    survey = BaselineRun({"t::a": 0.1, "t::b": 0.1}, lines={"m.py": lines, "n.py": lines, "test_m.py": {1: (0,)}})
    found = find(tmp_path, Python(), survey, Run("t"), include=(), exclude=("n.*",), kinds=())
    assert set(found.functions) == {"m.py::f", "m.py::h"}
    assert {one.tests for one in found.functions["m.py::f"] if one.mutation.lines[0] == 3} == {(1,)}
    assert set(found.left) == {"no test runs it", "runs at import", "several functions of one name"}
    only = find(tmp_path, Python(), survey, Run("t"), include=("m*",), exclude=(), kinds=("missing_negation",))
    assert {one.mutation.kind for group in only.functions.values() for one in group} == {"missing_negation"}
