"""The private APIs of transformers and torch that exporters use; no other module of this package uses any.

They give the form in which a checkpoint stores a model's weights, and the modules that stay in float32.

A checkpoint may store a weight under another name than the model's class gives it (`embed_out.weight` of GPT-NeoX,
`language_model.model.…` of Gemma 3), or several together as one (the experts of a mixture). transformers has no public
function for either conversion. `tests/export/test_export_compat.py` holds what is relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from attrs import Factory, frozen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@frozen(eq=False)
class Conversion:
    """Stored tensors that are converted to other tensors when a model is loaded.

    Attributes:
        targets: the model's names of the results.
        sources: the stored names, in the order in which they are combined.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    _patterns: tuple[str, ...]
    _converter: Any
    _model: Any

    def make(self, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """The values of the targets, as loading would give them; `read` gives the values of a stored name."""
        converter = deepcopy(self._converter)
        for pattern, name in zip(self._patterns, self.sources, strict=True):
            converter.add_tensor(self.targets[0], name, pattern, read(name))
        made = converter.convert(self.targets[0], model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@frozen(eq=False)
class Forms:
    """How a checkpoint stores a model's parameters and buffers.

    Attributes:
        direct: name in the model to the stored name, where the values are the same.
        converted: name in the model to the conversion that makes it.
    """

    direct: Mapping[str, str] = Factory(dict)
    converted: Mapping[str, Conversion] = Factory(dict)


def stored_forms(model: PreTrainedModel, stored: Iterable[str]) -> Forms:
    """Which of these stored tensors `from_pretrained` would load each weight of `model` from."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    known = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    own, prefix = model.state_dict(), model.base_model_prefix
    direct: dict[str, str] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if target not in own and name in own:
            target, pattern = name, None
        if target not in own:
            continue
        if pattern is None:
            direct[target] = name
        else:
            groups.setdefault(target, []).append((pattern, name))
    converted: dict[str, Conversion] = {}
    for target, parts in groups.items():
        converter = known[parts[0][0]]
        first, *_ = converter.target_patterns
        targets = tuple(target.replace(first, other) for other in converter.target_patterns)
        patterns, sources = zip(*parts, strict=True)
        made = Conversion(targets, sources, patterns, converter, model)
        converted |= dict.fromkeys(targets, made)
    return Forms(direct, converted)


def as_stored(model: PreTrainedModel, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert values by `model`'s names to the names and forms in which transformers saves them."""
    from transformers.core_model_loading import revert_weight_conversion

    made: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(values))
    return made


def kept_in_fp32(model: Any) -> list[str]:
    """Names of modules that transformers never quantizes; empty for most models."""
    return [*(model._keep_in_fp32_modules or ())]


def own_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter | None]:
    """The dictionary from which a torch module reads its own parameters."""
    own: dict[str, torch.nn.Parameter | None] = module._parameters
    return own


def read_parameters_from(module: torch.nn.Module, parameters: dict[str, torch.nn.Parameter | None]) -> None:
    """Have a torch module read its own parameters from another mapping, which may load them lazily."""
    module._parameters = parameters
