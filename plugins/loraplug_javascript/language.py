"""The languages `javascript` and `typescript`, for `swe-bugs` and `eval`."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from attrs import frozen

from loraplug_javascript.controls import controls
from loraplug_javascript.environment import environment
from loraplug_javascript.large import LARGE_KINDS, large_mutations
from loraplug_javascript.mutations import KINDS, mutations
from loraplug_javascript.suite import JavaScriptSuite
from loraplug_javascript.syntax import Grammar, functions
from loraplug_swe.mutation import Environment, Mutation, Span
from loraplug_swe.sandbox import Controls

_TEST_NAME = re.compile(
    r"(?:^test|^test[-_.].+|.+[.\-_](?:test|tests|spec))\.[cm]?[jt]sx?|.+\.config\.[cm]?[jt]s|.+\.d\.[cm]?ts"
)
_TEST_FOLDERS = frozenset({
    "test", "tests", "__tests__", "spec", "specs", "__mocks__", "testing", "e2e", "node_modules",
})  # fmt: skip


@frozen
class JavaScript:
    """JavaScript, or TypeScript; see `loraplug_swe.mutation.language.Language`.

    Attributes:
        grammars: tried in this order; the first that parses a text is used.
    """

    name: str
    suffixes: Sequence[str]
    grammars: tuple[Grammar, ...]
    kinds: Sequence[str] = KINDS
    large_kinds: Sequence[str] = LARGE_KINDS

    def is_test(self, path: str) -> bool:
        """Whether the file has tests, supports or configures them, or has only types."""
        parts = PurePosixPath(path).parts
        return _TEST_NAME.fullmatch(parts[-1]) is not None or any(part in _TEST_FOLDERS for part in parts[:-1])

    def functions(self, text: str) -> Sequence[Span]:
        """See `loraplug_javascript.syntax.functions`."""
        return functions(text, self.grammars)

    def mutations(self, text: str) -> Sequence[Mutation]:
        """See `loraplug_javascript.mutations.mutations`."""
        return mutations(text, self.grammars)

    def large_mutations(self, text: str, small: Sequence[Mutation]) -> Sequence[Mutation]:
        """See `loraplug_javascript.large.large_mutations`."""
        return large_mutations(text, small, self.grammars)

    def controls(self, texts: Mapping[str, str], tests: Sequence[str], draw: random.Random) -> Controls:
        """See `loraplug_javascript.controls.controls`."""
        return controls(texts, tests, draw, self.grammars)

    def environment(self, path: str, command: str) -> Environment:
        """See `loraplug_javascript.environment.environment`."""
        return environment(path, command)

    def suite(self, tests: Sequence[str], arguments: Sequence[str], command: str) -> JavaScriptSuite:
        """The tests, run by the node `command`; the first argument may name the runner: node, jest or vitest."""
        return JavaScriptSuite(tuple(tests), tuple(arguments), command, self.grammars)


JAVASCRIPT = JavaScript("javascript", (".js", ".mjs", ".cjs", ".jsx"), ("javascript", "typescript", "tsx"))
TYPESCRIPT = JavaScript("typescript", (".ts", ".mts", ".cts", ".tsx"), ("typescript", "tsx", "javascript"))
