"""EVA: A begins as the directions in which a layer's inputs vary most over the rows (Paischer et al. 2024).

Ranks go where there is more to explain, up to twice `r` and down to none, within the same sum. Peft computes it, on one
process and once: a run that goes on, and other processes, take what is kept beside the checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from loraplug import InputError, Run, TokenSequence, atomic_output
from loraplug_train.engine.batches import piece

if TYPE_CHECKING:
    from loraplug_train.adapters.lora import Lora

_MOST_ROWS = 512
_LABELS = 1000  # of a batch: with few, the directions take long to stay what they are
_MOST_CALLS = 2000  # of the model, until all directions stay what they are


def begin_with_eva(run: Run, lora: Lora, adapted: Any, sequences: Iterable[TokenSequence]) -> None:
    """Give new adapters with `init_lora_weights="eva"` their ranks and first values, in place; collective.

    Raises:
        InputError: there are too few trained tokens for so many directions, or peft cannot find them.
    """
    from peft import initialize_lora_eva_weights
    from safetensors.torch import load_file, save_file

    place = run.folder / "checkpoints" / "eva.safetensors"
    state: dict[str, Any] = {}
    if run.distributed.leads:
        state = load_file(place) if place.is_file() else _computed(lora, adapted, sequences)
    state = run.distributed.broadcast(state)
    if run.distributed.leads and not place.is_file():
        with atomic_output(place) as out:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_file(state, out)
    config = adapted.peft_config["default"]
    named = set(config.target_modules or ())
    without = {name.removeprefix("base_model.model.") for name, value in state.items() if not len(value)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        initialize_lora_eva_weights(adapted, eva_state_dict=dict(state))
    config.target_modules = named - without  # peft shortens names until they might mean other layers
    for weight in adapted.parameters():
        if weight.requires_grad:  # layers of another rank were made anew, in the base's number format
            weight.data = weight.data.float()
    ranks = sorted({len(value) for value in state.values()})
    run.say(f"EVA: ranks from {ranks[0]} to {ranks[-1]} on {len(state)} layers, {len(without)} of them without adapter")


def _computed(lora: Lora, adapted: Any, sequences: Iterable[TokenSequence]) -> dict[str, Any]:
    """Layer to directions, float32 of shape (rank, inputs)."""
    from peft import get_eva_state_dict

    where = f"{lora.table}.init_lora_weights"
    rho = adapted.peft_config["default"].eva_config.rho
    least = round(max([lora.r, *lora.rank_pattern.values()]) * rho)
    batches = list(_batches(sequences, least, adapted.device))
    if not batches:
        what = f'"eva" finds {least} directions in the inputs of trained tokens, and the rows have fewer of these'
        raise InputError(what, where=where, todo='set a lower r, or take "default"')
    calls = 0

    def forward(model: Any, inputs: Mapping[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls > _MOST_CALLS:
            todo = 'take "default", or other rows'
            raise InputError(f'the directions of "eva" still change after {_MOST_CALLS} calls', where=where, todo=todo)
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)

    try:
        found = get_eva_state_dict(
            adapted, batches, forward_fn=forward, gather_distributed_inputs=False, show_progress_bar=False
        )
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(
            f'"eva" cannot be computed ({text})', where=where, todo='set a lower r, or take "default"'
        ) from error
    return {name: value.detach().float().cpu().clone().contiguous() for name, value in found.items()}


def _batches(sequences: Iterable[TokenSequence], least: int, device: Any) -> Iterator[dict[str, Any]]:
    """Padded rows, in their order, with some 1,000 labels each; what is left at the end goes with the last.

    Args:
        least: labels that each must have; there is none where all rows together have fewer.
    """
    groups: list[list[TokenSequence]] = [[]]
    for one in islice(sequences, _MOST_ROWS):
        if _labels(groups[-1]) >= max(least, _LABELS):
            groups.append([])
        groups[-1].append(one)
    if len(groups) > 1 and _labels(groups[-1]) < least:
        groups[-2] += groups.pop()
    for group in groups:
        if _labels(group) >= least:
            made = piece(group, "padded", device)
            yield {**made.inputs, "labels": made.labels}


def _labels(group: list[TokenSequence]) -> int:
    return sum(one.label_count for one in group)
