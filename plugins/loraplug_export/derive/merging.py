"""Several adapters of one base made into one, by peft's `add_weighted_adapter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, frozen

from loraplug import InputError, names_as_saved
from loraplug_export.derive.low_rank import Errors, product_norm
from loraplug_export.derive.plain import PREFIX
from loraplug_export.derive.sources import Base, Source
from loraplug_export.edits import LowRank
from loraplug_export.lora_files import WEIGHTS, read_edits
from loraplug_export.plan import by_model_names
from loraplug_export.tensors import Tensor, open_checkpoint, same_values, stored_name

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel

Method = Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd", "cat"]
MERGED = "merged_adapter"
SAME_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods that work on A and B themselves, so that all must have one rank."""
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods that keep a share of the values, `density`."""


@frozen
class Mix:
    """How adapters are merged.

    Attributes:
        weights: one for each adapter.
        density: share of values that pruning methods keep, in (0, 1]; None for the others.
        rank: of the result, for `svd`; the largest of the sources' where None.
        seed: of what `dare_*` drop.
    """

    method: Method
    weights: tuple[float, ...]
    density: float | None
    rank: int | None
    seed: int


@frozen(eq=False)
class Merged:
    """The new adapter, and how far each layer is from the weighted sum of the sources' changes."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    errors: Errors


def merge_adapters(sources: Sequence[Source], base: Base, mix: Mix) -> Merged:
    """The new adapter; memory is that of the adapters, as the base's values are not needed.

    Every source is first written as plain LoRA of one rank: rsLoRA's and patterns' scales become alphas, and lower
    ranks are filled up with zeros where the method asks for one, which changes nothing of what the source computes.

    Raises:
        InputError: a source is no LoRA, or has parts that peft does not merge; every one is named.
    """
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(mix.seed)
        model = _all_on_one(sources, base.folder, mix)
        names = [_called(number) for number in range(len(sources))]
        options: dict[str, Any] = {"density": mix.density} if mix.density is not None else {}
        if mix.method == "svd":
            options |= {"svd_rank": mix.rank, "svd_full_matrices": False}
        model.add_weighted_adapter(names, list(mix.weights), MERGED, combination_type=mix.method, **options)
        return _taken_out(model, names, mix)


def _called(number: int) -> str:
    """A source's name in peft, which looks for names inside those of parameters: `0` would be found in `layers.0`."""
    return f"source_{number}"


def _all_on_one(sources: Sequence[Source], base: Path, mix: Mix) -> PeftModel:
    """A model of shapes alone with every source on it."""
    from peft import get_peft_model, set_peft_model_state_dict

    from loraplug_export.derive.skeleton import skeleton

    empty = skeleton(base)
    shapes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters(remove_duplicate=False)}
    checkpoint = open_checkpoint(base)
    stored = {name: found for name in shapes if (found := stored_name(name, empty, checkpoint)) is not None}
    values = {name: checkpoint.tensors[found] for name, found in stored.items()}
    named = [evolve(source, adapter=by_model_names(source.adapter, empty)) for source in sources]
    pairs = [_pairs(source, shapes, values) for source in named]
    highest = max(pair.a.shape[0] for found in pairs for pair in found.values())
    model = None
    for number, own_pairs in enumerate(pairs):
        own = max(pair.a.shape[0] for pair in own_pairs.values())
        config, tensors = _uniform(own_pairs, highest if mix.method in SAME_RANK else own)
        if model is None:
            model = get_peft_model(empty, config, adapter_name=_called(0))
        else:
            model.add_adapter(_called(number), config)
        with names_as_saved():
            set_peft_model_state_dict(model, tensors, adapter_name=_called(number))
    return model


