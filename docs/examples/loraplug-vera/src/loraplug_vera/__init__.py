"""A loraplug plugin: the adapter `vera`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Adapter, Doc, InputError, hookimpl, load_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LORAPLUG_API = "2.0"


@frozen
class Vera(Adapter):
    """Two vectors for each layer, on random projections that are shared and stay as they are (VeRA)."""

    name = "vera"
    r: Annotated[int, Doc("rows of the shared projections; costs memory, hardly any parameters")] = field(
        default=64, validator=validators.ge(1)
    )
    target_modules: Annotated[tuple[str, ...], Doc("linear layers that get vectors, by name")] = ("q_proj", "o_proj")

    def attach(self, model: PreTrainedModel) -> Any:
        """The model with vectors that change nothing yet."""
        from peft import VeraConfig, get_peft_model

        return get_peft_model(
            model, VeraConfig(task_type="CAUSAL_LM", r=self.r, target_modules=list(self.target_modules))
        )

    def trainable(self, model: Any) -> Mapping[str, Any]:
        """The vectors."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def save(self, model: Any, folder: Path) -> None:
        """adapter_model.safetensors and adapter_config.json, as peft reads them."""
        model.save_pretrained(folder)

    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """The model with the vectors of a folder.

        Raises:
            InputError: the folder does not hold them, or they are of another base.
        """
        try:
            return load_adapter(model, folder, trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # whatever peft raises
            raise InputError(f"cannot be put on the model ({error})", where=folder, todo="copy it again") from error

    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """Vectors and projections multiply out to a change of the weights they stand beside."""
        return config.get("peft_type") == "VERA"


@hookimpl
def loraplug_adapters() -> Sequence[type[Adapter]]:
    """Bring `vera`."""
    return [Vera]
