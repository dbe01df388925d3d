"""A model asked about bugs, and its answers judged by the tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

from loraplug import InputError, Run, open_model
from loraplug_swe.evaluation.cases import Case, PromptOptions, Unfit
from loraplug_swe.evaluation.generator import Completion, Sampling, load, prompts
from loraplug_swe.evaluation.judge import Verdict
from loraplug_swe.evaluation.judging import Judging, Known, open_judging
from loraplug_swe.evaluation.results import Journal, Result
from loraplug_swe.evaluation.workroom import Workroom
from loraplug_swe.improve.data import Bugs
from loraplug_swe.improve.folder import read_json, write_json
from loraplug_swe.improve.rollouts import GONE, DrawnFile

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug import Formatter, Registry

MODEL = "model"
_GONE = Verdict("void", GONE, "its tests ended otherwise when they were tried again")


class Speaker(Protocol):
    """Something that answers prompts."""

    def answers(
        self, rows: Dataset, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling
    ) -> Iterator[tuple[str, int, Completion]]:
        """Answers to the rows called `names`, each with its sample's number, but those that are `done`."""


Opener = Callable[[Path], AbstractContextManager[Speaker]]
"""Loads the model with the adapter of a folder."""


@frozen
class Model:
    """A model in memory."""

    generator: Any
    formatter: Formatter
    run: Run

    def answers(
        self, rows: Dataset, names: Sequence[str], done: set[tuple[str, int]], sampling: Sampling
    ) -> Iterator[tuple[str, int, Completion]]:
        """See `Speaker.answers`."""
        asked = prompts(rows, self.formatter, self.generator.model, self.generator.tokenizer, self.run)
        yield from self.generator.answers(asked, names, done, sampling)


def opener(registry: Registry, formatter: Formatter, run: Run) -> Opener:
    """Opens adapters by their own recipe lock."""

    @contextmanager
    def opened(adapter: Path) -> Iterator[Speaker]:
        yield Model(load(open_model(adapter, registry), run, adapter, False)[0], formatter, run)

    return opened


@frozen
class Asking:
    """Where answers are judged, and who gives them."""

    room: Workroom
    opened: Opener
    run: Run
    asked: PromptOptions = field(factory=PromptOptions)
    """How the rows were written that the answers are to; their format is that of the answers."""
    known: Known = field(factory=dict)

    def ask(
        self, bugs: Bugs, adapter: Path, sampling: Sampling, journal: Path, unfit: Path, title: str,
        drawn: Path | None = None,
    ) -> tuple[list[Result], dict[str, str]]:  # fmt: skip
        """Results of all bugs, going on with those in the journal; and bugs that cannot be asked about, with reasons.

        Args:
            journal: a file of results as they come.
            unfit: a file of the bugs that could not be made ready when they were first tried.
            drawn: a file of the answers' tokens, where these are wanted.

        Raises:
            InputError: none of them can be asked about here.
        """
        settings = {"adapter": adapter.parent.name, "bugs": list(bugs.tasks), "sampling": repr(sampling)}
        with Journal(journal, settings, False) as kept, ExitStack() as stack:
            done = kept.done(MODEL)
            known = read_json(unfit) if unfit.exists() else None
            names = [name for name in bugs.tasks if name not in (known or {})]
            wanted = [name for name in names if any((name, at) not in done for at in range(sampling.samples))]
            judging = stack.enter_context(
                open_judging(self.room, self.run.workers, bugs.only(wanted).tasks.values(), spare=1, known=self.known)
            )
            cases, left = self._cases(bugs.only(wanted), judging, title)
            if known is None:
                known = left
                write_json(unfit, known)
                names = [name for name in names if name not in known]
            if not names:
                reasons = ", ".join(sorted(set(known.values())))
                raise InputError(f"no bug can be asked about here ({reasons})", where=title,
                                 todo="see that the tests of the code pass as it is")  # fmt: skip
            if cases or set(left) - known.keys():
                with DrawnFile(drawn, done) if drawn is not None else nullcontext() as tokens:
                    self._answer(bugs, names, cases, adapter, sampling, kept, tokens, judging, title)
                gc.collect()  # the model, before a training loads another
            return [one for one in kept.results if one.task not in known], known

    def _cases(self, bugs: Bugs, judging: Judging, title: str) -> tuple[dict[str, Case], dict[str, str]]:
        cases: dict[str, Case] = {}
        unfit: dict[str, str] = {}
        with self.run.progress(f"{title}: bugs", len(bugs.tasks)) as bar:
            for case, _ in judging.prepared(list(bugs.tasks.values()), self.asked):
                if isinstance(case, Unfit):
                    unfit[case.task.id] = case.reason
                else:
                    cases[case.task.id] = case
                bar.advance(1, fit=len(cases))
        return cases, unfit

    def _answer(
        self, bugs: Bugs, names: Sequence[str], cases: dict[str, Case], adapter: Path, sampling: Sampling,
        kept: Journal, tokens: DrawnFile | None, judging: Judging, title: str,
    ) -> None:  # fmt: skip
        """Answers to all of `names` but those that are kept; what is made together does not depend on these."""
        from datasets import Dataset

        rows = Dataset.from_list([dict(bugs.rows[name]) for name in names])
        done = kept.done(MODEL)
        resolved = 0
        with self.opened(adapter) as speaker, self.run.progress(
            f"{title}: answers", len(names) * sampling.samples - len(done)
        ) as bar:  # fmt: skip
            answers = speaker.answers(rows, names, done, sampling)
            for name, sample, said, verdict in judging.verdicts(answers, lambda name: cases.get(name, _GONE)):
                if tokens is not None and said.drawn is not None:
                    tokens.add(name, sample, said.drawn)
                kept.add(_result(bugs.tasks[name].kind, name, sample, said, verdict))
                resolved += verdict.status == "resolved"
                bar.advance(1, resolved=resolved)


def _result(kind: str, name: str, sample: int, said: Completion, verdict: Verdict) -> Result:
    return Result.of(
        verdict, model=MODEL, task=name, sample=sample, kind=kind, answer=said.text, finish=said.finish,
        prompt_tokens=said.prompt_tokens, tokens=said.tokens, seconds=round(said.seconds, 3),
    )  # fmt: skip
