"""Loss and gradients of one optimizer step: in micro-batches, over several processes, halved when out of memory."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen

from loraplug import LoraplugError, Run, TokenSequence
from loraplug_train.engine import schedule
from loraplug_train.engine.batches import MicroBatch, MicroBatchLimits, label_weights, micro_batch
from loraplug_train.engine.policy import PolicyModel
from loraplug_train.engine.rows import REFERENCE, documents
from loraplug_train.objectives.base import Objective, Row


@frozen
class StepResult:
    """Loss of a step, metrics of the objective, and the mean weight of its labels."""

    loss: float
    metrics: Mapping[str, float]
    weight: float
    rows: Sequence[str]


@define(eq=False)
class StepComputer:
    """Computes optimizer steps. Every process is given all rows of a step; gradients are summed once, at its end.

    Dropout and NEFTune are seeded for every micro-batch by seed, step and row, so checkpoints need no generator state.
    """

    run: Run
    objective: Objective
    policy: PolicyModel
    trained: Mapping[str, torch.nn.Parameter]
    pad: int = 0
    steps: int = field(default=0)  # computed so far, for tests and messages

    @property
    def limits(self) -> MicroBatchLimits:
        """The micro-batch limits, reduced when memory runs out."""
        return self.policy.limits

    def compute(self, rows: Sequence[Row], step: int) -> StepResult:
        """Forward and backward pass of step `step` + 1; gradients are left in the parameters.

        Raises:
            LoraplugError: a single row does not fit into memory, or the objective's loss is not a scalar.
        """
        names = [name for row in rows for name in row["row"]]
        where = f"trainer, step {step + 1}, rows {', '.join(names)}"
        rows = self.apart(rows)
        totals = {name: max(1.0, total) for name, total in self.objective.totals(rows).items()}
        prepared = self._prepared(rows, step, where)
        while True:
            metrics: dict[str, torch.Tensor] = {}
            loss, failed = self._accumulate(rows, step, totals, prepared, metrics)
            if not failed:
                break
            self._make_room(failed, step, where)
        values = {"loss": loss, **metrics}
        if self.policy.processes.world_size > 1:
            values = self._sum_over_processes(values)
        told = {name: float(value) for name, value in values.items()}
        self.steps += 1
        return StepResult(told.pop("loss"), told, self._mean_weight(rows), names)

    def _mean_weight(self, rows: Sequence[Row]) -> float:
        """The mean weight of the labels, 1.0 where there are no weights or no labels."""
        found = [one for row in rows for one in self.objective.sequences(row)]
        weights = label_weights(found) if any(one.weights is not None for one in found) else []
        return float(np.mean(weights)) if weights else 1.0

    def apart(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows; packed ones are split into documents if those may not be packed."""
        limits = self.limits
        if self.objective.schema != "tokens" or self.objective.needs_reference:
            return rows
        if limits.way == "end-to-end" and limits.limit is None:
            return rows
        return [part for row in rows for part in documents(row, limits)]

    def _prepared(self, rows: Sequence[Row], step: int, where: str) -> Any:
        """Call `Objective.prepare` for the step; only a single process can retry it with less memory."""
        while True:
            try:
                return self.objective.prepare(rows, self.policy)
            except Exception as error:
                if not _out_of_memory(error) or self.policy.processes.world_size > 1:
                    raise
            self._make_room(len(rows), step, where)

    def _accumulate(
        self, rows: Sequence[Row], step: int, totals: Mapping[str, float], prepared: Any, metrics: dict[str, Any]
    ) -> tuple[torch.Tensor, int]:
        """The loss over this process' rows, and 0; or the size of the micro-batch that did not fit in memory."""
        found = [self.objective.sequences(row) for row in rows]
        labels = sum(one.label_count for sequences in found for one in sequences)
        loss = torch.zeros((), device=self.policy.device)
        everyone = self._micro_batches(found)
        mine = everyone[self.policy.processes.rank]
        for taken in mine:
            self._seed(step, taken[0])
            try:
                part, batch = self._loss([rows[at] for at in taken], [found[at] for at in taken], totals, prepared)
                part = self._with_router_loss(part, batch, labels)
                part.backward()
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                return loss, len(taken)
            loss += part.detach()
            for name, value in batch.metrics.items():
                told = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
                metrics[name] = metrics[name] + told if name in metrics else told
        # sharded: make as many passes as the other processes, or they would hang; these do not count
        if self.policy.sharded:
            for _ in range(max(map(len, everyone)) - len(mine)):
                part, _ = self._loss([rows[0]], [found[0]], totals, prepared)
                (part * 0.0).backward()
        return loss, 0

    def _loss(
        self, rows: list[Row], found: list[Sequence[TokenSequence]], totals: Mapping[str, float], prepared: Any
    ) -> tuple[torch.Tensor, MicroBatch]:
        sequences = [one for part in found for one in part]
        batch = micro_batch(rows, sequences, self.limits, self.policy.device, self.pad)
        reference = None
        if self.objective.needs_reference:
            reference = torch.cat([row[REFERENCE] for row in rows]).to(self.policy.device)
        loss = self.objective.loss(self.policy, batch, totals, prepared, reference)
        self._check_result(loss, batch.metrics)
        return loss, batch

    def _check_result(self, loss: Any, metrics: Mapping[str, Any]) -> None:
        """Raise LoraplugError for what a faulty `Objective.loss` returns or leaves; torch's own words name no cause."""
        where = f"{type(self.objective).__name__}.loss"
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            todo = "return the sum over the rows, divided by the totals"
            raise LoraplugError(f"returned {shape}, not a scalar tensor", where=where, todo=todo)
        names = self.objective.metric_names
        if names is not None and set(metrics) != set(names):
            what = f"wrote the metrics {sorted(metrics)}, but metric_names is {sorted(names)}"
            raise LoraplugError(what, where=where, todo="name all metrics that it writes, and no others")

    def _with_router_loss(self, loss: torch.Tensor, batch: MicroBatch, labels: int) -> torch.Tensor:
        """Add the router loss, weighted by the micro-batch's share of the step's labels."""
        if self.policy.router is None:
            return loss
        share = sum(batch.label_counts) / max(1, labels)
        return loss + self.policy.router_loss * share * self.policy.router

    def validation_loss(
        self, rows: Sequence[Row], totals: Mapping[str, float], prepared: Any
    ) -> tuple[float, dict[str, float]]:
        """The loss of rows, divided by these totals, without gradients; and the objective's metrics."""
        found = [self.objective.sequences(row) for row in rows]
        with torch.no_grad():
            loss, batch = self._loss(list(rows), found, totals, prepared)
        return float(loss), {name: float(value) for name, value in batch.metrics.items()}

    def _micro_batches(self, found: Sequence[Sequence[TokenSequence]]) -> list[list[list[int]]]:
        """This process' row positions, grouped into micro-batches."""
        lengths, limits = [sum(len(one.input_ids) for one in sequences) for sequences in found], self.limits
        parts = []
        for share in schedule.partition_by_length(lengths, self.policy.processes.world_size):
            padded = limits.way == "padded"
            batches = schedule.micro_batches([lengths[at] for at in share], limits.max_rows, limits.max_tokens, padded)
            parts.append([[share[position] for position in batch] for batch in batches])
        return parts

    def _seed(self, step: int, row: int) -> None:
        seed = np.random.SeedSequence([self.run.seed, step, row])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))

    def _make_room(self, failed: int, step: int, where: str) -> None:
        """Halve the micro-batch; LoraplugError if it was a single row."""
        for parameter in self.trained.values():
            parameter.grad = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.policy.sharded:  # the other processes would wait for this one's shard
            raise LoraplugError(
                f"out of memory on a micro-batch of {failed} rows with sharded weights",
                where=where,
                todo="set trainer.micro_batch = 1, formatter.max_length lower, or gradient_checkpointing = true; "
                "then run with --fresh",
            )
        if not self.limits.halve(failed):
            raise LoraplugError(
                "out of memory on a single row",
                where=where,
                todo="set formatter.max_length lower, gradient_checkpointing = true, or bits = 4 in [quantizer]",
            )
        rows_at_once = f"{self.limits.max_rows} row{'s' * (self.limits.max_rows > 1)} at once"
        self.run.warn(f"out of memory at step {step + 1}; continuing with {rows_at_once}")

    def _sum_over_processes(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sum the gradients over all processes, in one all-reduce at the end of the step."""
        import torch.distributed as dist

        names = self._names(values)
        device = next(iter(self.trained.values())).device
        parts = [self._gradient(parameter).flatten() for parameter in self.trained.values()]
        scalars = torch.stack([torch.as_tensor(values.get(name, 0.0)).to(device, parts[0].dtype) for name in names])
        flat = torch.cat([scalars, *parts])
        dist.all_reduce(flat)
        at = len(names)
        for parameter in self.trained.values():
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        return dict(zip(names, flat[: len(names)].clone(), strict=True))

    def _names(self, values: Mapping[str, Any]) -> list[str]:
        """The metric names of all processes; one without rows in this step has only the loss."""
        if self.objective.metric_names is not None:
            return ["loss", *self.objective.metric_names]
        from accelerate.utils import gather_object

        return sorted({name for one in gather_object([sorted(values)]) for name in one})

    @staticmethod
    def _gradient(parameter: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _out_of_memory(error: Exception) -> bool:
    """Whether an error means out of memory, on a GPU or from the CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
