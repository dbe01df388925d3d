"""The adapter `my-part`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import frozen

from loraplug import Adapter, Doc, InputError, load_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@frozen
class MyPart(Adapter):
    """A factor for each channel of keys, values and feed-forward layers (IA3), learned on a frozen base."""

    name = "my-part"
    target_modules: Annotated[tuple[str, ...], Doc("linear layers that get factors, by name")] = (
        "k_proj",
        "v_proj",
        "down_proj",
    )
    feedforward_modules: Annotated[tuple[str, ...], Doc("those of them whose input is scaled, not their output")] = (
        "down_proj",
    )

    def attach(self, model: PreTrainedModel) -> Any:
        """The model with factors of 1, so that it answers as before."""
        from peft import IA3Config, get_peft_model

        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=list(self.target_modules),
            feedforward_modules=list(self.feedforward_modules),
        )
        return get_peft_model(model, config)

    def trainable(self, model: Any) -> Mapping[str, Any]:
        """The factors."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def save(self, model: Any, folder: Path) -> None:
        """adapter_model.safetensors and adapter_config.json, as peft reads them."""
        model.save_pretrained(folder)

    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """The model with the factors of a folder.

        Raises:
            InputError: the folder does not hold them, or they are of another base.
        """
        try:
            return load_adapter(model, folder, trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # whatever peft raises
            raise InputError(f"cannot be put on the model ({error})", where=folder, todo="copy it again") from error

    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """Factors can be multiplied into the weights they stand beside."""
        return config.get("peft_type") == "IA3"
