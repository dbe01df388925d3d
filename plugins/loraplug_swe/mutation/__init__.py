"""The dataset source `swe-bugs`: bugs put into code, kept where its tests notice them.

Published is what another programming language is made of; see `loraplug_swe.mutation.language.Language`.
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

__all__ = [
    "BaselineRun", "Environment", "Failure", "Language", "Mutation", "Outcome", "Report", "Span", "Suite", "Tester",
    "Verdict",
]  # fmt: skip
