"""An adapter of another kind (DoRA, LoHa, IA3, OFT …) as plain LoRA: a low-rank approximation of its change to each
weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, LoraplugError, Run, names_as_saved
from loraplug_export.derive.low_rank import Errors, Pair, truncate
from loraplug_export.derive.plain import PREFIX
from loraplug_export.derive.sources import Source
from loraplug_export.lora_files import WEIGHTS
from loraplug_export.plan import Plan, UnsupportedAdapterError, empty_model, make_plan
from loraplug_export.tensors import open_checkpoint, same_values, stored_name

if TYPE_CHECKING:
    import torch

MERGE_IT = "merge it into the base (--to merged); loraplug extract makes a LoRA of the difference"


@frozen(eq=False)
class Converted:
    """Pairs by module, their errors, and the names of all modules of the base."""

    pairs: Mapping[str, Pair]
    errors: Errors
    modules: tuple[str, ...]


def convert(source: Source, rank: int, run: Run) -> Converted:
    """LoRA and DoRA weight by weight; other kinds through peft, with the base in memory in fp32.

    Raises:
        InputError: the adapter has parts that LoRA on linear layers cannot represent.
        LoraplugError: peft cannot merge this kind of adapter.
    """
    import torch

    checkpoint = open_checkpoint(source.base.folder)
    model = empty_model(source.base.folder)
    modules = tuple(name for name, _ in model.named_modules())
    try:
        changes = _planned(make_plan(source.adapter, checkpoint), source)
    except UnsupportedAdapterError as reason:
        run.say(f"convert: peft merges it with the whole base in memory, because {reason}")
        changes = _by_peft(source, rank)
    pairs, errors = {}, Errors()
    with torch.inference_mode():
        for module, change, ready in changes:
            norm = float(torch.linalg.norm(change))
            pair = ready or truncate(change, rank, run.seed)
            pairs[module] = Pair(pair.a.clone(), pair.b.clone())
            errors.add(module, pair.rank, float(torch.linalg.norm(torch.addmm(change, pair.b, pair.a, alpha=-1))), norm)
    return Converted(pairs, errors, modules)


Change = tuple[str, "torch.Tensor", "Pair | None"]
"""Module, the change of its weight (outputs, inputs) in float32, and a LoRA pair if peft has made one."""


def _planned(plan: Plan, source: Source) -> Iterator[Change]:
    """The changes of a LoRA or DoRA, one weight in memory at a time; raises for what cannot be represented before any
    work.
    """
    problems = []
    for name, edit in plan.edits.items():
        if edit.replacement is not None and not same_values(edit.replacement, plan.base.tensors[plan.names[name]]):
            problems.append(f"{name} is fully trained (modules_to_save)")
        elif edit.low_rank is None:
            problems.extend([f"{name} is an added vector"] * (edit.added is not None))
        elif name == plan.untied or _is_embedding(plan, name):
            problems.append(f"{name} belongs to an embedding, or is tied to one")
    if problems:
        raise _not_linear(problems, source)
    return _streamed(plan)


def _is_embedding(plan: Plan, name: str) -> bool:
    import torch

    return isinstance(plan.model.get_submodule(name.rpartition(".")[0]), torch.nn.Embedding)


def _streamed(plan: Plan) -> Iterator[Change]:
    for name, edit in plan.edits.items():
        pair, loaded = edit.low_rank, edit.load()
        if pair is None or loaded.a is None or loaded.b is None:
            continue
        if pair.magnitude is None:
            change = (loaded.b @ loaded.a) * pair.scale
        else:
            weight = plan.base.tensors[plan.names[name]].read().float()
            change = loaded.apply(weight, 0) - weight
            change = change.T if pair.transposed else change
        yield name.rpartition(".")[0], change, None


def _by_peft(source: Source, rank: int) -> Iterator[Change]:
    """The changes of any adapter that peft can merge, and its own LoRA for those kinds it converts itself.

    The change is the merged weight minus the stored base weight, as some kinds (PiSSA) change the base on loading.
    """
    import torch
    from peft import PeftModel, convert_to_lora
    from transformers import AutoModelForCausalLM

    folder = source.base.folder
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    checkpoint, plain = open_checkpoint(folder), empty_model(folder)
    with warnings.catch_warnings(), names_as_saved():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base, str(source.adapter.folder)).eval()
    layers = _layers(model, source)
    made = {}
    if source.adapter.config["peft_type"] != "LORA" and all(
        layer.supports_lora_conversion() for layer in layers.values()
    ):
        _, made = convert_to_lora(model, rank)
    biases = {name: layer.get_base_layer().bias for name, layer in layers.items()}
    before = {name: bias.clone() for name, bias in biases.items() if bias is not None}
    for name, layer in layers.items():
        try:
            layer.merge(safe_merge=True, adapter_names=["default"])
        except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
            what = f"peft cannot merge this kind of adapter ({' '.join(str(error).split())[:200]})"
            raise LoraplugError(what, where=source.adapter.folder, todo="use the adapter as it is") from None
        inner = layer.get_base_layer()
        if name in before and not torch.equal(inner.bias.data, before[name]):
            raise _not_linear([f"the bias of {name} is changed"], source)
        stored = stored_name(f"{name}.weight", plain, checkpoint)
        if stored is None:
            raise _not_linear([f"{name} is stored in a converted form"], source)
        change = inner.weight.data - checkpoint.tensors[stored].read().float()
        change = change if isinstance(inner, torch.nn.Linear) else change.T
        a, b = (made.get(f"{PREFIX}{name}.lora_{half}.weight") for half in "AB")
        yield name, change, Pair(a.float(), b.float()) if a is not None and b is not None else None


def _layers(model: Any, source: Source) -> dict[str, Any]:
    """The layers that have an adapter, by module name; all of them linear.

    Raises:
        InputError: there are none, or some are not linear; or modules are fully trained (`modules_to_save`).
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    found, problems = {}, []
    for full, module in model.named_modules():
        name = full.removeprefix(PREFIX)
        if isinstance(module, ModulesToSaveWrapper):
            problems.append(f"{name} is fully trained (modules_to_save)")
        elif isinstance(module, BaseTunerLayer):
            inner = module.get_base_layer()
            if not isinstance(inner, torch.nn.Linear) and type(inner).__name__ != "Conv1D":
                problems.append(f"{name} is a {type(inner).__name__}")
            found[name] = module
    if not found and not problems:
        problems.append(f"{source.adapter.config['peft_type']} changes no weights")
    if problems:
        raise _not_linear(problems, source)
    return found


def _not_linear(problems: list[str], source: Source) -> InputError:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    what = f"cannot become LoRA on linear layers: {'; '.join(problems[:3])}{more}"
    return InputError(what, where=source.adapter.folder / WEIGHTS, todo=MERGE_IT)
