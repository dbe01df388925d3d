"""The `full` adapter: the model itself is trained, whole or in named parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen

from loraplug import Adapter, Doc, InputError, Problem, Run
from loraplug_train.engine import shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STORED = "loraplug_stored_in"


@frozen
class Full(Adapter):
    """The model itself, without an adapter: every weight, or those of named modules."""

    name = "full"
    makes = "model"

    modules: Annotated[
        tuple[str, ...],
        Doc("modules that are trained, by name or the end of it: `model.layers.11`, `mlp`, `lm_head`; none: all"),
    ] = field(default=())

    def check(self, recipe: Any) -> Iterator[Problem]:
        """A quantizer, whose weights cannot be trained, and a model that is spread over processes."""
        if recipe.quantizer is not None:
            what = "trains the weights themselves, which a quantizer does not let it"
            yield Problem("trainer.adapter.use", f'"full" {what}; leave out [quantizer], or take use = "lora"')
        if self.modules and getattr(getattr(recipe, "model", None), "add_tokens", ()):
            what = "model.add_tokens has rows that are to be trained; leave trainer.adapter.modules out"
            yield Problem("trainer.adapter.modules", what)
        try:
            if (kind := shards.asked()) in shards.CUT:
                how = "use_fsdp: false" if kind == "fsdp2" else "zero_stage: 2"
                what = "a whole model that is spread over processes has no checkpoint that any of them could go on from"
                yield Problem(shards.WHERE, f"{what}; set {how}")
        except InputError:
            return  # told for itself

    def preflight_model(self, run: Run, recipe: Any, model: PreTrainedModel) -> Iterator[Problem]:  # noqa: ARG002
        """Names of modules that the model does not have."""
        for name in self._unknown(model):
            yield Problem("trainer.adapter.modules", f'"{name}" matches no module that has weights')

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model itself; what is trained of it is stored in float32, and is to be held to `mixed_precision`.

        Raises:
            InputError: a name matches no module.
        """
        if unknown := self._unknown(model):
            what = f"{', '.join(unknown)}: no module of these names has weights"
            raise InputError(what, where="trainer.adapter.modules", todo="see the names of the model's modules")
        stored = {}
        model.requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.is_floating_point() and self._wanted(name):
                stored[name] = weight.dtype
                weight.data = weight.data.float()
                weight.requires_grad_(True)
        setattr(model, _STORED, stored)
        return model

    def trainable(self, model: Any) -> Mapping[str, Any]:
        """See `Adapter.trainable`."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def save(self, model: Any, folder: Path) -> None:
        """The whole model as transformers writes it, every weight in the format that it was loaded in."""
        stored = getattr(model, _STORED, {})
        state = {name: weight.to(stored.get(name, weight.dtype)) for name, weight in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=state)
        if stored:  # transformers writes that of the weights in memory
            path = folder / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            config["dtype"] = str(next(iter(stored.values()))).removeprefix("torch.")
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """See `Adapter.load`."""
        from transformers import AutoModelForCausalLM

        if not (folder / "config.json").is_file():
            raise InputError("holds no model (no config.json)", where=folder, todo="check the path")
        try:
            saved = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
            model.load_state_dict(saved)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            what = f"is of another base ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=folder, todo="load it onto the base that it was trained from") from error
        return self.attach(model)

    def mergeable(self, config: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """See `Adapter.mergeable`: it takes the base's place."""
        return True

    def _wanted(self, parameter: str) -> bool:
        module = parameter.rpartition(".")[0]
        return not self.modules or any(f".{name}." in f".{module}." for name in self.modules)

    def _unknown(self, model: Any) -> list[str]:
        paths = [f".{name.rpartition('.')[0]}." for name, _ in model.named_parameters()]
        return [name for name in self.modules if not any(f".{name}." in path for path in paths)]
