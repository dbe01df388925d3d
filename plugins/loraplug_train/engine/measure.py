"""What is measured before and after training: validation loss, answers, memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loraplug import InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_train.engine.loop import LoraTrainer

_ANSWER_TOKENS = 96
_PROMPT_TOKENS = 1024


def validation_losses(trainer: LoraTrainer, rows: Dataset, run: Run) -> dict[str, float]:
    """`validation_loss`: mean cross-entropy in nats over every trained token of `rows` (not the mean of rows' means).

    Where rows are of several sets (a column `set`) also `validation_loss/NAME` of each.
    """
    import torch
    import torch.distributed as dist

    from loraplug_train import compat
    from loraplug_train.engine.loop import trained_tokens

    names = list(dict.fromkeys(rows["set"])) if "set" in rows.column_names else []
    sums = torch.zeros(1 + len(names), 2, dtype=torch.float64)  # nats, tokens; of all, and of each set
    model, rank, world = trainer.model, trainer.args.process_index, trainer.args.world_size
    was_training = model.training
    model.eval()
    rows = rows if trainer.layout.way == "end-to-end" and trainer.layout.limit is None else trainer.layout.apart(rows)
    with torch.no_grad(), run.progress("validation", len(rows)) as bar:
        for at in range(rank, math.ceil(len(rows) / world) * world, world):
            mine = at < len(rows)
            if not mine and not trainer.sharded:
                break
            row = rows[at if mine else 0]  # with shards every process computes equally often
            batch = compat.on_device(trainer, trainer.collate([row]))
            with trainer.compute_loss_context_manager():
                nats = float(trainer.compute_loss(model, batch, num_items_in_batch=1))
            for part in (0, 1 + names.index(row["set"])) if names else (0,):
                sums[part] += torch.tensor([nats, trained_tokens(row)]) * mine
            bar.advance(max(0, min(world, len(rows) - at)), loss=float(sums[0, 0] / sums[0, 1].clamp(min=1)))
    model.train(was_training)
    if world > 1:
        sums = sums.to(trainer.args.device)
        dist.all_reduce(sums)
    if sums[0, 1] == 0:
        raise InputError("no token of the validation rows is trained", where="validation", todo="hold out other rows")
    labels = ["validation_loss", *(f"validation_loss/{name}" for name in names)]
    return {label: float(nats / tokens) for label, (nats, tokens) in zip(labels, sums, strict=True) if tokens}


def validation_loss(trainer: LoraTrainer, rows: Dataset, run: Run) -> float:
    """The loss of all rows together, as `validation_losses` has it."""
    return validation_losses(trainer, rows, run)["validation_loss"]


def prompts(rows: Dataset, count: int) -> list[list[int]]:
    """The token ids in front of the first trained token, of the first `count` rows whose prompt is not too long."""
    found: list[list[int]] = []
    for row in rows:
        if len(found) == count:
            break
        length = (row.get("seq_lengths") or [len(row["labels"])])[0]
        first = next((at for at, label in enumerate(row["labels"][:length]) if label != -100), 0)
        if 0 < first <= _PROMPT_TOKENS:
            found.append(row["input_ids"][:first])
    return found


def answers(trainer: LoraTrainer, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Greedy answers, as text."""
    import torch

    texts, model = [], trainer.model
    was_training = model.training
    model.eval()
    for ids in prompts:
        given = torch.tensor([ids], device=model.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=_ANSWER_TOKENS,
                do_sample=False,
                synced_gpus=trainer.sharded,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    model.train(was_training)
    return texts


def forget_peak() -> None:
    """Have `peak_memory` begin anew, where the system lets it: on a GPU, and on Linux."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # https://docs.kernel.org/filesystems/proc.html
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float:
    """The most memory (bytes) this process held: on the GPU where it trained there, else resident."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    with suppress(OSError):  # `ru_maxrss` would be that of the parent where a large process started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def resident_memory() -> float:
    """The memory (bytes) this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def used_memory() -> float:
    """The memory (bytes) this process holds now: on the GPU where it trains there, else resident."""
    import torch

    return float(torch.cuda.memory_reserved()) if torch.cuda.is_available() else resident_memory()


def total_memory() -> float:
    """The memory (bytes) there is to train in: the GPU's, else what the machine has available now."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    return float(psutil.virtual_memory().available)


def free_memory() -> float:
    """The memory (bytes) that may still be taken: of the GPU, else of the machine, a container's or process' limit."""
    import psutil
    import torch

    if torch.cuda.is_available():
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float(torch.cuda.mem_get_info()[0] + unused)
    free = [float(psutil.virtual_memory().available)]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free.append(float(most) - float(used.read_text(encoding="ascii")))
    if sys.platform != "win32":
        import resource

        most_addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most_addresses != resource.RLIM_INFINITY:
            free.append(float(most_addresses - psutil.Process().memory_info().vms))
    return max(0.0, min(free))
