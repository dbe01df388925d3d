"""The training loop that all objectives share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from loraplug import Encoded, InputError, Placement, Run, Sample, TrainingResult, atomic_output
from loraplug_train.engine import broadcast, checks, evaluation, memory, schedule, weights
from loraplug_train.engine.checkpoints import Checkpoint, Checkpoints
from loraplug_train.engine.health import Health, fingerprint, moved
from loraplug_train.engine.interval import seconds_or_steps
from loraplug_train.engine.model import PreparedModel, prepare_model
from loraplug_train.engine.monitor import EvalSavePolicy, Monitor
from loraplug_train.engine.neftune import embedding_noise
from loraplug_train.engine.optimizers import make_optimizer, make_scheduler
from loraplug_train.engine.references import references
from loraplug_train.engine.rows import StepRows
from loraplug_train.engine.saving import save_result
from loraplug_train.engine.state import TrainingState
from loraplug_train.engine.step import StepComputer
from loraplug_train.engine.trackers import Trackers, arguments_of
from loraplug_train.objectives.base import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraplug_train.trainer import EngineTrainer


@frozen
class Engine:
    """Trains a model with an objective and the options that all trainers share.

    The batch schedule is fixed by seed and data before the first step; random numbers depend on seed, step and row
    alone; gradients are summed once a step over all processes; checkpoints are written atomically. So a run that was
    killed and resumed gives the same result as one that was not, bit for bit on the CPU; smaller micro-batches and more
    processes change it by rounding only, whatever the objective.
    """

    options: EngineTrainer
    objective: Objective

    def fit(
        self,
        run: Run,
        load_model: Callable[[Placement], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        train: Encoded | None,
        validation: Encoded | None = None,
    ) -> TrainingResult:
        """Train, resuming from the newest intact checkpoint; the adapter is written to `run.folder / "adapter"`.

        Args:
            train, validation: rows of the objective's schema; None on all processes but the first.

        Raises:
            InputError: the rows cannot be trained on, or the options do not fit model and data.
            LoraplugError: training diverged or ran out of memory; names step and rows.
        """
        return _Fit.begin(self, run, load_model, tokenizer, train, validation).run_to_the_end()


@define(eq=False)
class _Fit:
    """One training from start to end."""

    run: Run
    options: EngineTrainer
    prepared: PreparedModel
    tokenizer: Any
    encoded: Encoded
    held: Encoded | None
    rows: StepRows
    computer: StepComputer
    monitor: Monitor
    state: TrainingState
    loading: float

    @classmethod
    def begin(
        cls, engine: Engine, run: Run, load_model: Any, tokenizer: Any, train: Encoded | None, held: Encoded | None
    ) -> _Fit:
        from transformers import set_seed
        from transformers.utils import logging

        options, objective = engine.options, engine.objective
        placement = options.placement(run)
        train, held = broadcast.broadcast_rows(run.distributed, train, held)
        train = weights.checked(train, "the training rows")
        held = None if held is None else weights.checked(held, "the validation rows")
        checks.check_batch(options, len(train.dataset))
        model = load_model(placement)
        loading = memory.peak_memory()
        memory.forget_peak()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        costs, labels = checks.check_rows(objective, run, model, tokenizer, train)
        if held is not None:
            checks.check_held(objective, held)
        set_seed(run.seed)
        sets = train.dataset["set"] if "set" in train.dataset.column_names else None
        plan = schedule.build_schedule(
            costs, run.seed, options.epochs, options.max_steps, options.batch_size, options.tokens_per_step, sets
        )
        prepared = prepare_model(options, objective, run, model, load_model, train, costs)
        policy = prepared.policy
        asked = {
            name: references(run, policy, objective, one.dataset, name)
            for name, one in (("train", train), ("validation", held))
            if objective.needs_reference and one is not None
        }
        prepares = type(objective).prepare is not Objective.prepare
        if not prepares and not objective.keeps_reference:  # all its scores are on disk now
            policy.reference = policy.start = None
        computer = StepComputer(run, objective, policy, prepared.trained, tokenizer.pad_token_id or 0)
        arguments = arguments_of(options, run, len(plan.steps), model)
        ratio = options.lora_options.loraplus_lr_ratio if options.lora_options else None
        optimizer = make_optimizer(options, run, arguments, prepared.adapted, ratio)
        state = TrainingState(
            prepared.trained, optimizer, make_scheduler(options, optimizer, len(plan.steps)), policy.limits
        )
        watched = None
        if held is not None:
            size = options.batch_size if objective.schema != "tokens" else run.distributed.world_size
            watched = evaluation.Validation(run, computer, StepRows(held.dataset, asked.get("validation")), size)
        monitor = Monitor(
            run,
            plan,
            EvalSavePolicy(
                options.validate_every,
                options.early_stopping,
                options.load_best_model_at_end,
                seconds_or_steps(options.save_every),
            ),
            Checkpoints(run, options.save_total_limit),
            Health(run, model.config.get_text_config().vocab_size, objective.schema == "tokens"),
            Trackers(options, arguments, prepared.adapted, run.distributed.leads),
            state.checkpoint,
            watched,
            _running(plan, costs),
            _running(plan, labels),
        )
        rows = StepRows(train.dataset, asked.get("train"))
        return cls(run, options, prepared, tokenizer, train, held, rows, computer, monitor, state, loading)

    def run_to_the_end(self) -> TrainingResult:
        run, monitor, policy = self.run, self.monitor, self.prepared.policy
        probes = evaluation.prompts(self.held or self.encoded, self.options.samples)
        texts = [self.tokenizer.decode(ids) for ids in probes]
        start = fingerprint(self.prepared.trained.values())
        before = self._measured_before(probes)
        _tell_samples(run, 0, texts, before["answers"])
        kept = run.distributed.broadcast(monitor.checkpoints.latest() if monitor.leads else None)
        if kept is not None:
            self._resume(kept)
        try:
            self._loop()
        finally:
            monitor.close()
        if (best := monitor.best()) is not None:
            self.state.restore_parameters(best)
        figures = monitor.figures()
        if monitor.validation is not None:
            figures = self._with_validation(figures, before)
        after: list[str] = []
        if monitor.leads or policy.sharded:
            after = evaluation.answers(policy, self.tokenizer, probes)
        changed = fingerprint(self.prepared.trained.values()) != start
        moved(run, changed, figures.get("validation_loss_before"), figures.get("validation_loss_after"))
        figures |= {"peak_memory_bytes": memory.peak_memory(), "loading_memory_bytes": self.loading}
        figures["adapted_share"] = round(self.prepared.coverage.share, 4)
        if monitor.leads:
            monitor.write(figures)
            save_result(run, self.options.adapter, self.prepared.adapted, self.tokenizer, self.prepared.coverage)
        _tell_samples(run, int(figures["steps"]), texts, after)
        samples = [*map(Sample, texts, before["answers"], after)]
        return TrainingResult(run.folder / self.options.makes(), figures, samples, self.options.makes())

    def _loop(self) -> None:
        from torch.nn.utils import clip_grad_norm_

        monitor, state, model = self.monitor, self.state, self.prepared.adapted
        parameters = list(self.prepared.trained.values())
        if monitor.step == monitor.steps:  # killed after the last step
            return
        model.train()
        with embedding_noise(model, self.options.neftune_alpha):
            monitor.begin()
            while monitor.step < monitor.steps and not monitor.stopping:
                step = monitor.step
                result = self.computer.compute(self.rows.take(monitor.schedule.steps[step]), step)
                monitor.before_change(result)
                norm = float(clip_grad_norm_(parameters, self.options.max_grad_norm))
                rate = state.scheduler.get_last_lr()[0]
                state.optimizer.step()
                state.scheduler.step()
                state.optimizer.zero_grad()
                monitor.after_step(result, norm, rate)
            monitor.trackers.end()

    def _resume(self, kept: Checkpoint) -> None:
        if not self.state.fits(kept):
            what = "was written by another version of loraplug, or with another adapter"
            raise InputError(f"checkpoint of step {kept.step} {what}", where=self.monitor.checkpoints.folder,
                             todo="finish the run with the version and recipe that wrote it, or start over with "
                                 "--fresh")  # fmt: skip
        self.state.restore(kept)
        self.monitor.resume(kept)
        self.run.say(f"resuming from the checkpoint of step {kept.step} of {self.monitor.steps}")

    def _measured_before(self, probes: list[list[int]]) -> dict[str, Any]:
        """Validation loss and answers before training; a resumed run reads them from the run folder."""
        monitor, policy = self.monitor, self.prepared.policy
        place = monitor.checkpoints.folder / "before.json"
        kept = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
        if known := self.run.distributed.broadcast(kept):
            return dict(known)
        found: dict[str, Any] = {"answers": [], "losses": {}}
        if monitor.validation is not None:
            found["losses"] = monitor.validation.losses()
        if monitor.leads or policy.sharded:
            found["answers"] = evaluation.answers(policy, self.tokenizer, probes)
        if monitor.leads:
            with atomic_output(place) as out:
                out.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _with_validation(self, figures: dict[str, float], before: Mapping[str, Any]) -> dict[str, float]:
        assert self.monitor.validation is not None  # noqa: S101 - for the type checker
        after = self.monitor.validation.losses()
        return {
            **{_at(label, "before"): loss for label, loss in before["losses"].items()},
            **figures,
            **{_at(label, "after"): loss for label, loss in after.items()},
        }


def _tell_samples(run: Run, step: int, prompts: Sequence[str], answers: Sequence[str]) -> None:
    for prompt, answer in zip(prompts, answers, strict=False):  # only the first process has answers
        run.emit("sample", step=step, prompt=prompt, answer=answer)


def _at(label: str, when: str) -> str:
    """`validation_loss/chat` before training is called `validation_loss_before/chat`."""
    head, slash, name = label.partition("/")
    return f"{head}_{when}{slash}{name}"


def _running(plan: schedule.BatchSchedule, counts: Sequence[int]) -> list[int]:
    """The sum of `counts` over the rows of all steps up to each."""
    total, sums = 0, []
    for step in plan.steps:
        total += sum(counts[row] for row in step)
        sums.append(total)
    return sums
