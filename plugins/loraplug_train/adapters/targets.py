"""Resolves the layer names and patterns of `[trainer.lora]` against the modules of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from attrs import Factory, frozen

from loraplug import InputError, adapter_refused, layer_weights
from loraplug_train.engine.reach import OTHER, TUPLES, Reach, reach

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_train.adapters.lora import Lora

GROUPS = ("all-linear", "attention", "mlp", "experts")
REFUSED = "layers of a kind that fused kernels bypass (peft refuses an adapter there)"
TOWER = "layers of an image or audio encoder, which text does not pass through"
SHARED = "layers that share their weight with another layer, so that merging would change both"
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_?forward|ffn|moe|expert|dense_h|fc\d|(gate|up|down)_proj|\bw\d", re.IGNORECASE)
_MIXER = re.compile(r"mamba|mixer|ssm|conv|recurrent|linear_attn|delta", re.IGNORECASE)


@frozen
class Targets:
    """The modules that get an adapter.

    Attributes:
        modules: names of modules.
        parameters: names of stacked expert tensors that are adapted as parameters.
        left_out: linear layers of the wanted groups that get no adapter, and why.
    """

    modules: list[str]
    parameters: list[str] = Factory(list)
    left_out: dict[str, str] = Factory(dict)


def find_targets(lora: Lora, model: PreTrainedModel) -> Targets:
    """Match every name and pattern of `lora` against the modules of a model, and test the layers that match.

    Raises:
        InputError: some match nothing, or a pattern matches only modules that get no adapter; or a layer is named that
            cannot have one. All of them in one error.
    """
    linear = _linear_layers(model)
    tried = reach(model, linear)
    groups, fused, left_out = _groups(model, linear, tried)
    leaves = {name for name, module in model.named_modules() if _is_leaf(module)}
    named, problems = _held(lora, [name for name, _ in model.named_modules() if name], leaves, groups, fused)
    grouped = {name for group in groups.values() for name in group}
    for name in named:
        if name not in grouped and (why := _unfit(model, name, tried)):
            problems.append(f'target_modules: "{name}" cannot be adapted: {why}')
    if problems:
        raise _refusal(lora.table, problems, linear)
    parameters = fused if "experts" in _words(lora.target_modules) else []
    if lora.layers_to_transform:
        parameters = _of_layers(parameters, lora.layers_to_transform)[0]
    return Targets(list(dict.fromkeys(named)), parameters, left_out)


def check_names(lora: Lora, model: PreTrainedModel) -> None:
    """Match every name and pattern of `lora` against the modules of a model, which may be on the meta device.

    Raises:
        InputError: some match nothing, or a pattern matches only modules that get no adapter; all of them in one error.
    """
    linear = _linear_layers(model)
    fused = [weight.name for weight in layer_weights(model) if weight.kind == "experts"]
    if problems := name_problems(lora, [name for name, _ in model.named_modules() if name], linear, fused):
        raise _refusal(lora.table, problems, linear)


def name_problems(lora: Lora, modules: list[str], linear: list[str], fused: Sequence[str] = ()) -> list[str]:
    """Names and patterns of a recipe that match nothing, as messages.

    Args:
        modules: names of all modules.
        linear: names of those that are linear layers, but for the output.
        fused: names of tensors that stack the weights of experts.
    """
    return _held(lora, modules, {*linear, *modules}, _by_kind(linear, str), fused)[1]


def _held(
    lora: Lora, modules: list[str], adaptable: set[str], groups: dict[str, list[str]], fused: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The modules that get an adapter, and messages about names and patterns that match nothing."""
    leaves = sorted({name.rsplit(".", 1)[-1] for name in groups["all-linear"]})
    named, problems = _targets(lora.target_modules, modules, adaptable, groups, fused, leaves)
    if lora.layers_to_transform and not problems:
        stacked = fused if "experts" in _words(lora.target_modules) else ()
        inside, problems = _of_layers([*named, *stacked], lora.layers_to_transform)
        named = [name for name in named if name in {*inside}]
    for name in lora.modules_to_save:
        if not _named(name, modules):
            ends = {module.rsplit(".", 1)[-1] for module in modules}
            problems.append(f'modules_to_save: "{name}" matches no module{_near(name, ends)}')
    parameters = fused if "experts" in _words(lora.target_modules) else ()
    for option in ("rank_pattern", "alpha_pattern") if not problems else ():  # these patterns choose among the targets
        for pattern in getattr(lora, option):
            problems += _pattern_problem(option, pattern, [*named, *parameters])
    return named, problems


def _of_layers(named: Iterable[str], layers: Sequence[int]) -> tuple[list[str], list[str]]:
    """The modules in these layers, by the first number in their names; and layers that none is in."""
    by_layer: dict[int, list[str]] = {}
    for name in named:
        number = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if number is not None:
            by_layer.setdefault(number, []).append(name)
    lacking = sorted(set(layers) - set(by_layer))
    known = f"0 to {max(by_layer)}" if by_layer else "none"
    problems = [f"layers_to_transform: no target module lies in layer {number} (layers: {known})" for number in lacking]
    return [name for number in sorted(set(layers)) for name in by_layer.get(number, ())], problems


def _refusal(where: str, problems: list[str], linear: list[str]) -> InputError:
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    todo = f"linear layers: {', '.join(leaves)}; groups of them: {', '.join(GROUPS)}"
    return InputError("; ".join(problems), where=where, todo=todo)


