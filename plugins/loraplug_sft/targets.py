"""Which modules the names and patterns of `[trainer.lora]` mean, and which of them mean none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from loraplug import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loraplug_sft.lora import Lora

_WHERE = "trainer.lora"


def check_names(lora: Lora, model: PreTrainedModel) -> None:
    """Hold every name and pattern of `lora` against the modules of a model.

    Raises:
        InputError: some match nothing, or a pattern matches only modules that get no adapter; all of them in one error.
    """
    modules = [name for name, _ in model.named_modules() if name]
    linear = _linear_layers(model)
    if problems := name_problems(lora, modules, linear):
        leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
        todo = f'linear layers: {", ".join(leaves)}; target_modules = "all-linear" takes all but the output'
        raise InputError("; ".join(problems), where=_WHERE, todo=todo)


def name_problems(lora: Lora, modules: list[str], linear: list[str]) -> list[str]:
    """What of a recipe's names and patterns matches nothing, among all modules and those that are linear layers."""
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    targets, problems = _targets(lora.target_modules, modules, linear, leaves)
    for name in lora.modules_to_save:
        if not _named(name, modules):
            ends = {module.rsplit(".", 1)[-1] for module in modules}
            problems.append(f'modules_to_save: "{name}" matches no module{_near(name, ends)}')
    for option in ("rank_pattern", "alpha_pattern") if not problems else ():  # they choose among the targets
        for pattern in getattr(lora, option):
            problems += _pattern_problem(option, pattern, targets)
    return problems


def _targets(
    wanted: str | Sequence[str], modules: list[str], linear: list[str], leaves: list[str]
) -> tuple[list[str], list[str]]:
    """The modules that get an adapter, and what is wrong with how they are named."""
    if wanted == "all-linear":
        return linear, []
    if isinstance(wanted, str):
        try:
            found = [name for name in modules if re.fullmatch(wanted, name)]
        except re.error as error:
            return [], [f'target_modules: "{wanted}" is no regular expression ({error})']
        if found:
            return found, []
        listed = [part.strip() for part in wanted.split(",")]
        if all(_named(part, modules) for part in listed):
            names = ", ".join(f'"{part}"' for part in listed)
            return [], [f'target_modules: "{wanted}" is read as a pattern and matches no module; write [{names}]']
        return [], [f'target_modules: "{wanted}" matches no module{_near(wanted, leaves)}']
    problems = [
        f'target_modules: "{name}" matches no module{_near(name, leaves)}'
        for name in wanted
        if not _named(name, modules)
    ]
    return [module for name in wanted for module in _named(name, modules)], problems


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """All linear layers but the output, as peft takes "all-linear"."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if (hasattr(module, "in_features") or isinstance(module, Conv1D)) and module is not head
    ]


def _named(name: str, modules: Iterable[str]) -> list[str]:
    return [module for module in modules if module == name or module.endswith(f".{name}")]


def _pattern_problem(option: str, pattern: str, targets: list[str]) -> list[str]:
    """A pattern matches as in peft: at the end of a module's name, from a dot or the beginning on."""
    try:
        fits = re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        return [f'{option}: "{pattern}" is no regular expression ({error})']
    if any(fits.match(name) for name in targets):
        return []
    return [f'{option}: "{pattern}" matches no adapted layer{_near(pattern, {n.rsplit(".", 1)[-1] for n in targets})}']


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
