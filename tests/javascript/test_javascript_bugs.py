"""Bugs in JavaScript and TypeScript that node's own test runner notices, from the survey to `eval`."""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from javascript_code import BASKET, basket, needs_node, till

from loraplug import InputError, LoraplugError
from loraplug.testing import tiny_run
from loraplug_javascript.language import JAVASCRIPT
from loraplug_javascript.suite import JavaScriptTester
from loraplug_swe.evaluation.bench import Checking
from loraplug_swe.evaluation.cases import Case, PromptOptions
from loraplug_swe.evaluation.judge import judge
from loraplug_swe.evaluation.reading import Task, read_tasks
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.mutation import BaselineRun, Report
from loraplug_swe.mutation.source import SweBugsSource
from loraplug_swe.sandbox import Limits, Sandbox

pytestmark = [
    needs_node,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's"),
]
LABEL = "test/basket.test.js::an empty basket"


def opened(path: Path, **limits: Any) -> Sandbox:
    """A box of some code, with what its tests need."""
    return Sandbox(path, JAVASCRIPT.environment(str(path), "").added(Limits(**limits)))


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, JavaScriptTester, BaselineRun]]:
    """The package in a box, surveyed, and a tester."""
    path = basket(tmp_path_factory.mktemp("code"))
    with opened(path) as box:
        suite = JAVASCRIPT.suite((), (), "")
        survey = suite.survey(box)
        tester = suite.tester(box, survey)
        yield box, tester, survey
        tester.close()


def test_each_line_has_the_tests_that_reach_it(surveyed: tuple[Sandbox, JavaScriptTester, BaselineRun]) -> None:
    """By test, of what runs inside a function; subtests belong to their test."""
    _, _, survey = surveyed
    names = list(survey.tests)
    assert len(names) == 11 and not survey.failing and not survey.flaky
    assert "test/basket.test.js::paying" in names and "test/ranges.test.js::clamp > lifts" in names
    code = (BASKET / "src" / "basket.js").read_text().split("\n")
    lines = survey.lines["src/basket.js"]

    def reaching(text: str) -> list[str]:
        at = next(number for number, line in enumerate(code, 1) if text in line)
        return sorted(names[test].partition("::")[2] for test in lines.get(at, ()))

    assert reaching("throw new TypeError") == ["a basket > wants a price"]
    assert reaching("return null;") == ["paying"]
    assert reaching("const name = this.owner?.name") == ["a basket > adds up", "an empty basket"]
    assert reaching("return value - 1;") == []
    one_line = survey.lines["src/ranges.js"][
        len((Path(__file__).parent / "basket/src/ranges.js").read_text().split("\n")) - 1
    ]
    assert [names[test] for test in one_line] == ["test/ranges.test.js::pairs"]


def test_verdicts(surveyed: tuple[Sandbox, JavaScriptTester, BaselineRun]) -> None:
    """Tests are run alone; what fails is told with what was expected, and the way there; all else has its own name."""
    box, tester, survey = surveyed
    code = box.read("src/basket.js") or ""

    def told(old: str, new: str, *tests: str, seconds: float = 20.0) -> Any:
        assert old in code
        box.write({"src/basket.js": code.replace(old, new)})
        try:
            return tester.run(tests, seconds, 9)
        finally:
            box.restore()

    assert told("nobody", "nobody", *survey.tests).verdict == "passed"
    outcome = told("?? 'nobody'", "|| 'no'", LABEL)
    assert outcome.verdict == "failed" and outcome.counts == {"failed": 1}
    failure = outcome.failures[0]
    assert (failure.test, failure.error) == (LABEL, "AssertionError")
    assert failure.check == "assert.equal(basket.label(), 'nobody: 0 things');"
    assert (failure.expected, failure.actual) == ("'nobody: 0 things'", "'no: 0 things'")
    thrown = told("const name = this", "const name = there", LABEL).failures[0]
    assert thrown.error == "ReferenceError" and thrown.actual == "ReferenceError: there is not defined"
    assert [place[0] for place in thrown.trace] == ["test/basket.test.js", "src/basket.js"]
    assert thrown.trace[1][3] == "const name = there.owner?.name ?? 'nobody';"
    assert str(box.tree) not in repr(thrown)
    assert told("let sum = 0;", "let sum = ;", LABEL).verdict == "broken"
    assert told("let sum = 0;", "let sum = 0; process.exit(0);", "test/basket.test.js::paying").verdict == "broken"
    assert told("let sum = 0;", "for (;;) {}", "test/basket.test.js::paying", seconds=1.0).verdict == "time"
    assert told("nobody", "nobody", "test/basket.test.js::no such test").verdict == "broken"
    subtest = told("return null;", "return 0;", "test/basket.test.js::paying").failures
    assert [one.actual for one in subtest] == ["0"]


