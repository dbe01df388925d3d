"""A small repository, a recipe on it with a tiny model, and something that answers by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loraplug_swe.evaluation.generator import Completion, Drawn, Sampling

CODE = '''\
"""Small sums."""


def clamp(value, low=0, high=10):
    if value < low:
        return low
    if value > high:
        return high
    return value


def mean(values):
    if not values:
        return 0
    total = 0
    for value in values:
        total += value
    return total / len(values)


def spread(values):
    if len(values) < 2:
        return 0
    return max(values) - min(values)


def halves(text):
    middle = len(text) // 2
    return text[:middle], text[middle:]


def count(items, wanted):
    found = 0
    for item in items:
        if item == wanted:
            found += 1
    return found
'''
TESTS = """\
import sums


def test_clamp():
    assert sums.clamp(-1) == 0
    assert sums.clamp(11) == 10
    assert sums.clamp(5) == 5
    assert sums.clamp(0, 0, 3) == 0


def test_mean():
    assert sums.mean([1, 2, 3]) == 2
    assert sums.mean([]) == 0


def test_spread():
    assert sums.spread([4, 1, 9]) == 8
    assert sums.spread([4]) == 0
    assert sums.spread([4, 6]) == 2


def test_halves():
    assert sums.halves("abcd") == ("ab", "cd")
    assert sums.halves("abc") == ("a", "bc")


def test_count():
    assert sums.count([1, 2, 1], 1) == 2
    assert sums.count([], 1) == 0
"""
RECIPE = """\
run_name = "small"

[dataset]
use = "swe-bugs"
path = "sums"
count = 20
per_function = 6
workers = 1
edit = "search-replace"
context = "none"
timeout = 20.0

[validation]
rows = 6
group_by = "task"

[formatter]
use = "chat-template"
max_length = 512

[model]
use = "transformers"
id = '{model}'
dtype = "float32"

[trainer]
use = "sft"
max_steps = 2
samples = 0
learning_rate = 1e-3
[trainer.lora]
r = 4

[[exporter]]
use = "adapter"

[improve]
rounds = 2
ask = {{ bugs = 6, samples = 3, batch = 4, max_tokens = 8 }}
[improve.round.trainer]
max_steps = 1
"""

Rule = Callable[[int, str, int], str]
"""Of the round whose adapter answers, bug and sample: `right`, `other` (right otherwise), `wrong` or `empty`."""


def make_repository(root: Path) -> None:
    """The package with its tests."""
    (root / "tests").mkdir(parents=True)
    (root / "sums.py").write_text(CODE)
    (root / "tests" / "test_sums.py").write_text(TESTS)


class Script:
    """Answers by a rule, in place of models; `asked` keeps what was asked, `stop_after` so many answers is a kill."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.asked = rule, list[tuple[int, str, int]]()
        self.stop_after: int | None = None

    def __call__(self, pipeline: Any) -> Any:
        """See `loraplug_swe.improve.start.start`."""

        @contextmanager
        def opened(adapter: Path) -> Iterator[Script]:
            assert (adapter / "adapter_model.safetensors").is_file()
            number = adapter.parent.name.rpartition("-round-")[2]
            self.number = int(number) if number.isdecimal() else 0
            yield self

        return opened

    def answers(
        self, rows: Any, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling
    ) -> Iterator[tuple[str, int, Completion]]:
        """See `loraplug_swe.improve.answers.Speaker`."""
        gold = {row["task_id"]: row["response"] for row in rows}
        assert list(names) == list(gold)
        for name in names:
            for sample in range(sampling.samples):
                if (name, sample) in done:
                    continue
                if self.stop_after is not None and len(self.asked) >= self.stop_after:
                    raise KeyboardInterrupt
                self.asked.append((self.number, name, sample))
                yield (
                    name,
                    sample,
                    Completion(self.text(name, sample, gold[name]), "stop", 10, 5, 0.1, self.drawn(name, sample)),
                )

    def drawn(self, name: str, sample: int) -> Drawn:
        """Tokens as likely as any others of the tiny model's, of which two tell which answer it was."""
        return Drawn([5, 6, 7], [10 + int(name), 40 + sample, 2], [-5.5, -5.25, -5.75])

    def text(self, name: str, sample: int, gold: str) -> str:
        """The answer that the rule says."""
        how = self.rule(self.number, name, sample)
        head, _, fixed = gold.partition("=======\n")
        line = fixed.partition("\n")[0]
        indent = line[: len(line) - len(line.lstrip())]
        return {
            "right": gold,
            "other": f"{head}=======\n{indent}_ = {sample}\n{fixed}",
            "wrong": f"{head}=======\n{indent}return {sample + 100}\n>>>>>>> REPLACE\n",
            "empty": "I do not know.",
        }[how]