def _words(wanted: str | Iterable[str]) -> list[str]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _groups(
    model: PreTrainedModel, linear: list[str], tried: Reach
) -> tuple[dict[str, list[str]], list[str], dict[str, str]]:
    """The layers of each word of `GROUPS`, names of stacked experts, and linear layers that are in no group."""
    weights = layer_weights(model)
    routers = {weight.module for weight in weights if weight.kind == "router"}
    fused = [weight.name for weight in weights if weight.kind == "experts"]
    tower, shared = _outside_the_text(model), _sharing(model)
    left_out, fit = {}, []
    for name in linear:
        why = TOWER if tower(name) else tried.without.get(name) or (REFUSED if adapter_refused(model, name) else None)
        if name in shared:
            why = SHARED
        if name in routers:
            why = "routers"
        if why:
            left_out[name] = why
        else:
            fit.append(name)
    classes = {name: type(module).__name__ for name, module in model.named_modules()}

    def path(name: str) -> str:
        parts = name.split(".")
        above = [classes[".".join(parts[:at])] for at in range(len(parts) - 1, len(parts))]
        return ".".join([*parts, *above])

    return _by_kind(fit, path), fused, left_out


def _by_kind(layers: list[str], path: Callable[[str], str]) -> dict[str, list[str]]:
    """The layers of each word of `GROUPS`; `path` gives the text of a layer's name that tells its kind."""
    attention = [name for name in layers if _ATTENTION.search(path(name))]
    others = [name for name in layers if name not in set(attention)]
    mlp = [name for name in others if _MLP.search(path(name)) and not _MIXER.search(path(name))]
    single = [name for name in layers if re.search(r"(^|\.)experts\.\d+\.", name)]
    return {"all-linear": layers, "attention": attention, "mlp": mlp, "experts": single}


def _targets(
    wanted: str | Iterable[str],
    modules: list[str],
    adaptable: set[str],
    groups: dict[str, list[str]],
    fused: Sequence[str],
    leaves: list[str],
) -> tuple[list[str], list[str]]:
    """The modules that get an adapter, and what is wrong with how they are named."""
    if isinstance(wanted, str) and wanted not in GROUPS:
        try:
            found = [name for name in modules if re.fullmatch(wanted, name) and name in adaptable]
        except re.error as error:
            return [], [f'target_modules: "{wanted}" is not a valid regular expression ({error})']
        if found:
            return found, []
        listed = [part.strip() for part in wanted.split(",")]
        if all(_named(part, modules) for part in listed):
            names = ", ".join(f'"{part}"' for part in listed)
            return [], [
                f'target_modules: "{wanted}" is read as a regular expression and matches no module; write [{names}]'
            ]
        return [], [f'target_modules: "{wanted}" matches no module{_near(wanted, leaves)}']
    found, problems = [], []
    for name in _words(wanted):
        matched = groups[name] if name in GROUPS else _named(name, modules)
        if not matched and not (name == "experts" and fused):
            what = f'"{name}" matches no layer of this model' if name in GROUPS else f'"{name}" matches no module'
            problems.append(f"target_modules: {what}{_near(name, leaves)}")
        found += matched
    return found, problems


def _unfit(model: PreTrainedModel, name: str, tried: Reach) -> str | None:
    """Why a layer that the recipe names cannot have an adapter."""
    if tried.without.get(name) == TUPLES:
        return "it returns more than one tensor"
    if tried.without.get(name) == OTHER:
        return "it does not compute a linear layer's product of its input"
    return "peft refuses it, as fused kernels bypass it" if adapter_refused(model, name) else None


def _is_leaf(module: Any) -> bool:
    return not any(True for _ in module.children()) and hasattr(module, "weight")


def _outside_the_text(model: PreTrainedModel) -> Any:
    """Predicate for names of modules outside the language model of a multimodal model."""
    if model.config.get_text_config() is model.config:
        return lambda _: False
    text = model.get_decoder()
    inside = {id(module) for module in text.modules()}
    outside = {name for name, module in model.named_modules() if id(module) not in inside}
    return lambda name: name in outside


def _sharing(model: PreTrainedModel) -> set[str]:
    """Names of modules whose weight is another module's too (the blocks of Zamba 2)."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return {name.removesuffix(".weight") for pair in tied.items() for name in pair}


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """All linear layers but the output."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, (torch.nn.Linear, Conv1D)) or _quantised(module)) and module is not head
    ]


def _quantised(module: Any) -> bool:
    """Whether this is a quantizer's linear layer, which need not subclass `torch.nn.Linear`."""
    return hasattr(module, "in_features") and hasattr(module, "out_features") and "Linear" in type(module).__name__


def _named(name: str, modules: Iterable[str]) -> list[str]:
    return [module for module in modules if module == name or module.endswith(f".{name}")]


def _pattern_problem(option: str, pattern: str, targets: list[str]) -> list[str]:
    """A pattern matches as in peft: at the end of a module's name, from a dot or the beginning on."""
    try:
        fits = re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        return [f'{option}: "{pattern}" is not a valid regular expression ({error})']
    if any(fits.match(name) for name in targets):
        return []
    return [f'{option}: "{pattern}" matches no adapted layer{_near(pattern, {n.rsplit(".", 1)[-1] for n in targets})}']


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
