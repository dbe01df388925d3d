"""Verifies a merge that peft made: real rows are run through base + adapter with peft, in float32, and every module is
run a second time with the weights of the merged files.

One model is in memory, plus the merged weights of one module at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from loraplug import Run
from loraplug_export.compat import Forms, own_parameters, stored_forms
from loraplug_export.judge import VerificationReport, Worst
from loraplug_export.logits import compare, load, logits, shake
from loraplug_export.pieces import Compared, NotInPiecesError, copied
from loraplug_export.plan import empty_model
from loraplug_export.tensors import Checkpoint, open_checkpoint
from loraplug_export.verify import made_up

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


@frozen
class _Unit:
    """A module to compare.

    Attributes:
        module: the module in the model, with adapters.
        bare: the same module without adapters.
        changed: whether an adapter is on it.
    """

    name: str
    module: torch.nn.Module
    bare: torch.nn.Module
    changed: bool

    def parameters(self) -> dict[str, str]:
        """Maps names within the bare module to names of the model's parameters."""
        return {key: f"{self.name}.{key}" if self.name else key for key in self.values()}

    def values(self) -> dict[str, torch.Tensor]:
        """The bare module's own weights, and those of its submodules if peft has wrapped it whole."""
        return dict(self.bare.named_parameters(recurse=self.changed))


@frozen
class _Merged:
    """Reads the merged files by the names of the model's parameters."""

    files: Checkpoint
    forms: Forms
    tied: Mapping[str, str]

    def holds(self, name: str) -> bool:
        """Whether the values of a parameter can be read."""
        return self._stored(name) is not None or name in self.forms.converted

    def read(self, name: str) -> torch.Tensor:
        """The values, in float32."""
        if (stored := self._stored(name)) is not None:
            return self.files.tensors[stored].read().float()
        return self.forms.converted[name].make(lambda source: self.files.tensors[source].read())[name].float()

    def dtype(self, name: str) -> str:
        """safetensors' name of the type that a parameter is stored in."""
        return self.files.tensors[self._stored(name) or self.forms.converted[name].sources[0]].dtype

    def _stored(self, name: str) -> str | None:
        others = [
            name,
            *filter(None, [self.tied.get(name)]),
            *(target for target, source in self.tied.items() if source == name),
        ]
        return next((self.forms.direct[other] for other in others if other in self.forms.direct), None)


@define
class _Watch:
    """Runs each module twice and compares the outputs.

    Attributes:
        seen: names of the compared modules.
        choices: modules that cannot be compared, as rounding changes a discrete choice in them.
    """

    merged: _Merged
    worst: Worst = field(factory=Worst)
    seen: set[str] = field(factory=set)
    choices: set[str] = field(factory=set)

    @contextmanager
    def over(self, units: Sequence[_Unit]) -> Iterator[None]:
        """Context manager: compare the modules whenever they run."""
        for unit in units:
            unit.module.forward = self._watching(unit)
        try:
            yield
        finally:
            for unit in units:
                del unit.module.forward

    def _watching(self, unit: _Unit) -> Any:
        forward = unit.module.forward

        def both(*args: Any, **kwargs: Any) -> Any:
            given, named = copied((args, kwargs))  # a module may change its inputs in place
            wanted = forward(*args, **kwargs)
            values = {key: self.merged.read(name) for key, name in unit.parameters().items()}
            with ExitStack() as stack:
                for inner, part in unit.bare.named_modules():
                    here = {key: value for key, value in values.items() if key.rpartition(".")[0] == inner}
                    stack.enter_context(_holding(part, here))
                inputs, options = copied((given, named))
                got = forward(*inputs, **options) if unit.bare is unit.module else unit.bare(*inputs, **options)
            read = {unit.parameters()[key]: value for key, value in values.items()}
            compared = Compared(unit.name, unit.bare, read, (*given, *named.values()), wanted, got)
            try:
                self.worst.take(compared, {self.merged.dtype(name) for name in read})
                self.seen.add(unit.name)
            except NotInPiecesError:
                self.choices.add(unit.name)
            return wanted

        return both


