"""The watcher: turns a trainer's steps into progress, events, figures, checkpoints and validations."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from transformers import TrainerCallback

from loraplug import Run
from loraplug_train.engine import measure
from loraplug_train.engine.checkpoints import Checkpoint, Checkpoints, read, write
from loraplug_train.engine.health import Health
from loraplug_train.engine.interrupt import Interrupt

if TYPE_CHECKING:
    from datasets import Dataset

    from loraplug_train.engine.loop import LoraTrainer


@frozen
class Habits:
    """When to validate, save and stop. `save_every` is a number of steps, or seconds as a float."""

    validate_every: int | None
    patience: int | None
    keep_best: bool
    save_every: int | float


@define(slots=False, eq=False)
class Watcher(TrainerCallback):  # type: ignore[misc]
    """Follows one training. What it holds besides the trainer's state goes into checkpoints as `facts`."""

    run: Run
    trainer: LoraTrainer
    held: Dataset | None
    habits: Habits
    checkpoints: Checkpoints
    health: Health
    tokens: list[int]  # up to each step: tokens seen
    trained: list[int]  # and trained
    metrics: list[dict[str, float]] = field(factory=list)
    validations: list[dict[str, float]] = field(factory=list)
    before: dict[str, Any] = field(factory=dict)
    seconds: float = 0.0  # of training, before this process took over; validation not counted
    aside: float = 0.0
    saved: tuple[int, float] = (0, 0.0)
    begun: float = 0.0
    interrupt: Interrupt = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.interrupt = Interrupt(self._save_interrupted)
        self.stack = ExitStack()
        self.leads = self.trainer.args.process_index == 0

    # the life of a training

    def resume(self, kept: Checkpoint) -> None:
        """Take on what a checkpoint holds."""
        self.metrics, self.validations = kept.facts["metrics"], kept.facts["validations"]
        self.seconds = kept.facts["seconds"]
        for name, value in kept.facts["health"].items():
            setattr(self.health, name, value)
        self.trainer.resumed = kept

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar, and do the validation that was due when the run was killed."""
        self.begun = time.perf_counter()
        self.bar = self.stack.enter_context(self.run.progress("training", state.max_steps))
        self.bar.advance(state.global_step)
        self.stack.enter_context(self.interrupt)
        self.saved = (state.global_step, time.perf_counter())
        if state.global_step and self._due(state.global_step):
            self._validate(state.global_step, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here to the end of `on_log` the state is between two steps."""
        self.health.gradient(state.global_step + 1, self.trainer.step_loss, self.trainer.step_rows)
        self.interrupt.begin_change()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Passes over the data are counted here, as the data loader holds them all end to end."""
        state.epoch = self.trainer.plan.epoch(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Take one step's figures; then validate and save where it is time."""
        if "loss" not in logs:
            return
        step, now = state.global_step, time.perf_counter()
        seconds = self.seconds + now - self.begun - self.aside
        speed = self.tokens[step - 1] / seconds
        self.bar.advance(1, loss=self.trainer.step_loss, tokens_per_s=round(speed))
        line = {"step": step, "epoch": round(state.epoch, 4), "loss": self.trainer.step_loss}
        line |= {"learning_rate": logs["learning_rate"], "grad_norm": float(logs.get("grad_norm", 0.0))}
        self.metrics.append(line | {"tokens_per_second": round(speed, 1), "seconds": round(seconds, 2)})
        self.interrupt.end_change()
        self.run.emit("metrics", **self.metrics[-1], steps=state.max_steps, memory_bytes=measure.used_memory())
        even = line["loss"] / self.trainer.step_weight  # with weights of 1 on average, as the loss of guessing has
        self.health.step(step, even, line["grad_norm"], line["learning_rate"], self.trainer.step_rows)
        if self._due(step):
            self._validate(step, control)
        every = self.habits.save_every
        done, at = step - self.saved[0], time.perf_counter() - self.saved[1]
        if (done >= every if isinstance(every, int) else at >= every) or step == state.max_steps:
            self.save()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give signals and terminal back, however the training ended."""
        self.stack.close()

    # validation on the way

    def _due(self, step: int) -> bool:
        every = self.habits.validate_every
        done = any(line["step"] == step for line in self.validations)
        return every is not None and self.held is not None and step % every == 0 and not done

    def _validate(self, step: int, control: Any) -> None:
        assert self.held is not None  # noqa: S101 - for the type checker; `_due` asked
        begun = time.perf_counter()
        losses = measure.validation_losses(self.trainer, self.held, self.run)
        loss = losses["validation_loss"]
        self.aside += time.perf_counter() - begun
        self.validations.append({"step": step, **losses})
        sets = ", ".join(f"{label.partition('/')[2]} {one:.4f}" for label, one in losses.items() if "/" in label)
        self.run.say(f"step {step}: validation loss {loss:.4f}" + (f" ({sets})" if sets else ""))
        self.run.emit("metrics", step=step, **losses)
        best = min(self.validations, key=lambda line: line["validation_loss"])
        if self.habits.keep_best and best["step"] == step and self.leads:
            with self.interrupt.waiting():
                write(self.checkpoints.folder / "best", self.trainer.checkpoint({}))
        since = sum(line["step"] > best["step"] for line in self.validations)
        if self.habits.patience is not None and since >= self.habits.patience:
            self.run.say(f"stopping early at step {step}: the best validation loss was at step {best['step']}")
            control.should_training_stop = True

    def take_best(self) -> None:
        """Put the adapter of the best validation into the model, where `keep_best` says so."""
        if not self.habits.keep_best or not self.validations:
            return
        best = read(self.checkpoints.folder / "best")
        self.trainer.restore_adapters(best)
        self.run.say(f"the adapter of step {best.step} had the lowest validation loss and is kept")

    # checkpoints

    def facts(self) -> dict[str, Any]:
        """What a checkpoint holds besides the trainer's own."""
        health = {name: getattr(self.health, name) for name in ("average", "best", "seen", "still", "warned")}
        seconds = self.metrics[-1]["seconds"] if self.metrics else 0.0
        return {"metrics": self.metrics, "validations": self.validations, "seconds": seconds, "health": health}

    def save(self) -> None:
        """Write a checkpoint of the step just done."""
        with self.interrupt.waiting():
            self._write()

    def _write(self) -> None:
        self.saved = (self.trainer.state.global_step, time.perf_counter())
        if self.leads:
            self.checkpoints.save(self.trainer.checkpoint(self.facts()))

    def _save_interrupted(self) -> None:
        if not self.leads:
            return
        step = self.trainer.state.global_step
        if step != self.saved[0]:
            self._write()
        kept = f"saved at step {step}" if step else "no step was done yet"
        self.run.say(f"\nstopped: {kept}; the same command goes on from there")

    # what is left behind

    def figures(self) -> dict[str, float]:
        """What the training came to."""
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
        """Leave metrics.jsonl (a line a step, the summary last) and the loss plot in the run's folder."""
        from loraplug_train.engine.plot import loss_plot

        validated = {line["step"]: line for line in self.validations}
        lines = [{**line, **validated.get(line["step"], {})} for line in self.metrics]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"summary": dict(figures)}])
        (self.run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        loss_plot(lines, figures, self.run.folder, self.run.name)
        for name in ("metrics.jsonl", "loss.svg", "loss.png"):
            if (self.run.folder / name).is_file():
                self.run.publish(self.run.folder / name)
