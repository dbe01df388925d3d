"""Bugs in JavaScript and TypeScript as text: kinds, places, names of functions, and answers that take them back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from javascript_code import BASKET, EVERY_KIND, TYPED

from loraplug_javascript.language import JAVASCRIPT, TYPESCRIPT
from loraplug_javascript.mutations import KINDS
from loraplug_javascript.syntax import page, statement_at
from loraplug_swe.edits import Applied, Format, apply, render
from loraplug_swe.mutation import Mutation

TEXTS = [EVERY_KIND, *(path.read_text() for path in sorted(BASKET.rglob("*.js")))]


def test_every_kind_there_is_comes_up() -> None:
    """All kinds that are told, and no others; each change once, and each of some text inside its function."""
    found = JAVASCRIPT.mutations(EVERY_KIND)
    extra = JAVASCRIPT.mutations("function g(a, b) { while (a) { if (b) { break; } h(b); } return a; }")
    assert {one.kind for one in [*found, *extra]} == set(KINDS) and len(KINDS) >= 12
    spans = {span.name: span for span in JAVASCRIPT.functions(EVERY_KIND)}
    for one in found:
        span = spans[one.function]
        assert span.start < one.lines[0] <= one.lines[1] <= span.stop
        assert span.start <= EVERY_KIND.count("\n", 0, one.start) < span.stop
    assert len({(one.start, one.stop, one.replacement) for one in found}) == len(found)
    assert list(found) == list(JAVASCRIPT.mutations(EVERY_KIND))


@pytest.mark.parametrize(
    ("code", "kind", "broken"),
    [
        ("return a ?? b;", "wrong_fallback", "return a || b;"),
        ("return a === b;", "loose_equality", "return a == b;"),
        ("return a?.b;", "missing_optional_chain", "return a.b;"),
        ("return a?.[b];", "missing_optional_chain", "return a[b];"),
        ("return a?.();", "missing_optional_chain", "return a();"),
        ("return await b(a);", "missing_await", "return b(a);"),
        ("return a.some(b);", "similar_name", "return a.every(b);"),
        ("return a.slice(1, b);", "slice_boundary", "return a.slice(1, b + 1);"),
        ("return a[b];", "wrong_index", "return a[b + 1];"),
        ("return f(a, b);", "swapped_arguments", "return f(b, a);"),
        ("return a - b;", "wrong_variable", "return b - b;"),
        ("return a ? null : b;", "wrong_nullish", "return a ? undefined : b;"),
        ("return /a/g.test(b);", "missing_flag", "return /a/.test(b);"),
        ("return a < b;", "wrong_comparison", "return a <= b;"),
        ("if (a) {\n    return b;\n  }\n  return a;", "removed_guard", "return a;"),
        ("b(a);\n  return a;", "removed_call", "return a;"),
    ],
)
def test_a_kind_does_what_it_is_called(code: str, kind: str, broken: str) -> None:
    """The one place changes, and the layout round it stays."""
    text, wanted = (f"async function f(a, b) {{\n  {inside}\n}}\n" for inside in (code, broken))
    assert wanted in {one.apply(text) for one in JAVASCRIPT.mutations(text) if one.kind == kind}


def test_functions_have_the_names_that_people_know_them_by() -> None:
    """Methods by their class, members by their object, getters apart; anonymous ones belong to what they are in."""
    text = (
        "export default function () {}\nmodule.exports = () => 1;\nexports.a = function () {};\n"
        "let b = async () => {};\n"
        "b.c = () => {};\nclass D { static e() {} #f = () => {}; [Symbol.iterator]() {} set g(v) {} }\n"
        "list.map((x) => x);\nconst h = { i: { j() {} }, 'k-l': function () {} };\n"
        "function m() { const n = () => {}; }\n"
    )
    names = [span.name for span in JAVASCRIPT.functions(text)]
    assert names == ["default", "exports", "a", "b", "b#c", "D.e", "D.#f", "D.@@iterator", "D.set g", "h.j", "h.k-l",
                     "m", "m.n"]  # fmt: skip
    assert [span.name for span in TYPESCRIPT.functions(TYPED)] == ["total", "Till.add", "Till.due"]


def test_what_is_no_javascript_is_refused() -> None:
    """With the line; TypeScript is read where the other grammar fails; what cannot be read gets no bugs."""
    with pytest.raises(SyntaxError) as told:
        JAVASCRIPT.functions("let a = 1;\nfunction (\n")
    assert told.value.lineno == 2 or told.value.lineno == 3
    assert page(TYPED, JAVASCRIPT.grammars).grammar == "typescript"
    assert page("const a = <b c={1} />;", TYPESCRIPT.grammars).grammar == "tsx"
    for text in ("let a = (;", "function f() {\r return 1; }", "\ufefffunction f() { return 1; }"):
        assert JAVASCRIPT.mutations(text) == [] and JAVASCRIPT.large_mutations(text, []) == []


def test_types_get_no_bugs() -> None:
    """Nothing inside an annotation, an interface or a type argument is changed."""
    found = TYPESCRIPT.mutations(TYPED)
    assert {"wrong_fallback", "removed_call", "wrong_default", "missing_return"} <= {one.kind for one in found}
    for one in found:
        assert "interface Priced { price: number; count?: number }" in one.apply(TYPED)
        assert one.apply(TYPED).count(": number") == TYPED.count(": number")


def test_places_are_characters(tmp_path: Path) -> None:
    """Also behind characters of several bytes."""
    text = "// \u00e4\u20ac\U0001f600\nfunction f(a, b) { return '\u00fc\U0001f600' + (a < b); }\n"
    one = next(one for one in JAVASCRIPT.mutations(text) if one.kind == "wrong_comparison")
    assert text[one.start : one.stop] == "<" and one.lines == (2, 2)
    assert [span.name for span in JAVASCRIPT.functions(one.apply(text))] == ["f"]


@pytest.mark.parametrize("text", TEXTS)
def test_large_bugs_leave_programs(text: str) -> None:
    """Blocks and bodies that are gone, and two bugs in statements that do not touch."""
    small = JAVASCRIPT.mutations(text)
    found = JAVASCRIPT.large_mutations(text, small)
    for one in found:
        assert page(one.apply(text), JAVASCRIPT.grammars).grammar == "javascript"
        assert one.kind in JAVASCRIPT.large_kinds
    if text == EVERY_KIND:
        assert set(Counter(one.kind for one in found)) == set(JAVASCRIPT.large_kinds)


def _all() -> list[tuple[str, Mutation]]:
    return [(text, one) for text in TEXTS for one in JAVASCRIPT.mutations(text)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_answer_leads_back(data: st.DataObject) -> None:
    """In all four formats, as a model would be asked for them, and alone as a whole function without its class."""
    text, one = data.draw(st.sampled_from(_all()))
    edit: Format = data.draw(st.sampled_from(["diff", "search-replace", "lines", "function"]))
    target, broken = ("a.js", one.function), one.apply(text)
    answer = render("a.js", broken, text, edit, JAVASCRIPT.functions, target)
    done = apply(f"```javascript\n{answer}```\n" if edit == "function" else answer, {"a.js": broken}, edit, target,
                 JAVASCRIPT.functions)  # fmt: skip
    assert done == Applied({"a.js": text})


def test_the_check_is_the_innermost_statement() -> None:
    """Not the test around it."""
    text = "test('a', () => {\n  const b = f(\n    1,\n  );\n  assert.equal(b, 2);\n});\n"
    assert statement_at(text, 5, JAVASCRIPT.grammars) == "assert.equal(b, 2);"
    assert statement_at(text, 3, JAVASCRIPT.grammars) == "const b = f(\n    1,\n  );"
    assert statement_at("let a = (", 1, JAVASCRIPT.grammars) == ""


@pytest.mark.parametrize(
    ("path", "is_test"),
    [("test/a.js", True), ("src/a.test.ts", True), ("src/a.spec.jsx", True), ("__tests__/a.js", True),
     ("test.js", True), ("jest.config.js", True), ("types.d.ts", True), ("src/a.js", False), ("src/contest.js", False),
     ("src/latest/b.ts", False), ("index.mjs", False)],
)  # fmt: skip
def test_files_of_tests_get_no_bugs(path: str, is_test: bool) -> None:
    """What a runner would look into, helpers, settings and declarations."""
    assert JAVASCRIPT.is_test(path) is is_test
