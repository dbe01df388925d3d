"""Runs a model without loading it: a weight is read from its file when a module uses it, and freed when that module has
run.

A module's own weights are not the only ones it reads: `self.conv1d.weight` is read by the mixer around the convolution,
which never runs itself. So weights are loaded on access, by whichever module reads them. Weights that are not read this
way are NaN, so that a model that cannot be run like this gives NaN, never wrong values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from loraplug import LoraplugError
from loraplug_export.compat import own_parameters, read_parameters_from

if TYPE_CHECKING:
    import torch

Read = Callable[[str], "torch.Tensor"]
"""Name of a parameter to its values in float32."""


class NotInPiecesError(Exception):
    """The model cannot be run module by module; the message says why."""


@define
class Frame:
    """A module that is running, and the weights it has read, by the names of the model's parameters."""

    name: str
    merged: bool
    weights: dict[str, Any] = field(factory=dict)


@frozen
class Compared:
    """A module that was run twice, with base weights + adapter and with merged weights.

    Attributes:
        read: the merged parameters that it has read itself, without those of submodules.
        args: its inputs, positional ones first.
    """

    name: str
    module: torch.nn.Module
    read: Mapping[str, torch.Tensor]
    args: tuple[Any, ...]
    wanted: Any
    got: Any


class _Weights(dict[str, Any]):
    """Replaces a module's `_parameters`: loads the weight for the module that is running."""

    def __init__(self, pieces: Pieces, prefix: str, own: Mapping[str, Any]) -> None:
        super().__init__({key: None if value is None else _nothing(value) for key, value in own.items()})
        self._pieces, self._prefix = pieces, prefix

    def __getitem__(self, key: str) -> Any:
        nothing = super().__getitem__(key)
        return nothing if nothing is None else self._pieces.read(self._prefix + key, nothing)


def _nothing(parameter: torch.Tensor) -> Any:
    import torch

    values = torch.full((), float("nan")).expand(parameter.shape)
    return torch.nn.Parameter(values, requires_grad=False)


@define
class Pieces:
    """A model that is run module by module with lazily loaded weights.

    Attributes:
        model: its parameters may be on the meta device, its buffers may not.
        base: reads the base's values of a parameter.
        merged: reads the merged values.
        adapted: from module name, module, inputs and output with the base's weights to that of base + adapter.
        take: called with each module that was run twice.
    """

    model: torch.nn.Module
    base: Read
    merged: Read
    adapted: Callable[[str, Any, tuple[Any, ...], Any], Any]
    take: Callable[[Compared], None]
    _frames: list[Frame] = field(factory=list)
    _comparing: bool = True

    def read(self, name: str, nothing: Any) -> Any:
        """The values of a parameter for the module that is running."""
        import torch

        if not self._frames:
            return nothing
        frame = self._frames[-1]
        if name not in frame.weights:
            values = (self.merged if frame.merged else self.base)(name)
            frame.weights[name] = torch.nn.Parameter(values, requires_grad=False)
        return frame.weights[name]

    def run(self, rows: Sequence[Sequence[int]], done: Callable[[], None]) -> None:
        """Run rows of token ids through base + adapter, and each module that reads weights a second time with merged
        weights.

        Raises:
            NotInPiecesError: the model fails when it is run like this, or gives NaN.
            LoraplugError: from `base` and `merged`.
        """
        import torch

        for row in rows:
            self._call(partial(self.model, input_ids=torch.tensor([list(row)]), use_cache=False))
            done()

    def ask(self, name: str, inputs: torch.Tensor) -> None:
        """Run one module on inputs; raises as `run` does."""
        self._call(lambda: self.model.get_submodule(name)(inputs))

    def _call(self, model: Callable[[], Any]) -> None:
        import torch

        with self._installed(), torch.no_grad():
            try:
                model()
            except (LoraplugError, NotInPiecesError):
                raise
            except Exception as error:  # a model's own code may raise anything on unexpected inputs
                raise NotInPiecesError(f"{type(error).__name__}: {_line(error)}") from error

    @contextmanager
    def _installed(self) -> Iterator[None]:
        modules = [(name, module, own_parameters(module)) for name, module in self.model.named_modules()]
        for name, module, parameters in modules:
            read_parameters_from(module, _Weights(self, f"{name}." if name else "", parameters))
            module.forward = self._watching(name, module)
        try:
            yield
        finally:
            self._frames.clear()
            for _, module, parameters in modules:
                read_parameters_from(module, parameters)
                del module.forward

    def _watching(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        forward = module.forward

        def twice(*args: Any, **kwargs: Any) -> Any:
            given = copied((args, kwargs))  # a module may change its inputs in place
            with self._frame(name) as frame:
                wanted = self.adapted(name, module, (*args, *kwargs.values()), forward(*args, **kwargs))
            if not self._comparing or not frame.weights:
                return wanted
            if not all(bool(value.isfinite().all()) for value in tensors(wanted) if value.is_floating_point()):
                raise NotInPiecesError(f"{name or 'the model'} gives NaN or infinite values")
            read = tuple(frame.weights)
            frame.weights.clear()
            self._comparing = False
            try:
                with self._frame(name, merged=True) as frame:
                    kept = copied(given)
                    got = forward(*given[0], **given[1])
                    values = {key: self.read(key, None) for key in read}
                    self.take(Compared(name, module, values, (*kept[0], *kept[1].values()), wanted, got))
            finally:
                self._comparing = True
            return wanted

        return twice

    @contextmanager
    def _frame(self, name: str, merged: bool = False) -> Iterator[Frame]:
        frame = Frame(name, merged)
        self._frames.append(frame)
        try:
            yield frame
        finally:
            self._frames.pop()


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a module's output, in order: a tensor, a tuple, list or dictionary of them, or a `ModelOutput`."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def copied(value: Any) -> Any:
    """A copy of inputs with cloned tensors; other objects are shared.

    Raises:
        NotInPiecesError: a tensor is on the meta device.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise NotInPiecesError("a module is given a tensor on the meta device")
        return value.clone()
    if type(value) is tuple or type(value) is list:
        return type(value)(copied(part) for part in value)
    return {key: copied(part) for key, part in value.items()} if type(value) is dict else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
