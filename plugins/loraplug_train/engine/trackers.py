"""Trackers (Weights & Biases, TensorBoard, …) by transformers' integrations, called at every step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from loraplug_train.trainer import EngineTrainer


def tracker_names(options: EngineTrainer) -> list[str]:
    """The trackers to report to.

    Weights & Biases is used if the recipe names it, or by default if `WANDB_API_KEY` is set; without a key (and not
    offline) or with the key `disabled` it is off whatever the recipe says.
    """
    key = os.environ.get("WANDB_API_KEY", "")
    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    usable = key != "disabled" and (bool(key) or offline)
    if options.report_to == "auto":
        return ["wandb"] if usable and key and find_spec("wandb") else []
    return [name for name in options.report_to if name != "wandb" or usable]


def arguments_of(options: EngineTrainer, run: Run, steps: int, model: Any) -> TrainingArguments:
    """The training as `TrainingArguments`: for trackers, which record them, and for transformers' optimizer
    factories.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(run.folder / "checkpoints"),
        run_name=run.name,
        seed=run.seed,
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        optim=options.optimizer if isinstance(options.optimizer, str) else "adamw_torch",
        optim_args=None if isinstance(options.optimizer, str) else f"by={options.optimizer.name}",
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler if isinstance(options.scheduler, str) else "constant",
        warmup_steps=int(options.warmup_ratio * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        neftune_noise_alpha=options.neftune_alpha,
        bf16=False,
        use_cpu=model.device.type == "cpu",
        save_strategy="no",
        logging_steps=1,
        report_to=tracker_names(options) or "none",
        disable_tqdm=True,
        log_level="error",
    )


class Trackers:
    """The callbacks of transformers' integrations, called as its `Trainer` would."""

    def __init__(self, options: EngineTrainer, arguments: TrainingArguments, model: Any, leads: bool) -> None:
        from transformers import TrainerControl, TrainerState
        from transformers.integrations import get_reporting_integration_callbacks

        names = tracker_names(options)
        self.callbacks = [make() for make in get_reporting_integration_callbacks(names)] if names else []
        self.asked = options.report_to
        self.arguments, self.model, self.control = arguments, model, TrainerControl()
        self.state = TrainerState(max_steps=arguments.max_steps)
        self.state.is_world_process_zero = self.state.is_local_process_zero = leads

    def begin(self, step: int) -> None:
        """Training begins, or resumes at a step."""
        self.state.global_step = step
        self._tell("on_train_begin")

    def step(self, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Report a completed step."""
        self.state.global_step, self.state.epoch = step, epoch
        self._tell("on_log", logs={**figures, "epoch": epoch})

    def end(self) -> None:
        """Training has ended."""
        self._tell("on_train_end")

    def _tell(self, what: str, **more: Any) -> None:
        for callback in self.callbacks:
            with self._refused():
                getattr(callback, what)(self.arguments, self.state, self.control, model=self.model, **more)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Context manager: an error of a tracker's library becomes an InputError."""
        try:
            yield
        except Exception as error:
            tracker = type(error).__module__.split(".")[0]
            if tracker not in self.asked and tracker != "wandb":
                raise
            raise InputError(
                f"{tracker} refused: {' '.join(str(error).split())[:300]}",
                where="trainer.report_to" + (", WANDB_API_KEY" if tracker == "wandb" else ""),
                todo="correct its settings, or turn it off with trainer.report_to = []",
            ) from error
