"""The proof of a merge that peft made: real rows go through base + adapter as peft runs them, in fp32, and every module
on their way is run a second time with the weights that the merged files hold.

One model is in memory, and of the merged one the weights of one module at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import Run
from loraplug_export.plan import stored_name
from loraplug_export.tensors import Checkpoint, Tensor, open_checkpoint
from loraplug_export.verify import Proof, Worst, holding

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def verify_with_peft(model: PeftModel, merged: Path, rows: Sequence[Sequence[int]], run: Run) -> Proof:
    """Prove the merged folder against `model`, base + adapter unmerged and in fp32, on rows of token ids.

    Modules whose weights are stored in another form than they are held in (experts, say) cannot be compared; they are
    counted and told of.

    Raises:
        LoraplugError: a module differs by more than its stored type allows.
    """
    import torch

    files, base = open_checkpoint(merged), model.get_base_model()
    worst, seen, unseen = Worst(), set[str](), list[str]()
    watched = []
    for name, module, bare in _units(base):
        stored = _stored(name, bare, base, files)
        if stored is None:
            unseen.append(name)
        else:
            _watch(name, module, bare, stored, worst, seen)
            watched.append(module)
    with run.progress("proving the merge", len(rows)) as bar, torch.inference_mode():
        for row in rows:
            model(input_ids=torch.tensor([list(row)]), use_cache=False)
            bar.advance()
    for module in watched:
        del module.forward
    worst.layers = len(seen)
    if unseen:
        run.warn(
            f"merged: {len(unseen)} modules are stored in another form than they are held in, and are proved by the "
            f"logits alone: {', '.join(unseen[:3])}{' …' if len(unseen) > 3 else ''}"
        )
    return worst.judged(sum(map(len, rows)), merged, run)


def _units(model: torch.nn.Module, name: str = "") -> Iterator[tuple[str, torch.nn.Module, torch.nn.Module]]:
    """Name, module, and the module without adapters, of all that peft has wrapped and all others that hold weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(model, BaseTunerLayer):
        yield name, model, model.get_base_layer()
        return
    if isinstance(model, AuxiliaryTrainingWrapper):
        yield name, model, model.original_module
        return
    if any(True for _ in model.parameters(recurse=False)):
        yield name, model, model
    for child, module in model.named_children():
        yield from _units(module, f"{name}.{child}" if name else child)


def _stored(name: str, bare: torch.nn.Module, base: Any, files: Checkpoint) -> dict[str, Tensor] | None:
    """Where the values of a module's parameters lie in the merged files; None unless all do."""
    tied: Mapping[str, str] = getattr(base, "all_tied_weights_keys", None) or {}
    found: dict[str, Tensor] = {}
    for key, parameter in bare.named_parameters():
        full = f"{name}.{key}"
        place = stored_name(full, base, files) or stored_name(tied.get(full, full), base, files)
        if place is None or files.tensors[place].shape != tuple(parameter.shape):
            return None
        found[key] = files.tensors[place]
    return found


def _watch(
    name: str,
    module: torch.nn.Module,
    bare: torch.nn.Module,
    stored: Mapping[str, Tensor],
    worst: Worst,
    seen: set[str],
) -> None:
    forward = module.forward

    def both(*args: Any, **kwargs: Any) -> Any:
        wanted = forward(*args, **kwargs)
        with ExitStack() as stack:
            for inner, part in bare.named_modules():
                values = {key: tensor for key, tensor in stored.items() if key.rpartition(".")[0] == inner}
                held = {key.rpartition(".")[2]: tensor.read().float() for key, tensor in values.items()}
                stack.enter_context(holding(part, held))
            got = forward(*args, **kwargs) if bare is module else bare(*args, **kwargs)
            worst.take(name, bare, next(iter(stored.values())).dtype, args, wanted, got)
        seen.add(name)
        return wanted

    module.forward = both
