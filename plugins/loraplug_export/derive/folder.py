"""Writes the folder of a derived adapter, verifies it with plain peft, and records its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import (
    ExportContext,
    InputError,
    LoraplugError,
    Provenance,
    Run,
    atomic_output,
    exclusive_lock,
    read_provenance,
    settle_names,
    wrap_os_errors,
    write_provenance,
)
from loraplug_export.derive.sources import Base

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig


def free_place(run: Run) -> Path:
    """`outputs/adapters/<name>`.

    Raises:
        InputError: the folder exists and was not made by these commands.
    """
    place = run.outputs / "adapters" / run.name
    if place.exists() and ((provenance := read_provenance(place)) is None or provenance.derived is None):
        raise InputError("exists already, and was not made by merge, extract or convert", where=place,
                         todo="give another --name")  # fmt: skip
    return place


def write_adapter_folder(
    run: Run,
    base: Base,
    config: LoraConfig,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    tokenizers: Sequence[Path],
) -> Path:
    """Write an adapter folder, after verifying that plain peft loads it and computes the same changes.

    Args:
        tensors: by the names that peft uses in files.
        facts: for `Provenance.derived` and the card.
        tokenizers: folders; the tokenizer is copied from the first that has one.

    Raises:
        LoraplugError: values are not finite, or peft computes other changes from the folder.
    """
    from safetensors.torch import save_file

    from loraplug_export.card import loadable_base, write_card
    from loraplug_export.derive.skeleton import skeleton
    from loraplug_export.folders import copy_licences, copy_tokenizer
    from loraplug_export.lora_files import CONFIG, WEIGHTS

    place = free_place(run)
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise LoraplugError(f"{bad[0]} has NaN or infinite values", where=place, todo="check the sources")
    with exclusive_lock(run.cache / "exports" / run.name, run.name), wrap_os_errors(place), atomic_output(place) as out:
        out.mkdir()
        result = ExportContext(run, out, base.folder, base.id)
        config.save_pretrained(str(out))
        text = json.loads((out / CONFIG).read_text(encoding="utf-8")) | {
            "base_model_name_or_path": loadable_base(result)
        }
        (out / CONFIG).write_text(json.dumps(text, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / WEIGHTS, {"format": "pt"})
        settle_names(skeleton(base.folder), out)
        prove(out, base.folder, tensors)
        write_provenance(out, Provenance(base=base.id, derived=facts))
        copy_tokenizer(tokenizers, out)
        copy_licences(base.folder, out)
        write_card(result, out, "adapter")
    return place


def prove(folder: Path, base: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the folder with peft and compare the change of every layer with `B @ A` of the tensors.

    Raises:
        LoraplugError: an adapter is missing or unexpected, or a change differs.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    from loraplug_export.derive.plain import PREFIX
    from loraplug_export.derive.skeleton import skeleton

    model = PeftModel.from_pretrained(skeleton(base), str(folder))
    layers = {name.removeprefix(PREFIX): layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    todo = "report this as a bug; the source adapters are unchanged"
    for name, layer in layers.items():
        half = next(
            (half for half in ("lora_A.weight", "lora_embedding_A") if f"{PREFIX}{name}.{half}" in tensors), None
        )
        if half is None:
            raise LoraplugError(f"peft puts an adapter on {name}, which has none", where=folder, todo=todo)
        a = tensors[f"{PREFIX}{name}.{half}"].float()
        b = tensors[f"{PREFIX}{name}.{half.replace('A', 'B')}"].float()
        turned = "embedding" in half or getattr(layer, "fan_in_fan_out", False)
        wanted = (b @ a).T if turned else b @ a
        with torch.inference_mode():
            off = float((layer.get_delta_weight("default") - wanted).abs().max())
        if not off <= 1e-5 * max(float(wanted.abs().max()), 1e-30):
            raise LoraplugError(f"the change of {name} differs in peft, by {off:.2g}", where=folder, todo=todo)
    if len(layers) * 2 != len(tensors):
        raise LoraplugError(f"peft loads {len(layers)} of {len(tensors) // 2} adapted layers", where=folder, todo=todo)