def _pairs(source: Source, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The LoRA pairs of a source by module, held against the base's shapes.

    Raises:
        InputError: it has something else, or does not fit the base.
    """
    adapter, where = source.adapter, source.adapter.folder / WEIGHTS
    if adapter.unknown:
        todo = "make a plain LoRA of it first: loraplug convert ADAPTER --to lora --rank N"
        raise InputError(f"only plain LoRA can be merged, and {adapter.unknown}", where=where, todo=todo)
    found, problems = {}, []
    for name, edit in read_edits(adapter, set()).items():
        module, pair = name.rpartition(".")[0], edit.low_rank
        if name not in shapes:
            todo = "check that all are adapters of one base"
            raise InputError(f"changes {name}, which {source.base.id} does not have", where=where, todo=todo)
        if edit.replacement is not None and not (name in values and same_values(edit.replacement, values[name])):
            problems.append(f"{name} is saved whole")
        elif edit.added is not None:
            problems.append(f"{module} has a bias of B")
        elif pair is None:  # the base's own weight, saved with the adapter
            continue
        elif pair.magnitude is not None:
            problems.append(f"{module} has a DoRA magnitude")
        elif pair.shape not in (shapes[name], shapes[name][::-1]):
            problems.append(f"{module} changes a weight of {pair.shape}, and the base's is {shapes[name]}")
        else:
            found[module] = pair
    if problems or not found:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        what = f"only LoRA pairs can be merged: {'; '.join(problems[:3]) or 'it has none'}{more}"
        todo = "make a plain LoRA of it first (loraplug convert), or merge each into the base (--to merged)"
        raise InputError(what, where=where, todo=todo)
    return found


def _uniform(pairs: Mapping[str, LowRank], rank: int) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """The same changes as LoRA of one rank: zeros fill up A and B, alphas say each layer's scale."""
    from peft import LoraConfig
    from torch.nn.functional import pad

    tensors = {}
    for module, pair in pairs.items():
        a, b = pair.a.read().float(), pair.b.read().float()
        extra = rank - a.shape[0]
        halves = ("lora_embedding_A", "lora_embedding_B") if pair.transposed else ("lora_A.weight", "lora_B.weight")
        tensors[f"{PREFIX}{module}.{halves[0]}"] = pad(a, (0, 0, 0, extra))
        tensors[f"{PREFIX}{module}.{halves[1]}"] = pad(b, (0, extra))
    scales = {module: pair.scale * rank for module, pair in pairs.items()}
    alpha = next(iter(scales.values()))
    others = {module: value for module, value in scales.items() if value != alpha}
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, alpha_pattern=others, target_modules=sorted(pairs)
    )
    return config, tensors


def _taken_out(model: PeftModel, names: Sequence[str], mix: Mix) -> Merged:
    """The merged adapter, and each layer's distance from the weighted sum of its sources."""
    import torch
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    errors = Errors()
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        left, right = [], []
        for adapter, weight in zip(names, mix.weights, strict=True):
            if (halves := _halves(layer, adapter)) is not None:
                left.append(halves[1] * (weight * layer.scaling[adapter]))
                right.append(halves[0])
        if (halves := _halves(layer, MERGED)) is None:
            continue
        a, b = halves
        change = product_norm(torch.cat(left, 1), torch.cat(right))
        difference = product_norm(torch.cat([b, *(-one for one in left)], 1), torch.cat([a, *right]))
        errors.add(name.removeprefix(PREFIX), int(a.shape[0]), difference, change)
    tensors = get_peft_model_state_dict(model, adapter_name=MERGED, save_embedding_layers=False)
    config = model.peft_config[MERGED]
    config.inference_mode = True
    return Merged(config, {name: tensor.clone() for name, tensor in tensors.items()}, errors)


def _halves(layer: Any, adapter: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A and B of one adapter of a peft layer, in double precision; None where it has none there."""
    if adapter in layer.lora_A:
        return layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter].double(), layer.lora_embedding_B[adapter].double()
    return None


def checked(mix: Mix, count: int) -> Mix:
    """The mix with its defaults, or every thing in it that does not go together.

    Raises:
        InputError: all of them at once.
    """
    problems = []
    weights = mix.weights or (1.0,) * count
    if len(weights) != count:
        problems.append(f"--weights: {len(weights)} for {count} adapters")
    if mix.method in PRUNING and mix.density is None:
        problems.append(f"--density: {mix.method} keeps a share of the values; say which, such as 0.5")
    if mix.method not in PRUNING and mix.density is not None:
        problems.append(f"--density: {mix.method} keeps all values; it is for {', '.join(PRUNING)}")
    if mix.density is not None and not 0 < mix.density <= 1:
        problems.append(f"--density: {mix.density:g} is not above 0 and at most 1")
    if mix.rank is not None and mix.method != "svd":
        problems.append(f"--rank: the rank of {mix.method} follows from the adapters; it is for svd")
    if count < 2:
        problems.append("ADAPTER: one alone is nothing to merge")
    if problems:
        raise InputError("; ".join(problems), where="loraplug merge", todo="see loraplug merge --help")
    return evolve(mix, weights=weights)
