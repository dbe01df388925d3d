"""The errors of plugins and recipes; the base classes and `Problem` are re-exported."""

from __future__ import annotations

from collections.abc import Iterable

from loraplug.config.errors import InputError, LoraplugError, Problem

__all__ = ["InputError", "LoraplugError", "PluginError", "Problem", "RecipeError"]


class PluginError(InputError):
    """A plugin is missing, broken or ambiguous."""


class RecipeError(InputError):
    """A recipe that cannot be run; `problems` holds everything found, not just the first."""

    def __init__(self, problems: Iterable[Problem], *, where: object, todo: str) -> None:
        self.problems = tuple(problems)
        self.exit_code = max((problem.exit_code for problem in self.problems), default=self.exit_code)
        super().__init__("\n".join(f"{where}: {problem}" for problem in self.problems), todo=todo)
