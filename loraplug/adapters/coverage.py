"""Which share of a model's layers is adapted or quantized."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import Factory, frozen

FUSED = "experts fused in one tensor"
"""What experts are called that are stored as one tensor, where the rest of a share is told."""
Kind = Literal["linear", "experts", "router", "other"]
_INSIDE = re.compile(r"\.(base_layer|original_module)(?=\.|$)")
_OURS = re.compile(r"\.(lora_\w+|modules_to_save|token_adapter|parametrizations|base_layer\.lora_\w+)(\.|$)")
_EXPERT_COUNTS = re.compile(r"(num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_moe_experts)$")


@frozen
class LayerWeight:
    """A weight matrix of a model's layers, or a stack of them; embeddings and output are none.

    Attributes:
        module, parameter: names of the module, as in the model without adapters, and of its parameter.
        kind: `linear` is a module of its own, `experts` a stack of an expert's matrices in one tensor, `router` what
            chooses among experts, `other` convolutions and parameters that are read as they are.
        count: numbers in it, whatever they are stored in.
        adapted: whether it has an adapter, or is trained whole.
        quantised: whether it is stored in 8 bits or fewer.
    """

    module: str
    parameter: str
    kind: Kind
    count: int
    adapted: bool = False
    quantised: bool = False

    @property
    def name(self) -> str:
        """The parameter's whole name."""
        return f"{self.module}.{self.parameter}"


@frozen
class Share:
    """The share of a model's layer weights that is adapted (or quantized), and what is left out.

    Attributes:
        done, total: numbers of weights (embeddings and output counted in neither).
        rest: what is left out, by kind of it: numbers of weights and, as one layer stands for all, last parts of names.
    """

    done: int
    total: int
    rest: Mapping[str, tuple[int, tuple[str, ...]]] = Factory(dict)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.done / self.total if self.total else 0.0

    def sentence(self) -> str:
        """`73.1% of the weights of the layers (7.3 million of 10.0 million); not 26.9% experts (…)`."""
        text = f"{self.share:.1%} of the weights of the layers ({_many(self.done)} of {_many(self.total)})"
        left = [
            f"{count / self.total:.1%} {kind} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            for kind, (count, names) in sorted(self.rest.items(), key=lambda one: -one[1][0])
        ]
        return text + ("; not " + ", ".join(left) if left else "")

    def facts(self) -> dict[str, Any]:
        """For a JSON file."""
        rest = {kind: {"weights": count, "names": list(names)} for kind, (count, names) in self.rest.items()}
        return {"weights": self.done, "of": self.total, "without": rest}


def layer_weights(model: Any) -> list[LayerWeight]:
    """All weights of a model's layers, with adapters on it or without.

    Args:
        model: a causal language model of transformers, or a `PeftModel` of one; may be quantised by bitsandbytes.
    """
    import torch
    from peft.utils.other import TrainableTokensWrapper
    from transformers.pytorch_utils import Conv1D

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    adapted, experts = _adapted(base), expert_counts(base.config)
    whole = base is model  # what is trained of it is trained itself
    output = base.get_output_embeddings()
    found = []
    wrappers: set[str] = set()
    for path, module in base.named_modules():
        ends = (torch.nn.Embedding, TrainableTokensWrapper)
        if hasattr(module, "base_layer"):
            wrappers.add(path)
        if any(not path.startswith(f"{one}.base_layer") for one in _above(path, wrappers)):
            continue
        if _OURS.search(f".{path}") or module is output or isinstance(module, ends):
            continue
        if path.endswith("base_layer") and (module is getattr(output, "base_layer", None)):
            continue
        name = _INSIDE.sub("", path)
        stacks = getattr(module, "parametrizations", {})
        for parameter, stack in stacks.items():  # bitsandbytes' way to quantise a parameter that is no layer's
            count = stack[0].quant_state.shape.numel()
            found.append(LayerWeight(name, parameter, "experts", count, f"{name}.{parameter}" in adapted, True))
        if hasattr(module, "base_layer"):
            continue
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            kind: Kind = "router" if _is_router(name, module.out_features, experts, base) else "linear"
            stored = getattr(module, "weight", None)
            narrow = stored is not None and (not torch.is_floating_point(stored) or _of_torchao(stored))
            count = module.in_features * module.out_features
            is_adapted = name in adapted or (whole and bool(getattr(stored, "requires_grad", False)))
            found.append(LayerWeight(name, "weight", kind, count, is_adapted, narrow))
            continue
        for parameter, value in module.named_parameters(recurse=False):
            if value.ndim < 2 or "bias" in parameter:
                continue
            kind = _raw_kind(name, module, value, experts)
            kind = "linear" if isinstance(module, Conv1D) else kind
            is_adapted = name in adapted or f"{name}.{parameter}" in adapted or (whole and value.requires_grad)
            found.append(LayerWeight(name, parameter, kind, value.numel(), is_adapted))
    return found