def test_control_tests_fail(surveyed: tuple[Sandbox, JavaScriptTester, BaselineRun]) -> None:
    """Copies that expect something else, and a file that throws, fail beside the tests that pass."""
    box, tester, _ = surveyed
    texts = {path: box.read(path) or "" for path in ("test/basket.test.js", "test/ranges.test.js")}
    tests = [LABEL, "test/ranges.test.js::pairs"]
    made = JAVASCRIPT.controls(texts, tests, random.Random(1))
    assert sorted(made.ids.values()) == sorted(["", "", *tests])
    box.write(made.files)
    try:
        report = tester.report([*tests, *made.ids], 30.0, 9)
    finally:
        box.restore()
    assert isinstance(report, Report) and report.code == report.exit == 1
    assert {report.outcomes[one] for one in made.ids} == {"failed"}
    assert {report.outcomes[one] for one in tests} == {"passed"}


def test_only_the_packages_are_shown(tmp_path: Path) -> None:
    """Of the code's folder `node_modules` is there inside, read-only, and put back; nothing else of the user's."""
    path = basket(tmp_path)
    (path / "node_modules" / "left").mkdir(parents=True)
    (path / "node_modules" / "left" / "index.js").write_text("module.exports = 41;\n")
    (path / "secret.txt").write_text("mine")
    probe = (
        "import fs from 'node:fs'; import test from 'node:test'; import assert from 'node:assert';\n"
        "import left from 'left';\n"
        f"const there = (path) => fs.existsSync(path);\n"
        "test('sees', () => { assert.equal(left, 41);\n"
        f"  assert.deepEqual([there({str(path / 'secret.txt')!r}), there({str(Path.home() / '.npmrc')!r}),\n"
        "    Object.keys(process.env).some((name) => /TOKEN|KEY|NPM/.test(name))], [false, false, false]);\n"
        f"  assert.throws(() => fs.writeFileSync({str(path / 'node_modules' / 'left' / 'index.js')!r}, ''));\n"
        "  fs.unlinkSync('node_modules'); });\n"
    )
    (path / "test" / "probe.test.js").write_text(probe)
    with opened(path) as box:
        tester = JAVASCRIPT.suite((), (), "").tester(box, BaselineRun({}))
        for _ in range(2):
            outcome = tester.run(["test/probe.test.js::sees"], 20.0, 1)
            assert outcome.verdict == "passed", outcome
            box.restore()
        tester.close()


def test_flaky_and_red_tests_are_left_out_or_refused(tmp_path: Path) -> None:
    """A test that ends differently is no witness; a suite of which nothing passes is refused."""
    path = basket(tmp_path)
    odd = "import test from 'node:test'; import assert from 'node:assert'; import fs from 'node:fs';\n"
    body = "test('now and then', () => assert(process.execArgv.some((one) => one.endsWith('coverage.mjs'))));\n"
    (path / "test" / "odd.test.js").write_text(odd + body + "test('red', () => assert.equal(1, 2));\n")
    with opened(path) as box:
        survey = JAVASCRIPT.suite((), (), "").survey(box)
        assert survey.flaky == ["test/odd.test.js::now and then"] and survey.failing == ["test/odd.test.js::red"]
        assert len(survey.tests) == 11
        with pytest.raises(LoraplugError, match=r"no test passes \(2 ran\); the first problem: .*1 == 2"):
            JAVASCRIPT.suite(("test/odd.test.js",), ("--test-name-pattern=red",), "").survey(box)
        with pytest.raises(LoraplugError, match="there is no test file"):
            JAVASCRIPT.suite(("src",), (), "").survey(box)


