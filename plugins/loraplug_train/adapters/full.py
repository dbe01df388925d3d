"""The `full` adapter: full fine-tuning, of the whole model or of named modules."""

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
    """Full fine-tuning without an adapter: all weights are trained, or those of named modules."""

    name = "full"
    makes = "model"

    modules: Annotated[
        tuple[str, ...],
        Doc("modules to train, by full name or its last parts: `model.layers.11`, `mlp`, `lm_head`; empty: all"),
    ] = field(default=())

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Refuse a quantizer (quantized weights cannot be trained) and sharded models."""
        if recipe.quantizer is not None:
            what = "trains the base weights, and quantized weights cannot be trained"
            yield Problem("trainer.adapter.use", f'"full" {what}; remove [quantizer], or set use = "lora"')
        if self.modules and getattr(getattr(recipe, "model", None), "add_tokens", ()):
            what = (
                "model.add_tokens adds embedding rows that must be trained; remove trainer.adapter.modules, so that "
                "everything is trained"
            )
            yield Problem("trainer.adapter.modules", what)
        try:
            if (kind := shards.requested()) in shards.SHARDED:
                how = "use_fsdp: false" if kind == "fsdp2" else "zero_stage: 2"
                what = "a sharded model that is trained whole cannot be checkpointed, so the run could not be resumed"
                yield Problem(shards.WHERE, f"{what}; set {how}")
        except InputError:
            return  # is reported elsewhere

    def preflight_model(self, run: Run, recipe: Any, model: PreTrainedModel) -> Iterator[Problem]:  # noqa: ARG002
        """Report names that match no module of the model."""
        for name in self._unknown(model):
            yield Problem("trainer.adapter.modules", f'"{name}" matches no module that has weights')

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make the weights to train float32 and trainable; returns the model itself.

        Raises:
            InputError: a name matches no module.
        """
        if unknown := self._unknown(model):
            what = f"{', '.join(unknown)}: no module with weights has such a name"
            raise InputError(what, where="trainer.adapter.modules", todo="see `model.named_modules()` for the names")
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
        """Save the whole model with `save_pretrained`, each weight in the dtype that it was loaded in."""
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
            raise InputError("is no model folder (it has no config.json)", where=folder, todo="check the path")
        try:
            saved = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
            model.load_state_dict(saved)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            what = f"does not fit this base model ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=folder, todo="load it with the base model that it was trained from") from error
        return self.attach(model)

    def mergeable(self, config: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """See `Adapter.mergeable`: the trained model replaces the base."""
        return True

    def _wanted(self, parameter: str) -> bool:
        module = parameter.rpartition(".")[0]
        return not self.modules or any(f".{name}." in f".{module}." for name in self.modules)

    def _unknown(self, model: Any) -> list[str]:
        paths = [f".{name.rpartition('.')[0]}." for name, _ in model.named_parameters()]
        return [name for name in self.modules if not any(f".{name}." in path for path in paths)]
