"""Plans which of the base's stored tensors change, and how. Modules and tied weights are found from the base's class,
built without weights.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from loraplug import InputError, model_names
from loraplug_export.compat import Forms, stored_forms
from loraplug_export.edits import Edit
from loraplug_export.lora_files import WEIGHTS, Adapter, read_edits
from loraplug_export.tensors import FLOATS, Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class UnsupportedAdapterError(Exception):
    """The adapter is valid but needs peft's own merge; the message says why."""


@frozen
class Plan:
    """The plan of a merge.

    Attributes:
        adapter: its folder.
        forms: the forms in which the base stores the model's weights.
        names: parameter or buffer of the model to its stored name in the base.
        edits: parameter of the model to its change.
        untied: the tied parameter that becomes untied (usually `lm_head.weight`), or None.
    """

    adapter: Path
    base: Checkpoint
    model: PreTrainedModel
    forms: Forms
    names: dict[str, str]
    edits: dict[str, Edit]
    untied: str | None = None

    def stored(self, name: str) -> str | None:
        """The stored name of a parameter, or of the one it is tied to; None if it is not stored."""
        if name in self.names:
            return self.names[name]
        tied: dict[str, str] = dict(self.model.all_tied_weights_keys)
        others = [tied[name]] if name in tied else [one for one, source in tied.items() if source == name]
        return next((self.names[other] for other in others if other in self.names), None)

    def dtype(self, name: str) -> str:
        """safetensors' name of the dtype that a parameter is stored in."""
        stored = self.stored(name) or self.forms.converted[name].sources[0]
        return self.base.tensors[stored].dtype

    def without(self, names: Collection[str]) -> Plan:
        """This plan with some parameters unchanged."""
        return evolve(self, edits={name: edit for name, edit in self.edits.items() if name not in names})

    def stored_edits(self) -> dict[str, Edit]:
        """`edits` by stored name."""
        return {self.names[name]: edit for name, edit in self.edits.items() if name != self.untied}


def empty_model(base: Path, changed: Collection[str] = ()) -> PreTrainedModel:
    """The base's class with parameters on the meta device; buffers are real.

    For a multimodal base, transformers' causal language model may be the text part alone, with other module names than
    the whole model, on which an adapter from elsewhere may have been trained.

    Args:
        changed: names of an adapter's tensors; the class that has more of them is chosen.

    Raises:
        InputError: there is no config, or its architecture is not a causal LM of transformers.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (base / "config.json").is_file():
        raise InputError(
            "has no config.json, so it is not a model folder", where=base, todo="name the adapter's base model"
        )
    whole = None
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        with init_empty_weights():
            if changed and (published := _published_class(config)) is not None:
                whole = published(deepcopy(config))
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        if whole is not None:  # a kind without a text-only class
            return whole.eval()
        raise InputError(
            f"transformers cannot build this model ({str(error).splitlines()[0]})",
            where=base / "config.json",
            todo="use a base whose architecture is a causal language model of transformers",
        ) from None
    return (whole if whole is not None and _known(changed, whole) > _known(changed, model) else model).eval()


def _published_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The transformers class that a multimodal config names; None if there is none."""
    import transformers

    named = config.architectures or [""]
    found = getattr(transformers, named[0], None) if config.get_text_config() is not config else None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _known(names: Collection[str], model: PreTrainedModel) -> int:
    """How well the names of an adapter's tensors match a model: number of modules on their paths."""
    modules = {name for name, _ in model.named_modules()}
    found = 0
    for name in names:
        parts = name.removeprefix("base_model.model.").split(".")
        found += max((count for count in range(len(parts)) if ".".join(parts[:count]) in modules), default=0)
    return found


def by_model_names(adapter: Adapter, model: PreTrainedModel) -> Adapter:
    """The adapter with its tensors by the names that they have in the model, whatever its file calls them."""
    names = model_names(model, adapter.tensors)
    return evolve(adapter, tensors={names[name]: tensor for name, tensor in adapter.tensors.items()})


def make_plan(adapter: Adapter, base: Checkpoint) -> Plan:
    """Match an adapter to its base.

    Raises:
        UnsupportedAdapterError: peft must merge it.
        InputError: adapter and base do not belong together, naming the first tensor that does not fit.
    """
    if adapter.unknown:
        raise UnsupportedAdapterError(adapter.unknown)
    model = empty_model(base.folder, tuple(adapter.tensors))
    modules = dict(model.named_modules())
    adapter = by_model_names(adapter, model)
    edits = read_edits(adapter, {name for name, module in modules.items() if type(module).__name__ == "Conv1D"})
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
    forms = stored_forms(model, base.tensors)
    check_ends(model, forms, base.folder, edits)
    names = dict(forms.direct)
    for target, source in tied.items():
        if source not in names and target in names:  # stored under the name of the weight it is tied to
            names[source] = names.pop(target)
    for name in edits:
        if name not in parameters:
            raise InputError(
                f"the adapter changes {name}, which the base does not have",
                where=adapter.folder / WEIGHTS,
                todo=f"merge into the base that it was trained on ({adapter.config.get('base_model_name_or_path')})",
            )
        _must_be_linear(name, modules)
        if name not in names and name not in tied:
            raise UnsupportedAdapterError(f"the base stores {name} in a converted form")
    plan = _resolve_ties(Plan(adapter.folder, base, model, forms, names, edits), tied, adapter)
    _check_fit(plan, adapter)
    return plan


