"""The bugs to try and their order: spread over the code and the kinds, reproducible by seed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from attrs import field, frozen

from loraplug import InputError, Run
from loraplug_swe.mutation.functions import Span
from loraplug_swe.mutation.language import BaselineRun, Language, Mutation

_T = TypeVar("_T")


@frozen
class Candidate:
    """A bug to try.

    Attributes:
        path: the file, relative to the tree.
        tests: indices in `BaselineRun.tests` of the tests that run the statement.
        span: the function it is in.
    """

    path: str
    mutation: Mutation
    tests: tuple[int, ...]
    span: Span

    @property
    def group(self) -> str:
        """The function's name in the tree."""
        return f"{self.path}::{self.mutation.function}"

    @property
    def key(self) -> str:
        """Unique key of the bug within one tree."""
        one = self.mutation
        told = f"{self.path}\0{one.start}\0{one.stop}\0{one.replacement}"
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@frozen
class Found:
    """All candidates of a tree by function, and counts of what was left out, by reason."""

    texts: Mapping[str, str]
    functions: Mapping[str, Sequence[Candidate]]
    left: dict[str, int] = field(factory=dict)

    def in_order(self, seed: int) -> Iterator[Candidate]:
        """One of each function in turn; within a function one of each kind in turn, rare kinds mostly first."""
        spread = Counter(kind for group in self.functions.values() for kind in {one.mutation.kind for one in group})
        queues = []
        for group in _shuffled(sorted(self.functions), f"{seed}"):
            draw = random.Random(f"{seed} {group}")  # noqa: S311 - a draw, not a secret
            members = list(self.functions[group])
            draw.shuffle(members)
            kinds: dict[str, list[Candidate]] = {}
            for one in members:
                kinds.setdefault(one.mutation.kind, []).append(one)
            turns = {kind: draw.expovariate(1) * spread[kind] for kind in sorted(kinds)}  # the rarer, the sooner
            kinds = {kind: kinds[kind] for kind in sorted(kinds, key=turns.__getitem__)}
            queues.append([one for turn in zip_longest(*kinds.values()) for one in turn if one is not None])
        for turn in zip_longest(*queues):
            yield from (one for one in turn if one is not None)


def find(
    tree: Path, language: Language, survey: BaselineRun, run: Run, *, include: Sequence[str], exclude: Sequence[str],
    kinds: Sequence[str],
) -> Found:  # fmt: skip
    """Every possible bug in a statement that tests run."""
    paths = [
        path
        for path in sorted(survey.lines)
        if path.endswith(tuple(language.suffixes))
        and not language.is_test(path)
        and (not include or any(fnmatchcase(path, glob) for glob in include))
        and not any(fnmatchcase(path, glob) for glob in exclude)
        and any(at >= 0 for tests in survey.lines[path].values() for at in tests)
    ]
    texts: dict[str, str] = {}
    functions: dict[str, list[Candidate]] = {}
    left: dict[str, int] = {}
    with run.progress("reading code", len(paths)) as bar:
        for path in paths:
            try:
                texts[path] = (tree / path).read_bytes().decode()
                spans = {span.name: span for span in language.functions(texts[path])}
            except (UnicodeDecodeError, SyntaxError, ValueError):
                left["file cannot be read"] = left.get("file cannot be read", 0) + 1
                bar.advance(1)
                continue
            for one in _mutations(language, texts[path], kinds):
                if kinds and one.kind not in kinds:
                    continue
                span = spans.get(one.function)
                tests = _tests(survey.lines[path], one.lines)
                if reason := _aside(span, one, tests):
                    left[reason] = left.get(reason, 0) + 1
                elif span is not None:
                    functions.setdefault(f"{path}::{one.function}", []).append(Candidate(path, one, tests, span))
            bar.advance(1, functions=len(functions))
    return Found(texts, functions, left)


def chosen_kinds(language: Language, words: Sequence[str]) -> tuple[str, ...]:
    """Resolve a recipe's `kinds`: names, `small` and `large`; () means all small ones.

    Raises:
        InputError: there is no such kind.
    """
    groups = {"small": tuple(language.kinds), "large": tuple(getattr(language, "large_kinds", ()))}
    known = [kind for group in groups.values() for kind in group]
    if unknown := sorted({*words} - {*known, *groups}):
        told = ", ".join([*known, *groups])
        raise InputError(f"no kind of bug {unknown[0]!r}", where="dataset.kinds", todo=f"known: {told}")
    return tuple(dict.fromkeys(kind for word in words for kind in groups.get(word, (word,))))


def _mutations(language: Language, text: str, kinds: Sequence[str]) -> list[Mutation]:
    """Every bug of a file; large ones only where they are asked for."""
    small = list(language.mutations(text))
    wanted = {*kinds} & {*getattr(language, "large_kinds", ())}
    large: Any = getattr(language, "large_mutations", None)
    return [*small, *large(text, small)] if wanted and large is not None else small


def _aside(span: Span | None, one: Mutation, tests: tuple[int, ...]) -> str | None:
    if not tests:
        return "no test runs it"
    if tests[0] < 0:
        return "runs at import"  # no telling which tests would notice
    if span is None or not span.start < one.lines[0] <= one.lines[1] <= span.stop:
        return "several functions of one name"
    return None


def _tests(lines: Mapping[int, Sequence[int]], place: tuple[int, int]) -> tuple[int, ...]:
    return tuple(sorted({at for line in range(place[0], place[1] + 1) for at in lines.get(line, ())}))


def _shuffled(items: Sequence[_T], seed: str) -> list[_T]:
    mixed = list(items)
    random.Random(seed).shuffle(mixed)  # noqa: S311 - a draw, not a secret
    return mixed
