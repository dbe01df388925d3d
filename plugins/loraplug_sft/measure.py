"""What is measured before and after training: validation loss, answers, memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_ANSWER_TOKENS = 96
_PROMPT_TOKENS = 1024


def validation_loss(trainer: Any, rows: Dataset, run: Run) -> float:
    """Mean cross-entropy in nats over every trained token of `rows` (not the mean of rows' means)."""
    import torch

    total, count = 0.0, 0
    model = trainer.model
    was_training = model.training
    model.eval()
    with torch.no_grad(), run.progress("validation", len(rows)) as bar:
        for row in rows:
            batch = trainer._prepare_inputs(trainer.data_collator([row]))
            tokens = int((batch["labels"][:, 1:] != -100).sum())
            total += float(trainer.compute_loss(model, batch)) * tokens
            count += tokens
            bar.advance(1, loss=total / max(count, 1))
    model.train(was_training)
    if count == 0:
        raise InputError("no token of the validation rows is trained", where="validation", todo="hold out other rows")
    return total / count


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


def answers(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Greedy answers, as text."""
    import torch

    texts = []
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
                pad_token_id=tokenizer.pad_token_id,
            )
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    model.train(was_training)
    return texts


def peak_memory() -> float:
    """The most memory (bytes) this process held: on the GPU where it trained there, else resident."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def resident_memory() -> float:
    """The memory (bytes) this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def total_memory() -> float:
    """The memory (bytes) there is to train in: the GPU's, else what the machine has available now."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    return float(psutil.virtual_memory().available)
