"""trl's trainer with what we hold it to: steps laid out beforehand, no padding, no step lost to a lack of memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import define
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import SFTTrainer

from loraplug import LoraplugError, Run, mixed_precision
from loraplug_train.cpu import kernel
from loraplug_train.engine import heads as head
from loraplug_train.engine import schedule as order
from loraplug_train.engine import weights
from loraplug_train.engine.batches import Collator, Row, documents
from loraplug_train.engine.checkpoints import Checkpoint
from loraplug_train.engine.separation import Way


@define
class Layout:
    """How a step is computed; nothing here changes its result.

    Attributes:
        most_rows, most_tokens: limits of a micro-batch; a single row may have more tokens.
        checkpointing: whether activations are recomputed in the backward pass.
        way: how documents are computed together, see `separation`.
        limit: tokens of a row of several documents, beyond which it is computed document by document.
    """

    most_rows: int
    most_tokens: int | None = None
    checkpointing: bool = False
    way: Way = "end-to-end"
    limit: int | None = None

    def apart(self, rows: Iterable[Row]) -> list[Row]:
        """The rows, and where documents may not lie end to end their documents, as rows that may be computed."""
        found: list[Row] = []
        for row in rows:
            too_long = self.limit is not None and len(row["input_ids"]) > self.limit
            found += documents([row]) if self.way != "end-to-end" or too_long else [row]
        return found

    def halve(self, rows: int) -> bool:
        """Take half the rows of the micro-batch that did not fit; False if it was a single one."""
        self.most_rows = min(self.most_rows, rows) // 2
        return self.most_rows > 0


class LoraTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` over steps laid out beforehand.

    A batch of its data loader is a whole optimizer step: the same rows on every process. `training_step` takes this
    process' share in micro-batches without padding, and adds up gradients and loss over the processes, so that the
    result does not depend on their number. What is drawn at random (dropout, NEFTune) is drawn anew for every
    micro-batch from seed, step and row, so that no state of a random generator needs to be kept.
    """

    def __init__(
        self, run: Run, plan: order.Order, layout: Layout, *, fast: bool, sharded: bool, **options: Any
    ) -> None:
        self.run, self.plan, self.layout, self.fast, self.sharded = run, plan, layout, fast, sharded
        self.optimizer: Any
        self.resumed: Checkpoint | None = None
        self.plus_ratio: float | None = options.pop("plus_ratio", None)
        model = options["model"]
        dtype = next(one.dtype for one in model.parameters() if one.is_floating_point() and not one.requires_grad)
        adapters = {parameter: parameter.data for parameter in model.parameters() if parameter.requires_grad}
        self.adapted_head = head.is_adapted(model)
        with head.shown_bare(model):
            super().__init__(**options)
        # no DistributedDataParallel: gradients are added up here, once a step
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.remove_callback(PrinterCallback)
        for parameter, data in adapters.items():  # trl casts those of a quantised model to bf16
            parameter.data = data
        mixed_precision(model, dtype)  # the outermost of what is wrapped around the base's forward
        self.collator = Collator(self.processing_class.pad_token_id)
        self.own_head = False
        self.step_rows: list[str] = []
        self.step_loss = 0.0
        self.step_weight = 1.0  # the mean of its trained tokens

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    # the steps

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Whole optimizer steps, from the one after `resumed` on."""
        done = self.resumed.step if self.resumed else 0
        return DataLoader(order.Rows(self.train_dataset), batch_sampler=self.plan.steps[done:], collate_fn=list)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:
        """One step; its tokens are counted in `training_step`."""
        return [next(epoch_iterator)], None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def training_step(self, model: Any, rows: list[Row], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of this process' share of the step.

        Returns:
            The loss (scalar): cross-entropy in nats times the token's weight, summed over the step and divided by the
            number of its trained tokens.

        Raises:
            LoraplugError: a single row does not fit into memory; the loss is no number.
        """
        self.step_rows = [name for row in rows for name in row["row"]]
        self.step_weight = weights.mean(rows)
        rows = self.layout.apart(rows)
        count = max(1, sum(map(trained_tokens, rows)))
        while True:
            loss, failed = self._accumulate(model, rows, count)
            if not failed:
                break
            model.zero_grad()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.sharded:  # the others wait for this process' part of the weights
                raise LoraplugError(
                    f"out of memory on {failed} rows, with weights that are shared out",
                    where=f"trainer, step {self.state.global_step + 1}, rows {', '.join(self.step_rows)}",
                    todo="set trainer.micro_batch = 1, formatter.max_length lower, or gradient_checkpointing = true; "
                    "then run with --fresh",
                )
            if not self.layout.halve(failed):
                raise LoraplugError(
                    "out of memory on a single row",
                    where=f"trainer, step {self.state.global_step + 1}, rows {', '.join(self.step_rows)}",
                    todo="set formatter.max_length lower, gradient_checkpointing = true, or bits = 4 in [quantizer]",
                )
            rows_at_once = f"{self.layout.most_rows} row{'s' * (self.layout.most_rows > 1)} at once"
            self.run.warn(f"out of memory at step {self.state.global_step + 1}; going on with {rows_at_once}")
        if self.args.world_size > 1:
            loss = self._sum_over_processes(loss)
        self.step_loss = float(loss)
        return loss

    def _accumulate(self, model: Any, rows: list[Row], count: int) -> tuple[torch.Tensor, int]:
        """The loss over this process' rows, and 0; or the size of the micro-batch that did not fit in memory."""
        loss = torch.zeros((), device=self.args.device)
        everyone = self._micro_batches(rows)
        mine = everyone[self.args.process_index]
        for taken in mine:
            seed = np.random.SeedSequence([self.args.seed, self.state.global_step, taken[0]])
            torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
            inputs = self.collate([rows[at] for at in taken])
            try:
                loss += super().training_step(model, inputs, torch.tensor(count))
            except (torch.OutOfMemoryError, MemoryError):
                return loss, len(taken)
            except RuntimeError as error:
                if "allocate memory" not in str(error):  # the CPU allocator's own words
                    raise
                return loss, len(taken)
        if self.sharded:  # as many passes as the others, or they wait for weights; a sum divided by infinity adds 0
            for _ in range(max(map(len, everyone)) - len(mine)):
                super().training_step(model, self.collate([rows[0]]), torch.tensor(math.inf))
        return loss, 0

    def _micro_batches(self, rows: list[Row]) -> list[list[list[int]]]:
        """The positions in `rows` that each process computes, by what it computes at once."""
        lengths, layout = [len(row["input_ids"]) for row in rows], self.layout
        parts = []
        for share in order.shares(lengths, self.args.world_size):
            batches = order.micro_batches(
                [lengths[at] for at in share], layout.most_rows, layout.most_tokens, layout.way == "padded"
            )
            parts.append([[share[position] for position in batch] for batch in batches])
        return parts

    def collate(self, rows: list[Row]) -> dict[str, Any]:
        """Rows of `Layout.apart` as one batch."""
        return self.collator(rows, padded=self.layout.way == "padded")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy in nats times weight, summed over the trained tokens and divided by `num_items_in_batch`."""
        # trl counts accuracy and entropy over all processes here, which must then have equally many micro-batches
        if self.fast:
            return kernel.label_loss(self.model, inputs, num_items_in_batch)
        factors = inputs.get(weights.COLUMN)
        labels = inputs["labels"]
        given = {name: value for name, value in inputs.items() if name not in (weights.COLUMN, "labels")}
        router = self.router_aux_loss_coef if self.aux_loss_enabled and self.model.training else 0.0
        given |= {"output_router_logits": True} if router else {}
        if self.own_head:
            out, found = head.own(self.model, given, labels, sparing=self.adapted_head)
        else:
            out = self.model(**given, labels=labels, use_cache=False, fused_lm_head=True)
            found = out.log_probs  # (rows, tokens - 1), 0 where untrained
        loss = -(found if factors is None else found * factors[:, 1:]).sum() / num_items_in_batch
        # each micro-batch balances by its share of the step's trained tokens
        share = (labels[:, 1:] != -100).sum() / num_items_in_batch if router else 0.0
        return loss + router * share * out.aux_loss if router else loss

    def choose_head(self) -> str:
        """Take the model's own logits where trl's head over its last hidden state is not the model's; says why."""
        adapted = "the output layer is adapted itself" if self.adapted_head else ""
        why = adapted or head.differs(self.model, router=self.aux_loss_enabled)
        self.own_head = bool(why)
        return why

    def _sum_over_processes(self, loss: torch.Tensor) -> torch.Tensor:
        """Adapters are small: their gradients go in one piece, at the end of the step, whatever each process did."""
        import torch.distributed as dist

        parts = [self._gradient(parameter).flatten() for parameter in self.trained.values()]
        flat = torch.cat([loss.reshape(1).to(parts[0].dtype), *parts])
        dist.all_reduce(flat)
        at = 1
        for parameter in self.trained.values():
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        return flat[0].clone()

    @staticmethod
    def _gradient(parameter: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    # the state

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; with `plus_ratio` B has a learning rate so many times A's (LoRA+, Hayou et al. 2024)."""
        if self.optimizer is None and self.plus_ratio is not None:
            from peft.optimizers import create_loraplus_optimizer

            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                kind,
                loraplus_lr_ratio=self.plus_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **options,
            )
        return super().create_optimizer(model)

    def checkpoint(self, facts: dict[str, Any]) -> Checkpoint:
        """Adapters, optimizer and schedule as they are."""
        tensors = {f"adapter/{name}": parameter for name, parameter in self.trained.items()}
        values: dict[str, Any] = {}
        state = self.optimizer.state_dict()
        for name, value in _flat(state["state"], "optimizer"):
            (tensors if torch.is_tensor(value) else values)[name] = value
        groups = [{**group, "params": list(group["params"])} for group in state["param_groups"]]
        schedule = {"last_epoch": self.lr_scheduler.last_epoch, "rates": self.lr_scheduler.get_last_lr()}
        ours = {"optimizer": values, "groups": groups, "schedule": schedule, "rows_at_once": self.layout.most_rows}
        return Checkpoint(self.state.global_step, tensors, {**facts, **ours})

    def _init_training_state(self, *args: Any, **options: Any) -> tuple[int, int]:
        begun: tuple[int, int] = super()._init_training_state(*args, **options)
        self.state.global_step = self.resumed.step if self.resumed else 0
        return begun

    def _prepare_for_training(self, *args: Any, **options: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **options)
        if self.resumed:
            self._restore(self.resumed)
        return prepared

    def restore_adapters(self, kept: Checkpoint) -> None:
        """Put a checkpoint's adapters into the model."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(kept.tensors[f"adapter/{name}"])

    def _restore(self, kept: Checkpoint) -> None:
        self.restore_adapters(kept)
        state: dict[Any, Any] = {}
        for name, value in [*kept.tensors.items(), *kept.facts["optimizer"].items()]:
            at, (kind, *path, last) = state, name.split("/")
            if kind == "optimizer":
                for key in path:
                    at = at.setdefault(int(key) if at is state else key, {})
                at[last] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": kept.facts["groups"]})
        schedule = kept.facts["schedule"]
        last = schedule["last_epoch"]
        self.lr_scheduler.load_state_dict(
            {
                **self.lr_scheduler.state_dict(),
                "last_epoch": last,
                "_step_count": last + 1,
                "_last_lr": schedule["rates"],
            }
        )
        self.layout.most_rows = kept.facts["rows_at_once"]


def _flat(table: dict[Any, Any], name: str) -> Iterator[tuple[str, Any]]:
    """The values of nested tables with their paths, `optimizer/0/exp_avg`."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}/{key}")
        else:
            yield f"{name}/{key}", value


def trained_tokens(row: Row) -> int:
    """How many tokens of a row have a label and something before them; a document's first token has nothing."""
    starts = np.cumsum([0, *(row.get("seq_lengths") or [])[:-1]])
    labels = np.array(row["labels"])
    labels[starts] = -100
    return int((labels != -100).sum())