def test_runners_that_are_told(tmp_path: Path) -> None:
    """By package.json, unless the recipe names one; what can be read two ways, or is not there, is refused."""
    path = basket(tmp_path)
    cases: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
        ({"scripts": {"test": "jest && vitest run"}}, (), "its tests are run by jest and vitest"),
        ({"scripts": {"test": "mocha"}}, (), "its tests are run by mocha"),
        ({"devDependencies": {"vitest": "^4"}}, (), "vitest is not installed in node_modules"),
        ({}, ("jest",), "jest is not installed in node_modules"),
        ({"scripts": {"test": "jest"}}, ("node",), ""),
        ({"scripts": {"test": "c8 node --test"}}, (), ""),
    ]
    for package, arguments, why in cases:
        (path / "package.json").write_text(json.dumps({"type": "module", **package}))
        with opened(path) as box:
            if why:
                with pytest.raises(InputError, match=why):
                    JAVASCRIPT.suite((), arguments, "").tester(box, BaselineRun({}))
            else:
                tester = JAVASCRIPT.suite((), arguments, "").tester(box, BaselineRun({}))
                assert tester.run([LABEL], 20.0, 1).verdict == "passed"
                tester.close()


def test_no_node(tmp_path: Path) -> None:
    """Told before the work, as a problem of the recipe."""
    path = basket(tmp_path)
    fake = tmp_path / "node"
    fake.write_text("#!/bin/sh\necho v18.20.1\n")
    fake.chmod(0o755)
    for python, why in ((str(tmp_path / "none"), "was not found"), (str(fake), "node v18.20.1 is too old"),
                        (sys.executable, "is not Node.js")):  # fmt: skip
        source = SweBugsSource(str(path), language="javascript", python=python)
        told = list(source.preflight(tiny_run(tmp_path), None))
        assert len(told) == 1 and why in told[0].message, told


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, Path]:
    """Rows and tasks of the package."""
    path = basket(tmp_path_factory.mktemp("code"))
    run = tiny_run(tmp_path_factory.mktemp("run"))
    source = SweBugsSource(str(path), language="javascript", count=4, per_function=2, workers=1)
    return list(source.rows(run)), run.folder / "tasks", path


def test_bugs_are_found_and_confirmed(made: tuple[list[dict[str, Any]], Path, Path]) -> None:
    """Each fails its tests and no more, and the row asks about it in JavaScript."""
    rows, folder, _ = made
    assert len(rows) == 4
    for row, path in zip(rows, sorted(folder.iterdir()), strict=True):
        task = json.loads(path.read_text())
        assert task["generation"]["language"] == "javascript" and task["generation"]["kind"] in JAVASCRIPT.kinds
        count = len(task["bug"]["target_tests"])
        assert task["verification"]["fixed_tree"] == {"passed": count}
        assert task["verification"]["buggy_tree_alone"] == {"failed": count}
        assert set(task["bug"]["target_tests"]) <= set(task["generation"]["related_tests"])
        assert (
            "\n```javascript\n" in row["instruction"]
            and f"Test: {task['bug']['target_tests'][0]}" in row["instruction"]
        )


@pytest.fixture(scope="module")
def judged(
    made: tuple[list[dict[str, Any]], Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workroom, Case, Mapping[str, Any]]]:
    """A task made ready as `eval` does it, and its row."""
    rows, folder, path = made
    task = next(one for one in read_tasks(folder) if isinstance(one, Task))
    with Workroom({"": str(path)}, None, Checking(), tmp_path_factory.mktemp("room"), True) as room:
        case = room.prepare(task, PromptOptions(edit="search-replace"))
        assert isinstance(case, Case), case
        yield room, case, rows[0]


