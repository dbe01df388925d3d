"""An objective without the engine: rows of random words, a padded batch, and the plainest loop there is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from loraplug import TokenSequence
from loraplug_train.objectives.base import Objective, Row

RATE = 1e-2


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of random words, all answers trained whole."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(3, 250) for _ in range(draw.randint(least, most))]

    rows = []
    for number in range(count):
        prompt, chosen, rejected = ids(3, 9), ids(3, 12), ids(3, 12)
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "chosen_labels": chosen, "rejected_ids": rejected,
                     "rejected_labels": rejected, "row": [f"r{number}"]})  # fmt: skip
    return rows


def labelled_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of random words, two of three wanted."""
    return [
        {"prompt_ids": row["prompt_ids"], "completion_ids": row["chosen_ids"],
         "completion_labels": row["chosen_ids"], "label": bool(number % 3), "row": row["row"]}
        for number, row in enumerate(pair_rows(count, seed))
    ]  # fmt: skip


def lora_model(folder: Path) -> Any:
    """The tiny model with adapters, always the same."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)


@define
class PlainBatch:
    """Sequences as padded rows."""

    rows: Sequence[Row]
    parts: list[TokenSequence]
    ids: Tensor
    labels: Tensor
    index: Tensor
    weights: Tensor
    metrics: dict[str, Any] = field(factory=dict)

    @classmethod
    def of(cls, objective: Objective, rows: Sequence[Row]) -> PlainBatch:
        """The sequences of some rows."""
        return cls.holding(rows, [part for row in rows for part in objective.sequences(row)])

    @classmethod
    def holding(cls, rows: Sequence[Row], parts: list[TokenSequence]) -> PlainBatch:
        """These sequences."""
        longest = max(len(part.input_ids) for part in parts)
        ids = torch.tensor([[*part.input_ids] + [0] * (longest - len(part.input_ids)) for part in parts])
        labels = torch.tensor([[*part.labels] + [-100] * (longest - len(part.labels)) for part in parts])
        factors = [[*(part.weights or [1.0] * len(part.labels))] + [0.0] * (longest - len(part.labels))
                   for part in parts]  # fmt: skip
        kept = labels[:, 1:] != -100
        return cls(rows, parts, ids, labels, kept.nonzero()[:, 0], torch.tensor(factors)[:, 1:][kept])

    @property
    def sequences(self) -> int:
        """How many."""
        return len(self.parts)

    def sums(self, values: Tensor) -> Tensor:
        """See `Batch.sums`."""
        return values.new_zeros(len(self.parts)).index_add(0, self.index, values)

    def counts(self) -> Tensor:
        """See `Batch.counts`."""
        return self.sums(torch.ones(len(self.index)))


@define
class PlainPolicy:
    """A model asked in the plainest way."""

    module: Any

    def log_probs(self, batch: PlainBatch, label_smoothing: float = 0.0) -> Tensor:
        """See `Policy.log_probs`."""
        assert not label_smoothing
        lengths = torch.tensor([len(part.input_ids) for part in batch.parts])
        mask = (torch.arange(batch.ids.shape[1])[None] < lengths[:, None]).long()
        logits = self.module(input_ids=batch.ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        labels = batch.labels[:, 1:]
        told = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        made: Tensor = told[labels != -100]
        return made

    def score(self, sequences: Sequence[TokenSequence], *, reference: bool = False) -> Tensor:
        """See `Policy.score`."""
        batch = PlainBatch.holding([], list(sequences))
        with torch.no_grad():
            return batch.sums(self.reference(batch) if reference else self.log_probs(batch))

    def reference(self, batch: PlainBatch) -> Tensor:
        """Log-probabilities by the model without its adapters."""
        with torch.no_grad(), self.module.disable_adapter():
            return self.log_probs(batch)


def plain_losses(objective: Objective, model: Any, steps: list[list[dict[str, Any]]], parts: int = 1) -> list[float]:
    """The loss of each step of a training, its rows computed in so many micro-batches."""
    policy = PlainPolicy(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    told = []
    for rows in steps:
        totals, prepared = objective.totals(rows), objective.prepare(rows, policy)
        loss = 0.0
        size = -(-len(rows) // parts)
        for start in range(0, len(rows), size):
            batch = PlainBatch.of(objective, rows[start : start + size])
            reference = policy.reference(batch) if objective.needs_reference else None
            made = objective.loss(policy, batch, totals, prepared, reference)
            made.backward()
            loss += made.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told.append(loss)
    return told
