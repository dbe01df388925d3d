"""The trainer `my-part`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Encoded, InputError, LoraplugError, Placement, Run, Trainer, TrainingResult, atomic_output

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@frozen
class MyPart(Trainer):
    """LoRA in a plain PyTorch loop, one row a step: the shortest trainer there is, to start your own from."""

    name = "my-part"
    epochs: Annotated[int, Doc("passes over the training rows")] = field(default=1, validator=validators.ge(1))
    learning_rate: Annotated[float, Doc("learning rate of AdamW, constant")] = field(
        default=2e-4, validator=validators.gt(0)
    )
    rank: Annotated[int, Doc("rank of the adapters")] = field(default=8, validator=validators.ge(1))

    def train(
        self,
        run: Run,
        load_model: Callable[[Placement], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        train: Encoded | None,
        validation: Encoded | None,
    ) -> TrainingResult:
        """Train, and leave the adapter with its tokenizer in `run.folder / "adapter"`."""
        import torch
        from peft import LoraConfig, get_peft_model

        assert train is not None  # only of several processes that train together some have no rows
        rows = train.dataset
        if all(label == -100 for labels in rows["labels"] for label in labels):
            raise InputError("no token is trained", where="trainer", todo="see `loraplug preview` for the masks")
        torch.manual_seed(run.seed)
        lora = LoraConfig("CAUSAL_LM", r=self.rank, lora_alpha=2 * self.rank, target_modules="all-linear")
        adapted = get_peft_model(load_model(Placement()), lora).train()
        optimizer = torch.optim.AdamW([part for part in adapted.parameters() if part.requires_grad], self.learning_rate)
        steps, begun, loss = self.epochs * len(rows), time.perf_counter(), 0.0
        with run.progress("training", steps) as bar:
            for step in range(1, steps + 1):
                loss = self._step(adapted, optimizer, rows[(step - 1) % len(rows)])
                if loss != loss:
                    raise LoraplugError("the loss is NaN", where=f"step {step}", todo="try a smaller learning_rate")
                bar.advance(1, loss=loss)
                run.emit("metrics", step=step, epoch=step / len(rows), loss=loss)
        figures = {"train_loss": loss, "steps": float(steps), "seconds": time.perf_counter() - begun}
        if validation is not None:
            figures["validation_loss_after"] = self._measured(adapted, validation.dataset)
        with atomic_output(run.folder / "adapter") as out:
            adapted.save_pretrained(out)
            tokenizer.save_pretrained(out)
        return TrainingResult(run.folder / "adapter", figures)

    def _step(self, model: Any, optimizer: Any, row: dict[str, Any]) -> float:
        loss = self._loss(model, row)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    def _loss(self, model: Any, row: dict[str, Any]) -> Any:
        """Mean cross-entropy in nats over the trained tokens of one row."""
        import torch

        ids, labels = (torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels"))
        return model(input_ids=ids, labels=labels).loss

    def _measured(self, model: Any, rows: Dataset) -> float:
        """Mean cross-entropy in nats over the trained tokens of all rows; the first token of a row is given."""
        import torch

        model.eval()
        with torch.no_grad():
            pairs = [(float(self._loss(model, row)), sum(x != -100 for x in row["labels"][1:])) for row in rows]
        return float(sum(loss * count for loss, count in pairs if count) / max(1, sum(count for _, count in pairs)))