def test_eval_judges_right_and_wrong_answers(judged: tuple[Workroom, Case, Mapping[str, Any]]) -> None:
    """The gold answer resolves it; another change does not, nor one that ends the tests early."""
    room, case, row = judged
    bench = room.bench(case.task)
    assert case.instruction == row["instruction"] and case.controlled
    assert judge(bench, case, row["response"]).status == "resolved"
    path = case.task.file
    broken = case.broken[path] or ""
    first = next(line for line in broken.split("\n") if line.startswith("export"))
    nothing = f"{path}\n<<<<<<< SEARCH\n{first}\n=======\n{first} // fixed\n>>>>>>> REPLACE\n"
    verdict = judge(bench, case, nothing)
    assert verdict.status == "applied" and verdict.failing
    early = f"{path}\n<<<<<<< SEARCH\n{first}\n=======\nprocess.exit(0);\n{first}\n>>>>>>> REPLACE\n"
    assert judge(bench, case, early).status == "applied"
    syntax = f"{path}\n<<<<<<< SEARCH\n{first}\n=======\n{first} (((\n>>>>>>> REPLACE\n"
    assert judge(bench, case, syntax).status == "applied"


def test_an_answer_that_works_on_assert_is_void(judged: tuple[Workroom, Case, Mapping[str, Any]]) -> None:
    """All tests pass with it, the control tests too, and so it gives itself away."""
    room, case, _ = judged
    path = case.task.file
    first = next(line for line in (case.broken[path] or "").split("\n") if line.startswith("export"))
    cheat = (
        "import assert from 'node:assert';\nimport { syncBuiltinESMExports } from 'node:module';\n"
        "for (const one of [assert, assert.strict]) for (const name of Object.keys(one))\n"
        "  if (/qual|ok|throws/.test(name)) one[name] = () => {};\n"
        "syncBuiltinESMExports();"
    )
    answer = f"{path}\n<<<<<<< SEARCH\n{first}\n=======\n{cheat}\n{first}\n>>>>>>> REPLACE\n"
    assert judge(room.bench(case.task), case, answer).status == "void"


def test_typescript_by_what_loads_it(tmp_path: Path) -> None:
    """Bugs in TypeScript, run by a loader that the package brings; what a Node of itself cannot load is told so."""
    path, run = till(tmp_path), tiny_run(tmp_path)
    source = SweBugsSource(str(path), language="typescript", test_args=("--import", "./blanks.mjs"), count=2, workers=1)
    rows = list(source.rows(run))
    assert len(rows) == 2 and all("\n```typescript\n" in row["instruction"] for row in rows)
    assert all(row["group"][1].startswith("src/till.ts::") for row in rows)


def test_lines_of_what_was_made_from_typescript(tmp_path: Path) -> None:
    """By an inline source map, as transpilers write it."""
    path = basket(tmp_path)
    # two lines of TypeScript, made into one: both functions are on line 1 of what runs
    mapped = {"version": 3, "sources": ["two.ts"], "names": [], "mappings": "AAAA,gCACA", "sourcesContent": [None]}
    url = base64.b64encode(json.dumps(mapped).encode()).decode()
    text = "export function a() { return 1 }export function b() { return 2 }\n"
    assert text.index("export function b") == 32
    (path / "src" / "two.js").write_text(f"{text}//# sourceMappingURL=data:application/json;base64,{url}\n")
    (path / "test" / "two.test.js").write_text(
        "import test from 'node:test'; import { a, b } from '../src/two.js';\n"
        "test('a', () => a());\ntest('b', () => b());\n"
    )
    with opened(path) as box:
        survey = JAVASCRIPT.suite(("test/two.test.js",), (), "").survey(box)
    names = [test.partition("::")[2] for test in survey.tests]
    assert {line: [names[at] for at in tests] for line, tests in survey.lines["src/two.js"].items()} == {
        1: ["a"], 2: ["b"],
    }  # fmt: skip