def _of_torchao(weight: Any) -> bool:
    """Whether a weight is one of torchao's, which say that they are of the format they are computed in."""
    return type(weight.data).__module__.startswith("torchao.")


def _above(path: str, wrappers: set[str]) -> list[str]:
    """Modules with an adapter that a module lies in."""
    parts = path.split(".")
    return [one for at in range(1, len(parts)) if (one := ".".join(parts[:at])) in wrappers]


def _has_adapter(module: Any) -> bool:
    """Whether a module that peft has wrapped holds what is trained of an adapter."""
    return any(len(getattr(module, name, ())) for name in getattr(module, "adapter_layer_names", ()))


def adapted_share(model: Any, left_out: Mapping[str, str] | None = None) -> Share:
    """The share of a `PeftModel`'s layer weights that is adapted or fully trained.

    Args:
        left_out: why a module has no adapter, by its name, where that is another reason than its kind.
    """
    names = {"linear": "linear layers outside target_modules", "experts": FUSED, "router": "routers"}

    def reason(weight: LayerWeight) -> str:
        known = (left_out or {}).get(weight.module)
        return known or names.get(weight.kind, "convolutions and parameters outside of layers")

    return _share(layer_weights(model), lambda weight: weight.adapted, reason)


def quantised_share(model: Any) -> Share:
    """The share of a model's layer weights that is stored in 8 bits or fewer."""
    names = {"linear": "linear layers", "experts": FUSED, "router": "routers"}
    return _share(
        layer_weights(model), lambda weight: weight.quantised, lambda weight: names.get(weight.kind, "convolutions")
    )


def expert_counts(config: Any) -> frozenset[int]:
    """The numbers of experts in a config; empty if there are none."""
    text = config.get_text_config()
    values = {value for name, value in text.to_dict().items() if _EXPERT_COUNTS.search(name)}
    return frozenset(value for value in values if isinstance(value, int) and value > 1)


def _share(
    weights: list[LayerWeight], holds: Callable[[LayerWeight], bool], reason: Callable[[LayerWeight], str]
) -> Share:
    rest: dict[str, list[LayerWeight]] = defaultdict(list)
    for weight in weights:
        if not holds(weight):
            rest[reason(weight)].append(weight)
    return Share(
        sum(weight.count for weight in weights if holds(weight)),
        sum(weight.count for weight in weights),
        {
            kind: (sum(one.count for one in some), tuple(sorted({_short(one) for one in some})))
            for kind, some in rest.items()
        },
    )


def _many(count: int) -> str:
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"


def _short(weight: LayerWeight) -> str:
    """`experts.gate_up_proj`, `q_proj`: a name that all layers share."""
    last = weight.module.rsplit(".", 1)[-1]
    return last if weight.parameter == "weight" else f"{last}.{weight.parameter}"


def _adapted(base: Any) -> set[str]:
    """Modules with an adapter or trained whole, and parameters adapted as such, by their names without adapters."""
    found = set()
    for path, module in base.named_modules():
        name = _INSIDE.sub("", path)
        if hasattr(module, "base_layer") and _has_adapter(module):
            parameter = getattr(module, "parameter_name", None)
            found.add(name if parameter in (None, "weight") else f"{name}.{parameter}")
        elif hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            found |= {f"{name}.{part}".rstrip(".") for part, _ in module.original_module.named_modules()} | {name}
    return found


def _is_router(name: str, outputs: int, experts: frozenset[int], base: Any) -> bool:
    """Whether a linear layer chooses among experts: as many outputs, and experts beside it or a router's name."""
    if outputs not in experts:
        return False
    parent = name.rpartition(".")[0]
    above = [parent, parent.rpartition(".")[0]]
    if re.search(r"router|(^|[._])gate(\.|$)", ".".join(name.split(".")[-2:])):
        return True
    beside = [child for place in above if place for child, _ in base.get_submodule(place).named_children()]
    return any("expert" in child for child in beside)


def _raw_kind(name: str, module: Any, value: Any, experts: frozenset[int]) -> Kind:
    import torch

    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) or not experts:
        return "other"
    if value.ndim == 3 and value.shape[0] in experts:
        return "experts"
    if "experts" in name.split(".") or name.endswith("experts"):
        return "experts"
    return "router" if value.shape[0] in experts else "other"
