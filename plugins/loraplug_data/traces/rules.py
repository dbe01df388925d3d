"""Steps that are left untrained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from loraplug_data.traces.turns import Turn

Rule = Literal["failed-commands", "format-errors", "after-last-success"]


def apply_rules(turns: Sequence[Turn], rules: Sequence[Rule]) -> Counter[str]:
    """Set the weight of assistant turns to 0 by these rules; gives how many each took, the first that says so.

    - format-errors: what was written was no call, and the agent was told so.
    - failed-commands: one of its calls failed.
    - after-last-success: behind the last turn that was no format error and none of whose calls failed.
    """
    failed = _failed(turns)
    own = [number for number, turn in enumerate(turns) if turn.role == "assistant" and not turn.shown]
    good = [number for number in own if number not in failed and not turns[number].malformed]
    last = good[-1] if good else -1
    took: Counter[str] = Counter()
    for number in own:
        turn = turns[number]
        reasons = {
            "format-errors": turn.malformed,
            "failed-commands": number in failed,
            "after-last-success": number > last,
        }
        if turn.weight != 0 and (rule := next((one for one in rules if reasons[one]), None)):
            turn.weight, turn.rule = 0.0, rule
            took[rule] += 1
    return took


def _failed(turns: Sequence[Turn]) -> set[int]:
    """Numbers of the turns with a call that failed."""
    asked, found = dict[str, int](), set[int]()
    for number, turn in enumerate(turns):
        asked |= {one["id"]: number for one in turn.calls}
        if turn.role == "tool" and turn.failed and turn.answers in asked:
            found.add(asked[turn.answers])
    return found
