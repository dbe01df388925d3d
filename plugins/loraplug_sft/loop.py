"""trl's trainer with what we hold it to, and the watcher that turns its logs into progress, events and figures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from loraplug import LoraplugError, Run
from loraplug_sft.plot import loss_plot

if TYPE_CHECKING:
    from datasets import Dataset


class LoraTrainer(SFTTrainer):
    """`SFTTrainer` whose adapters keep the precision that peft gave them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        # trl casts the adapters of a quantised model to bf16 whatever the hardware: on a CPU without bf16 units that
        # costs 1.6 times, and AdamW's small updates are lost in 8 bits of mantissa
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


class Watcher(TrainerCallback):
    """Shows progress, emits `metrics` events, keeps metrics.jsonl, and stops a run whose loss is no number."""

    def __init__(self, run: Run, rows: Dataset) -> None:
        self.run = run
        self.metrics: list[dict[str, float]] = []
        self.stack = ExitStack()
        self.bar: Any = None
        self.tokens = sum(map(len, rows["input_ids"]))
        self.trained = sum(label != -100 for labels in rows["labels"] for label in labels)
        self.rows = len(rows)
        self.begun = 0.0
        self.seconds = 0.0
        self.epochs = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.begun = time.perf_counter()
        self.bar = self.stack.enter_context(self.run.progress("training", state.max_steps))

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """Take one step's figures."""
        if "loss" not in logs:
            return
        loss, seconds = logs["loss"], time.perf_counter() - self.begun
        speed = self.tokens * (state.epoch or 0) / seconds
        self.bar.advance(1, loss=float(loss), tokens_per_s=round(speed))
        step = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "loss": loss}
        step |= {"learning_rate": logs["learning_rate"], "grad_norm": logs.get("grad_norm", 0.0)}
        self.metrics.append(step | {"tokens_per_second": round(speed, 1), "seconds": round(seconds, 2)})
        self.run.emit("metrics", **self.metrics[-1])
        if loss != loss or abs(loss) == float("inf"):
            raise LoraplugError(
                f"the loss is {loss}",
                where=f"trainer, step {state.global_step}",
                todo='try a smaller trainer.learning_rate, or model.dtype = "float32"',
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.seconds = time.perf_counter() - self.begun
        self.epochs = state.epoch or 0.0
        self.stack.close()

    def figures(self) -> dict[str, float]:
        """What the training came to."""
        return {
            "train_loss": self.metrics[-1]["loss"],
            "steps": len(self.metrics),
            "epochs": round(self.epochs, 4),
            "trained_tokens": round(self.trained * self.epochs),
            "tokens_per_second": round(self.tokens * self.epochs / self.seconds, 1),
            "seconds": round(self.seconds, 1),
        }

    def write(self, figures: Mapping[str, float]) -> None:
        """Leave metrics.jsonl (a line a step, the summary last) and the loss plot in the run's folder."""
        lines = [*self.metrics, {"summary": dict(figures)}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        loss_plot(self.metrics, figures, self.run.folder, self.run.name)
