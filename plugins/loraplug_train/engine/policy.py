"""The model in training as objectives use it: log-probabilities, computed in the fastest way that is correct for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor

from loraplug import Distributed, TokenSequence
from loraplug_train.cpu import kernel
from loraplug_train.engine import heads, schedule
from loraplug_train.engine.batches import MicroBatchLimits, Piece, groups, piece
from loraplug_train.engine.separation import Separation, separation

_CHUNK = 2048  # tokens scored at once without gradients, at most (a longer sequence alone)


@define(eq=False)
class PolicyModel:
    """See `objectives.base.Policy`.

    Attributes:
        module: the model with what is trained in it.
        limits: how sequences may be computed together.
        fast: whether the fast path is installed (`cpu.kernel`).
        own_head: whether log-probabilities are computed from the model's own logits, not by trl's chunked head.
        labelled_only: whether those logits are computed only where there is a label.
        reference: the frozen model to compare with; None: `module` without its adapters.
        reference_own_head: as `own_head`, of `reference`.
        trained: the parameters of `module` that are trained.
        start: their values before the first step, if training starts from an adapter that the reference has too. None:
            the reference has no adapters.
        router_loss: coefficient of the loss that balances the experts of a mixture; 0: none.
        router: that loss in the last call in training; None if there is none.
    """

    module: Any
    limits: MicroBatchLimits
    processes: Distributed
    fast: bool = False
    own_head: bool = False
    labelled_only: bool = False
    sharded: bool = False
    reference: Any = None
    reference_own_head: bool = False
    trained: Mapping[str, torch.nn.Parameter] = field(factory=dict)
    start: Mapping[str, Tensor] | None = None
    router_loss: float = 0.0
    router: Tensor | None = None
    _apart: dict[int, Separation] = field(init=False, factory=dict)

    @property
    def device(self) -> Any:
        """The device of the inputs; sharded weights are moved to this process' GPU by their wrapper."""
        if self.sharded and torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return self.module.device

    def log_probs(self, batch: Any, label_smoothing: float = 0.0) -> Tensor:
        """See `Policy`."""
        self.router = None
        found = [self._of_piece(self.module, one, label_smoothing) for one in batch.pieces]
        return found[0] if len(found) == 1 else torch.cat(found)

    def choose_head(self) -> str:
        """Use the model's own logits where trl's chunked head would be wrong; returns the reason, or ""."""
        if self.fast:
            return ""
        adapted = "the output layer has an adapter" if heads.is_adapted(self.module) else ""
        why = adapted or heads.differs(self.module, router=bool(self.router_loss))
        self.own_head, self.labelled_only = bool(why), bool(adapted)
        return why

    def _of_piece(self, module: Any, one: Piece, smoothing: float, adapters: bool = True) -> Tensor:
        """Log-probabilities of a piece's labels, float32 of shape (labels,)."""
        if self.fast and module is self.module:
            return kernel.log_probs(module, {**one.inputs, "labels": one.labels}, smoothing, adapters=adapters)
        asked = self._router_asked(module)
        if smoothing or (self.own_head if module is self.module else self.reference_own_head):
            out, found = heads.own(
                module, {**one.inputs, **asked}, one.labels, labelled_only=self.labelled_only, smoothing=smoothing
            )
        else:
            out = module(**one.inputs, **asked, labels=one.labels, use_cache=False, fused_lm_head=True)
            found = out.log_probs  # (rows, tokens - 1), 0 where untrained
        self._add_router(out, asked)
        return found[one.kept.to(found.device)].float()

    def _router_asked(self, module: Any) -> dict[str, bool]:
        return {"output_router_logits": True} if self.router_loss and module.training else {}

    def _add_router(self, out: Any, asked: Any) -> None:
        if asked:
            self.router = out.aux_loss if self.router is None else self.router + out.aux_loss

    def distributions(self, batch: Any, *, reference: bool = False) -> Tensor:
        """See `Policy`; by the plain path, whichever `log_probs` takes."""
        if reference:
            with self._asked(reference, plain=True) as (module, _):
                return self._distributions(module, batch)
        self.router = None
        return self._distributions(self.module, batch)

    def _distributions(self, module: Any, batch: Any) -> Tensor:
        asked, found = self._router_asked(module), []
        for one in self._pieces(module, batch):
            out = module(**one.inputs, **asked, use_cache=False)
            self._add_router(out, asked)
            kept = one.kept.to(out.logits.device)
            found.append(torch.log_softmax(out.logits[:, :-1][kept].float(), -1))
        return torch.cat(found).to(batch.device)

    def _pieces(self, module: Any, batch: Any) -> Sequence[Piece]:
        """The batch as the plain path of this model keeps its sequences apart."""
        if len(batch.found) == 1 or (module is self.module and not self.fast):
            return batch.pieces  # type: ignore[no-any-return]
        if id(module) not in self._apart:
            self._apart[id(module)] = separation(module)
        apart = self._apart[id(module)]
        together = evolve(self.limits, way=apart.way, limit=apart.limit)
        return [piece(group, apart.way, module.device) for group in groups(batch.found, together)]

    # without gradients

    def score(self, sequences: Sequence[TokenSequence], *, reference: bool = False) -> Tensor:
        """See `Policy`."""
        sums = [float(one.sum()) for one in self.scored(sequences, reference=reference)]
        return torch.tensor(sums, dtype=torch.float32, device=self.device)

    def scored(self, sequences: Sequence[TokenSequence], *, reference: bool = False) -> list[Tensor]:
        """Log-probabilities of each sequence's labels, float32 of shape (labels,), on the CPU.

        On every process alike: each computes its share. Dropout is off.
        """
        lengths = [len(one.input_ids) for one in sequences]
        shares = schedule.partition_by_length(lengths, self.processes.world_size)
        together = evolve(self.limits, way="one-by-one") if self.sharded else self.limits
        most = max((len(share) for share in shares), default=0)
        mine = shares[self.processes.rank]
        found: dict[int, Tensor] = {}
        with self._asked(reference) as (module, adapters):
            if self.sharded:  # calls are collective: as many on every process
                for at in range(most):
                    one = [sequences[mine[at] if at < len(mine) else 0]]
                    made = self._of_piece(module, piece(one, "one-by-one", self.device), 0.0, adapters).cpu()
                    found |= {mine[at]: made} if at < len(mine) else {}
            else:
                for positions in _chunks(mine, lengths, together):
                    rest = iter(positions)
                    for group in groups([sequences[at] for at in positions], together):
                        made = self._of_piece(module, piece(group, together.way, self.device), 0.0, adapters).cpu()
                        counts = [one.label_count for one in group]
                        found |= {next(rest): part for part in made.split(counts)}
        return self._everywhere(found, [one.label_count for one in sequences])

    def _everywhere(self, found: dict[int, Tensor], counts: Sequence[int]) -> list[Tensor]:
        if self.processes.world_size == 1:
            return [found[at] for at in range(len(counts))]
        import torch.distributed as dist

        flat = torch.zeros(sum(counts), device=self.device)
        parts = flat.split(list(counts))
        for at, values in found.items():
            parts[at].copy_(values)
        dist.all_reduce(flat)
        return [part.clone() for part in flat.cpu().split(list(counts))]

    @contextmanager
    def _asked(self, reference: bool, plain: bool = False) -> Iterator[tuple[Any, bool]]:
        """The policy or the reference, in evaluation mode and without gradients, as a context; yields whether adapters
        are on.
        """
        module = self.reference if reference and self.reference is not None else self.module
        as_it_was = reference and self.reference is None and self.start is not None
        bare = reference and self.reference is None and not as_it_was
        off = module.disable_adapter() if bare and (plain or not self.fast) else nullcontext()
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), off, self._at_start() if as_it_was else nullcontext():
                yield module, not bare
        finally:
            module.train(training)

    def keep_start(self) -> None:
        """Remember the trained values as they are now as those of the reference."""
        self.start = {name: value.detach().clone() for name, value in self.trained.items()}

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        """The trained values as they were before the first step."""
        now = {name: value.detach().clone() for name, value in self.trained.items()}
        try:
            self._take(self.start or {})
            yield
        finally:
            self._take(now)

    def _take(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.trained[name].copy_(value)


def _chunks(positions: Sequence[int], lengths: Sequence[int], limits: MicroBatchLimits) -> list[list[int]]:
    most = limits.max_rows if limits.way != "one-by-one" else 1
    mine = [lengths[at] for at in positions]
    batches = schedule.micro_batches(mine, most, limits.max_tokens or _CHUNK, limits.way == "padded")
    return [[positions[at] for at in batch] for batch in batches]
