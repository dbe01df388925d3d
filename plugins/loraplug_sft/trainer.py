"""Supervised fine-tuning of LoRA adapters on trl, peft and accelerate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, Estimate, InputError, Problem, Run, Sample, Trainer, TrainingResult, fresh_place
from loraplug_sft.lora import Lora

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig


@frozen
class Sft(Trainer):
    """LoRA supervised fine-tuning with trl and peft; QLoRA when the recipe has a quantizer."""

    name = "sft"
    epochs: Annotated[float, Doc("passes over the training rows", aka=("num_train_epochs", "num_epochs"))] = field(
        default=3.0, validator=validators.gt(0)
    )
    max_steps: Annotated[int | None, Doc("stop after so many optimizer steps, whatever epochs says")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )
    batch_size: Annotated[int, Doc("encoded rows in one optimizer step", aka=("per_device_train_batch_size",))] = field(
        default=4, validator=validators.ge(1)
    )
    micro_batch: Annotated[
        int | Literal["auto"],
        Doc("rows computed at once; the rest of a batch is accumulated. auto: 1, which pads nothing"),
    ] = field(default="auto")
    learning_rate: Annotated[float, Doc("peak learning rate of AdamW", aka=("lr",))] = field(
        default=2e-4, validator=validators.gt(0)
    )
    scheduler: Annotated[
        Literal["cosine", "linear", "constant", "constant_with_warmup"],
        Doc("course of the learning rate", aka=("lr_scheduler", "lr_scheduler_type")),
    ] = "cosine"
    warmup: Annotated[float, Doc("share of the steps in which the rate rises from 0", aka=("warmup_ratio",))] = field(
        default=0.05, validator=[validators.ge(0), validators.lt(1)]
    )
    weight_decay: Annotated[float, Doc("AdamW weight decay of the adapters")] = field(
        default=0.0, validator=validators.ge(0)
    )
    max_grad_norm: Annotated[float, Doc("gradients are clipped to this norm")] = field(
        default=1.0, validator=validators.gt(0)
    )
    gradient_checkpointing: Annotated[
        bool, Doc("recompute activations in the backward pass: less memory, a third more time")
    ] = False
    samples: Annotated[int, Doc("prompts answered before and after training, for the summary")] = field(
        default=1, validator=validators.ge(0)
    )
    lora: Annotated[Lora, Doc("the adapters")] = field(factory=Lora)

    def check(self, recipe: Any) -> Iterable[Problem]:  # noqa: ARG002
        """Options that do not go together."""
        if isinstance(self.micro_batch, int) and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            yield Problem("trainer.micro_batch", f"{self.micro_batch} does not divide batch_size {self.batch_size}")

    def estimate(self, run: Run, model: PreTrainedModel, lengths: Sequence[int]) -> Estimate:  # noqa: ARG002
        """Weights, adapters, optimizer and the longest row's activations; time from two measured steps."""
        from loraplug_sft.forecast import forecast

        epochs = self.epochs
        if self.max_steps is not None:
            epochs = self.max_steps * self.batch_size / len(lengths)
        return forecast(model, self.lora, lengths, epochs, self.gradient_checkpointing)

    def train(
        self,
        run: Run,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Dataset,
        validation: Dataset | None,
    ) -> TrainingResult:
        """Train, and leave the adapter with tokenizer in `run.folder / "adapter"`."""
        from transformers import set_seed
        from transformers.utils import logging

        from loraplug_sft import measure
        from loraplug_sft.loop import LoraTrainer, Watcher

        if not any(label != -100 for labels in train["labels"] for label in labels):
            raise InputError("no token is trained", where="trainer", todo="see `loraplug preview` for the masks")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        set_seed(run.seed)
        trainer = LoraTrainer(
            model=model,
            args=self._arguments(run, model, len(train)),
            processing_class=tokenizer,
            train_dataset=train,
            peft_config=self.lora.config(model),
        )
        probes = measure.prompts(validation or train, self.samples)
        before = measure.answers(trainer.model, tokenizer, probes)
        figures: dict[str, float] = {}
        if validation is not None:
            figures["validation_loss_before"] = measure.validation_loss(trainer, validation, run)
        watcher = Watcher(run, train)
        trainer.add_callback(watcher)
        trainer.train()
        figures |= watcher.figures()
        if validation is not None:
            figures["validation_loss_after"] = measure.validation_loss(trainer, validation, run)
        after = measure.answers(trainer.model, tokenizer, probes)
        figures["peak_memory_bytes"] = measure.peak_memory()
        watcher.write(figures)
        self._save(run, trainer, tokenizer)
        texts = [tokenizer.decode(ids) for ids in probes]
        return TrainingResult(run.folder / "adapter", figures, [*map(Sample, texts, before, after)])

    def _arguments(self, run: Run, model: PreTrainedModel, rows: int) -> SFTConfig:
        import torch
        from trl import SFTConfig

        micro = 1 if self.micro_batch == "auto" else self.micro_batch
        accumulation = max(1, self.batch_size // micro)
        steps = self.max_steps or max(1, round(self.epochs * -(-rows // self.batch_size)))
        return SFTConfig(
            output_dir=str(run.folder / "checkpoints"),
            seed=run.seed,
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.scheduler,
            warmup_steps=int(self.warmup * steps),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            activation_checkpointing=self.gradient_checkpointing,
            bf16=model.dtype == torch.bfloat16,
            use_cpu=model.device.type == "cpu",
            # rows come encoded, masked and cut to length: trl is to take them as they are
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            padding_free=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            log_level="error",
        )

    def _save(self, run: Run, trainer: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        with fresh_place(run.folder / "adapter") as out:
            trainer.model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            quantization = getattr(trainer.model.config, "quantization_config", None)
            facts = {"quantization": quantization.to_dict() if quantization is not None else None}
            facts["dtype"] = str(trainer.model.dtype).removeprefix("torch.")
            (out / "loraplug.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