def _must_be_linear(name: str, modules: dict[str, Any]) -> None:
    import torch

    module = modules[name.rpartition(".")[0]]
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    if not isinstance(module, kinds) and type(module).__name__ != "Conv1D" and name.endswith(".weight"):
        if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            return  # a fully trained norm
        raise UnsupportedAdapterError(f"{name} is the weight of a {type(module).__name__}")


def check_ends(model: PreTrainedModel, forms: Forms, base: Path, brought: Collection[str] = ()) -> None:
    """Refuse a base without the weights of its embedding or output layer: loading would initialise them randomly.

    Args:
        brought: parameters that the adapter contains.

    Raises:
        InputError: one is missing.
    """
    tied = dict(model.all_tied_weights_keys)
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        name = names.get(id(module))
        ends = {name, tied.get(str(name)), *(target for target, source in tied.items() if source == name)}
        if name and not ends & {*forms.direct, *forms.converted, *brought}:
            raise InputError(
                f"has no {name}, which would be initialised randomly when the model is loaded",
                where=base,
                todo="use a base that was saved with its language-model head",
            )


def _resolve_ties(plan: Plan, tied: dict[str, str], adapter: Adapter) -> Plan:
    """Untie a weight if the adapter changes only one of the two ends."""
    edits, names, untied = dict(plan.edits), dict(plan.names), None
    for target, source in tied.items():
        mine, its = edits.get(target), edits.get(source)
        if mine is None and its is None:
            continue
        if mine is None and its is not None and its.rows is not None:  # peft trains the rows of both ends together
            if target in names:  # stored twice
                edits[target] = its
            continue
        if mine is not None and its is not None and (mine.rows or its.rows):
            raise UnsupportedAdapterError("trained token rows and another change are on tied weights")
        if mine is not None and mine.same_as(its):
            if target not in names:
                del edits[target]
            continue
        whole = any(source.removesuffix(".weight").endswith(name) for name in adapter.full_modules)
        if mine is None and its is not None and its.replacement is not None and not whole:
            mine = its.without_low_rank()
        if mine is not None and mine.same_as(its):
            continue
        if untied is not None:
            raise UnsupportedAdapterError("more than one tied weight would have to be untied")
        untied, edits[target] = target, mine or Edit()
        names.setdefault(target, names[source])
    if untied is not None and untied in plan.names:
        # stored twice already: its own copy is edited, or stays
        return evolve(plan, names=names, edits={k: v for k, v in edits.items() if v != Edit()})
    return evolve(plan, names=names, edits=edits, untied=untied)


def _check_fit(plan: Plan, adapter: Adapter) -> None:
    for name, edit in plan.edits.items():
        stored = plan.base.tensors[plan.names[name]]
        if stored.dtype not in FLOATS:
            raise InputError(
                f"{name} is stored as {stored.dtype}, and an adapter cannot be merged into it",
                where=stored.file,
                todo="merge into the unquantized base",
            )
        shape = tuple(edit.replacement.shape) if edit.replacement is not None else stored.shape
        if edit.rows is not None:
            _check_rows(name, edit, stored.shape, adapter)
        wanted: tuple[int, ...] | None = None
        if edit.low_rank is not None:
            wanted = edit.low_rank.shape
        elif edit.added is not None and edit.added.bias is not None:
            wanted = edit.added.bias.shape
        embedding = "embed" in name or name == "lm_head.weight"
        if (wanted and wanted != shape) or (shape != stored.shape and not embedding):
            raise InputError(
                f"{name} is {stored.shape} in the base, but the adapter is for {wanted or shape}",
                where=adapter.folder / WEIGHTS,
                todo=f"merge into the base that it was trained on ({adapter.config.get('base_model_name_or_path')})",
            )


def _check_rows(name: str, edit: Edit, stored: tuple[int, ...], adapter: Adapter) -> None:
    """Check that trained token rows fit a weight of the base and leave no gap after its last row.

    Raises:
        UnsupportedAdapterError: another change is on the same weight.
        InputError: they do not fit.
    """
    if edit.rows is None:
        return
    if edit.low_rank is not None or edit.replacement is not None:
        raise UnsupportedAdapterError(f"trained token rows and another change are on {name}")
    gap = set(range(stored[0], edit.rows.grown(stored[0]))) - set(edit.rows.numbers)
    width = tuple(edit.rows.values.shape)[1:]
    if width != stored[1:] or gap:
        what = (
            f"has no row {min(gap)}, and the adapter's rows begin after it"
            if gap
            else f"is {stored}, not (…, {width[0]})"
        )
        raise InputError(
            f"{name} of the base {what}",
            where=adapter.folder / WEIGHTS,
            todo=f"merge into the base that it was trained on ({adapter.config.get('base_model_name_or_path')})",
        )
