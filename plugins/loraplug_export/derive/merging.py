"""Merges several adapters of one base into one, by peft's `add_weighted_adapter`."""

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
"""Methods that combine A and B separately, so that all adapters must have the same rank."""
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods that take a `density`, the share of values to keep."""


@frozen
class Mix:
    """How adapters are merged.

    Attributes:
        weights: one per adapter.
        density: share of values that pruning methods keep, in (0, 1]; None for the others.
        rank: of the result, for `svd`; the largest of the sources' where None.
        seed: of the random dropping in `dare_*`.
    """

    method: Method
    weights: tuple[float, ...]
    density: float | None
    rank: int | None
    seed: int


@frozen(eq=False)
class Merged:
    """The merged adapter, and each layer's distance from the weighted sum of the sources' changes."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    errors: Errors


def merge_adapters(sources: Sequence[Source], base: Base, mix: Mix) -> Merged:
    """Merge adapters; needs memory for the adapters only, as the base's values are not needed.

    Every source is first rewritten as plain LoRA: rsLoRA's and patterns' scales become alphas, and for methods that
    need equal ranks lower ones are padded with zeros, which does not change what the source computes.

    Raises:
        InputError: a source is not LoRA, or has parts that peft does not merge; names all of them.
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
    """A source's adapter name in peft, which searches parameter names for it: `0` would be found in `layers.0`."""
    return f"source_{number}"


def _all_on_one(sources: Sequence[Source], base: Path, mix: Mix) -> PeftModel:
    """A model without values that has every source as an adapter."""
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
    """The LoRA pairs of a source by module, checked against the base's shapes.

    Raises:
        InputError: it has other parts, or does not fit the base.
    """
    adapter, where = source.adapter, source.adapter.folder / WEIGHTS
    if adapter.unknown:
        todo = "convert it to plain LoRA first: loraplug convert ADAPTER --to lora --rank N"
        raise InputError(f"only plain LoRA can be merged, and {adapter.unknown}", where=where, todo=todo)
    found, problems = {}, []
    for name, edit in read_edits(adapter, set()).items():
        module, pair = name.rpartition(".")[0], edit.low_rank
        if name not in shapes:
            todo = "check that all adapters have the same base"
            raise InputError(f"changes {name}, which {source.base.id} does not have", where=where, todo=todo)
        if edit.replacement is not None and not (name in values and same_values(edit.replacement, values[name])):
            problems.append(f"{name} is fully trained (modules_to_save)")
        elif edit.added is not None:
            problems.append(f"{module} has a bias of B")
        elif pair is None:  # a copy of the base's own weight, saved with the adapter
            continue
        elif pair.magnitude is not None:
            problems.append(f"{module} has a DoRA magnitude")
        elif pair.shape not in (shapes[name], shapes[name][::-1]):
            problems.append(f"{module} changes a weight of {pair.shape}, and the base's is {shapes[name]}")
        else:
            found[module] = pair
    if problems or not found:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        what = f"only LoRA on layers can be merged: {'; '.join(problems[:3]) or 'this has none'}{more}"
        todo = (
            "convert it to plain LoRA first (loraplug convert), or merge each adapter into the base (loraplug export "
            "--to merged)"
        )
        raise InputError(what, where=where, todo=todo)
    return found


def _uniform(pairs: Mapping[str, LowRank], rank: int) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """The same changes as LoRA of one rank: A and B are padded with zeros, and alpha_pattern gives each layer's
    scale.
    """
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
    """A and B of one adapter of a peft layer, in float64; None if the layer does not have it."""
    if adapter in layer.lora_A:
        return layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter].double(), layer.lora_embedding_B[adapter].double()
    return None


def checked(mix: Mix, count: int) -> Mix:
    """The mix with its defaults filled in.

    Raises:
        InputError: options cannot be combined; names all of them.
    """
    problems = []
    weights = mix.weights or (1.0,) * count
    if len(weights) != count:
        problems.append(f"--weights: {len(weights)} weights for {count} adapters")
    if mix.method in PRUNING and mix.density is None:
        problems.append(f"--density: {mix.method} needs the share of values to keep, such as 0.5")
    if mix.method not in PRUNING and mix.density is not None:
        problems.append(f"--density: {mix.method} keeps all values; --density is for {', '.join(PRUNING)}")
    if mix.density is not None and not 0 < mix.density <= 1:
        problems.append(f"--density: {mix.density:g} is not above 0 and at most 1")
    if mix.rank is not None and mix.method != "svd":
        problems.append(f"--rank: {mix.method} sets the rank itself; --rank is for svd")
    if count < 2:
        problems.append("ADAPTER: give at least two adapters")
    if problems:
        raise InputError("; ".join(problems), where="loraplug merge", todo="see loraplug merge --help")
    return evolve(mix, weights=weights)
