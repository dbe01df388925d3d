"""The dataset source `swe-bugs`: injects bugs into code and keeps those that its tests detect.

It publishes what a plugin for another programming language needs; see `loraplug_swe.mutation.language.Language`.
"""

from loraplug_swe.mutation.functions import Span
from loraplug_swe.mutation.language import (
    BaselineRun,
    Environment,
    Failure,
    Language,
    Mutation,
    Outcome,
    Report,
    Suite,
    Tester,
    Verdict,
)
from loraplug_swe.mutation.pairs import two_bugs

__all__ = [
    "BaselineRun", "Environment", "Failure", "Language", "Mutation", "Outcome", "Report", "Span", "Suite", "Tester",
    "Verdict", "two_bugs",
]  # fmt: skip