def verify_with_peft(
    model: PeftModel, merged: Path, rows: Sequence[Sequence[int]], run: Run, beside: int = 0
) -> VerificationReport:
    """Verify the merged folder against `model`, base + adapter unmerged in float32, on rows of token ids. Modules that
    cannot be compared are logged and covered by the comparison of the whole model's logits.

    Args:
        beside: number of stored tensors that the model does not load, already found to be the base's.

    Raises:
        LoraplugError: a module, or the whole model, differs by more than its stored dtype allows.
    """
    import torch

    bare = model.get_base_model()
    empty, files = empty_model(merged, tuple(name for name, _ in bare.named_modules())), open_checkpoint(merged)
    watch = _Watch(_Merged(files, stored_forms(empty, files.tensors), dict(empty.all_tied_weights_keys)))
    all_units = list(_units(bare))
    units = [unit for unit in all_units if all(map(watch.merged.holds, unit.parameters().values()))]
    outputs = []
    with run.progress("verifying the merge", len(rows)) as bar, watch.over(units), torch.inference_mode():
        for row in rows:
            outputs.append(model(input_ids=torch.tensor([list(row)]), use_cache=False).logits[0].float())
            bar.advance()
        for unit in units:
            if unit.changed and unit.name not in watch.seen | watch.choices:
                _try(unit)
    same = {unit.name for unit in units if not unit.changed and unit.name not in watch.seen and _same(unit, watch)}
    left = [unit for unit in all_units if unit.name not in watch.seen | same]
    proof = (
        watch.worst.judged(sum(map(len, rows)), len(same) + beside, merged, run) if watch.seen else VerificationReport()
    )
    if not left:
        return proof
    names = ", ".join(unit.name for unit in left[:3]) + (" …" if len(left) > 3 else "")
    run.warn(f"merged: {len(left)} modules cannot be compared one by one, only through the logits: {names}")
    return _by_logits(torch.cat(outputs), load(merged, type(empty)), watch.merged, rows, run)


def _by_logits(
    wanted: torch.Tensor, loaded: Any, merged: _Merged, rows: Sequence[Sequence[int]], run: Run
) -> VerificationReport:
    got = logits(loaded, rows)
    parameters = dict(loaded.named_parameters(remove_duplicate=False))
    names = [name for name in parameters if merged.holds(name)]
    shake({name: (parameters[name], merged.dtype(name)) for name in names})
    return compare(
        wanted, got, logits(loaded, rows), merged.files.folder, run, VerificationReport("logits", sum(map(len, rows)))
    )


def _units(model: torch.nn.Module, name: str = "") -> Iterator[_Unit]:
    """All modules that peft has wrapped, and all others that hold weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(model, BaseTunerLayer):
        yield _Unit(name, model, model.get_base_layer(), True)
        return
    if isinstance(model, AuxiliaryTrainingWrapper):
        yield _Unit(name, model, model.original_module, True)
        return
    if any(True for _ in model.parameters(recurse=False)):
        yield _Unit(name, model, model, False)
    for child, module in model.named_children():
        yield from _units(module, f"{name}.{child}" if name else child)


def _try(unit: _Unit) -> None:
    """Run a module that no row has reached on made-up inputs, if it accepts them."""
    try:
        unit.module(made_up(unit.bare))
    except (NotInPiecesError, RuntimeError, TypeError, ValueError, AttributeError):
        return


def _same(unit: _Unit, watch: _Watch) -> bool:
    """Whether a module that was not compared has the merged weights (up to rounding)."""
    import torch

    values = unit.values()
    return all(torch.equal(watch.merged.read(name), values[key].float()) for key, name in unit.parameters().items())


@contextmanager
def _holding(module: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Context manager: the module's own parameters have these values."""
    import torch

    own = own_parameters(module)
    before = dict(own)
    for key, value in values.items():
        own[key.rpartition(".")[2]] = torch.nn.Parameter(value, requires_grad=False)
    try:
        yield
    finally:
        own.update(before)
