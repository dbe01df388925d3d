"""Follows training step by step: progress bar, metrics, validation, checkpoints, early stopping."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import define, field, frozen

from loraplug import Run
from loraplug_train.engine import memory
from loraplug_train.engine.checkpoints import Checkpoint, Checkpoints, read, write
from loraplug_train.engine.evaluation import Validation
from loraplug_train.engine.health import Health
from loraplug_train.engine.interrupt import Interrupt
from loraplug_train.engine.schedule import BatchSchedule
from loraplug_train.engine.step import StepResult
from loraplug_train.engine.trackers import Trackers


@frozen
class EvalSavePolicy:
    """When to validate, save and stop. `save_every` is a number of steps, or seconds as a float."""

    validate_every: int | None
    patience: int | None
    load_best_model_at_end: bool
    save_every: int | float


@define(slots=False, eq=False)
class Monitor:
    """Follows one training run. Its state is saved in checkpoints as `facts`.

    Attributes:
        state: returns the training state, for a checkpoint of the step just completed.
        tokens, trained: tokens processed and tokens trained, cumulated by step.
        step: how many are done.
        stopping: whether early stopping has ended the training.
    """

    run: Run
    schedule: BatchSchedule
    policy: EvalSavePolicy
    checkpoints: Checkpoints
    health: Health
    trackers: Trackers
    state: Callable[[int, Mapping[str, Any]], Checkpoint]
    validation: Validation | None
    tokens: Sequence[int]
    trained: Sequence[int]
    step: int = 0
    stopping: bool = False
    metrics: list[dict[str, float]] = field(factory=list)
    validations: list[dict[str, float]] = field(factory=list)
    seconds: float = 0.0  # seconds of training before this process resumed; validation not counted
    eval_seconds: float = 0.0
    saved: tuple[int, float] = (0, 0.0)
    begun: float = 0.0
    interrupt: Interrupt = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.interrupt = Interrupt(self._save_interrupted)
        self.stack = ExitStack()
        self.leads = self.run.distributed.leads

    @property
    def steps(self) -> int:
        """The number of steps in the whole training."""
        return len(self.schedule.steps)

    # the life of a training

    def resume(self, kept: Checkpoint) -> None:
        """Restore the facts of a checkpoint."""
        self.step = kept.step
        self.metrics, self.validations = kept.facts["metrics"], kept.facts["validations"]
        self.seconds = kept.facts["seconds"]
        for name, value in kept.facts["health"].items():
            setattr(self.health, name, value)

    def begin(self) -> None:
        """Open the progress bar, and run a validation that was due when the run was killed."""
        self.begun = time.perf_counter()
        self.bar = self.stack.enter_context(self.run.progress("training", self.steps))
        self.bar.advance(self.step)
        self.trackers.begin(self.step)
        self.stack.enter_context(self.interrupt)
        self.saved = (self.step, time.perf_counter())
        if self.step and self._due():
            self._validate()

    def before_change(self, result: StepResult) -> None:
        """The optimizer step begins; until `after_step` no checkpoint can be written."""
        self.health.gradient(self.step + 1, result.loss, result.rows)
        self.interrupt.begin_change()

    def after_step(self, result: StepResult, grad_norm: float, learning_rate: float) -> None:
        """Record a step's metrics; validate and save if due."""
        self.step += 1
        now, epoch = time.perf_counter(), self.schedule.epoch(self.step)
        seconds = self.seconds + now - self.begun - self.eval_seconds
        speed = self.tokens[self.step - 1] / seconds
        told = {name: round(value, 6) for name, value in result.metrics.items()}
        self.bar.advance(1, loss=result.loss, **told, tokens_per_s=round(speed))
        line = {"step": self.step, "epoch": round(epoch, 4), "loss": result.loss, **result.metrics}
        line |= {"learning_rate": learning_rate, "grad_norm": grad_norm}
        self.metrics.append(line | {"tokens_per_second": round(speed, 1), "seconds": round(seconds, 2)})
        self.interrupt.end_change()
        self.run.emit("metrics", **self.metrics[-1], steps=self.steps, memory_bytes=memory.used_memory())
        figures = {"loss": result.loss, "grad_norm": grad_norm, "learning_rate": learning_rate, **result.metrics}
        self.trackers.step(self.step, epoch, figures)
        # scaled to an average weight of 1, to be comparable with the loss of a uniform guess
        even = result.loss / result.weight
        self.health.step(self.step, even, grad_norm, learning_rate, result.rows)
        if self._due():
            self._validate()
        every = self.policy.save_every
        done, at = self.step - self.saved[0], time.perf_counter() - self.saved[1]
        if (done >= every if isinstance(every, int) else at >= every) or self.step == self.steps:
            self.save()

    def close(self) -> None:
        """Restore signal handlers and terminal, however the training ended."""
        self.stack.close()

    # validation during training

    def _due(self) -> bool:
        every = self.policy.validate_every
        done = any(line["step"] == self.step for line in self.validations)
        return every is not None and self.validation is not None and self.step % every == 0 and not done

    def _validate(self) -> None:
        assert self.validation is not None  # noqa: S101 - for the type checker; `_due` asked
        begun = time.perf_counter()
        losses = self.validation.losses()
        loss = losses["validation_loss"]
        self.eval_seconds += time.perf_counter() - begun
        self.validations.append({"step": self.step, **losses})
        sets = ", ".join(f"{label.partition('/')[2]} {one:.4f}" for label, one in losses.items() if "/" in label)
        self.run.say(f"step {self.step}: validation loss {loss:.4f}" + (f" ({sets})" if sets else ""))
        self.run.emit("metrics", step=self.step, **losses)
        best = min(self.validations, key=lambda line: line["validation_loss"])
        if self.policy.load_best_model_at_end and best["step"] == self.step and self.leads:
            with self.interrupt.waiting():
                write(self.checkpoints.folder / "best", self.state(self.step, {}))
        since = sum(line["step"] > best["step"] for line in self.validations)
        if self.policy.patience is not None and since >= self.policy.patience:
            self.run.say(f"stopping early at step {self.step}: the best validation loss was at step {best['step']}")
            self.stopping = True

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation loss, if `load_best_model_at_end` is set."""
        if not self.policy.load_best_model_at_end or not self.validations:
            return None
        best = read(self.checkpoints.folder / "best")
        self.run.say(f"the adapter of step {best.step} had the lowest validation loss and is kept")
        return best

    # checkpoints

    def facts(self) -> dict[str, Any]:
        """What a checkpoint stores besides the state of model and optimizer."""
        health = {name: getattr(self.health, name) for name in ("average", "best", "seen", "zero_gradients", "warned")}
        seconds = self.metrics[-1]["seconds"] if self.metrics else 0.0
        return {"metrics": self.metrics, "validations": self.validations, "seconds": seconds, "health": health}

    def save(self) -> None:
        """Write a checkpoint of the step just completed."""
        with self.interrupt.waiting():
            self._write()

    def _write(self) -> None:
        self.saved = (self.step, time.perf_counter())
        if self.leads:
            self.checkpoints.save(self.state(self.step, self.facts()))

    def _save_interrupted(self) -> None:
        if not self.leads:
            return
        if self.step != self.saved[0]:
            self._write()
        kept = f"checkpoint written at step {self.step}" if self.step else "no step had been completed"
        self.run.say(f"\nstopped: {kept}; the same command resumes from there")

    # what is left behind

    def figures(self) -> dict[str, float]:
        """The summary of the training, as written to metrics.jsonl."""
        last = self.metrics[-1]
        step = int(last["step"])
        return {
            "train_loss": last["loss"],
            "steps": step,
            "epochs": last["epoch"],
            "trained_tokens": self.trained[step - 1],
            "tokens_per_second": round(self.tokens[step - 1] / last["seconds"], 1),
            "seconds": round(last["seconds"], 1),
        }

    def write(self, figures: Mapping[str, float]) -> None:
        """Write metrics.jsonl (a line per step, the summary last) and the loss plot to the run's folder."""
        from loraplug_train.engine.plot import loss_plot

        validated = {line["step"]: line for line in self.validations}
        lines = [{**line, **validated.get(line["step"], {})} for line in self.metrics]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"summary": dict(figures)}])
        (self.run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        loss_plot(lines, figures, self.run.folder, self.run.name)
        for name in ("metrics.jsonl", "loss.svg", "loss.png"):
            if (self.run.folder / name).is_file():
                self.run.publish(self.run.folder / name)
