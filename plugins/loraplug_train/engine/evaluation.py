"""The loss of validation rows, and answers to their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field

from loraplug import IGNORED, Encoded, InputError, Run, token_sequences
from loraplug_train.engine.rows import StepRows
from loraplug_train.engine.step import StepComputer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from loraplug_train.engine.policy import PolicyModel

_ANSWER_TOKENS = 96
_PROMPT_TOKENS = 1024


@define(eq=False)
class Validation:
    """Validation rows; with several sets, the loss of each set is reported too.

    Attributes:
        size: rows for which `Objective.prepare` is called at once, as for a step.
        totals: what the sums of each set are divided by (see `Objective.totals`).
    """

    run: Run
    computer: StepComputer
    rows: StepRows
    size: int
    totals: dict[str, dict[str, float]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        for row in self.rows:
            _add(self.totals.setdefault(row.get("set") or "", {}), self.computer.objective.totals([row]))

    def losses(self) -> dict[str, float]:
        """`validation_loss` and the objective's metrics (`validation_NAME`), over all rows.

        With a column `set` also `validation_loss/SET` of each. For `sft` that is the mean cross-entropy in nats over
        every trained token, not the mean of rows' means. Collective.

        Raises:
            InputError: nothing in these rows is trained.
        """
        import torch

        policy = self.computer.policy
        whole: dict[str, float] = {}
        for own in self.totals.values():
            _add(whole, own)
        if not any(whole.values()):
            raise InputError(
                "no token of the validation rows is trained", where="validation", todo="use other validation rows"
            )
        sums: dict[str, float] = {}
        training = policy.module.training
        policy.module.eval()
        with self.run.progress("validation", len(self.rows)) as bar:
            for label, value, count in self._contributions(whole):
                sums[label] = sums.get(label, 0.0) + value
                bar.advance(count)
        policy.module.train(training)
        if policy.processes.world_size > 1:
            import torch.distributed as dist

            labels = self._labels(sums)
            flat = torch.tensor([sums.get(label, 0.0) for label in labels], dtype=torch.float64, device=policy.device)
            dist.all_reduce(flat)
            sums = dict(zip(labels, flat.tolist(), strict=True))
        return sums

    def _contributions(self, whole: Mapping[str, float]) -> Iterator[tuple[str, float, int]]:
        """This process' part of the sums, by name, and the number of rows in it."""
        computer, processes = self.computer, self.computer.policy.processes
        for start in range(0, len(self.rows), self.size):
            chunk = self.rows.take(range(start, min(start + self.size, len(self.rows))))
            prepared = computer.objective.prepare(chunk, computer.policy)
            for at in range(processes.rank, -(-len(chunk) // processes.world_size) * processes.world_size,
                            processes.world_size):  # fmt: skip
                if at >= len(chunk):
                    if computer.policy.sharded:  # calls are collective
                        computer.validation_loss(computer.apart([chunk[0]]), dict(whole), prepared)
                    continue
                yield from self._of_row(chunk[at], whole, prepared)
                yield "validation_loss", 0.0, max(0, min(processes.world_size, len(chunk) - at))

    def _of_row(self, row: Any, whole: Mapping[str, float], prepared: Any) -> Iterator[tuple[str, float, int]]:
        computer, name = self.computer, row.get("set") or ""
        totals = {key: max(1.0, total) for key, total in whole.items()}
        loss, metrics = 0.0, dict[str, float]()
        for part in computer.apart([row]):
            value, told = computer.validation_loss([part], totals, prepared)
            loss += value
            _add(metrics, told)
        yield "validation_loss", loss, 0
        for key, value in metrics.items():
            yield f"validation_{key}", value, 0
        if name:
            yield f"validation_loss/{name}", self._in_set(row, name, loss, totals, prepared), 0

    def _in_set(self, row: Any, name: str, loss: float, totals: Mapping[str, float], prepared: Any) -> float:
        """The loss of a row, as its contribution to that of its set."""
        own = {key: max(1.0, total) for key, total in self.totals[name].items()}
        if len(own) == 1:
            (key,) = own
            return loss * totals[key] / own[key]
        return sum(self.computer.validation_loss([part], own, prepared)[0] for part in self.computer.apart([row]))

    def _labels(self, sums: Mapping[str, float]) -> list[str]:
        """The names of all sums on any process."""
        from accelerate.utils import gather_object

        return sorted({label for one in gather_object([sorted(sums)]) for label in one})


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def prompts(encoded: Encoded, count: int) -> list[list[int]]:
    """The token ids in front of the first trained token, of the first `count` rows whose prompt is not too long."""
    found: list[list[int]] = []
    for row in StepRows(encoded.dataset):
        if len(found) == count:
            break
        one = token_sequences(encoded.schema, row)[0]
        first = next((at for at, label in enumerate(one.labels) if label != IGNORED), 0)
        if 0 < first <= _PROMPT_TOKENS:
            found.append(list(one.input_ids[:first]))
    return found


def answers(policy: PolicyModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Greedy completions of prompts (token ids), as text."""
    import torch

    texts, model = [], policy.module
    was_training = model.training
    model.eval()
    for ids in prompts:
        given = torch.tensor([ids], device=policy.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=_ANSWER_TOKENS,
                do_sample=False,
                synced_gpus=policy.sharded,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    model.train(was_training)
    return texts
