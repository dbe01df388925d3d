"""The model loader `my-part`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, InputError, ModelLoader, Placement, Quantizer, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANYWHERE = Placement()


@frozen
class MyPart(ModelLoader):
    """A causal language model in a local folder, loaded without asking any hub."""

    name = "my-part"
    path: Annotated[Path, Doc("the folder, with config.json, safetensors and tokenizer")]
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Doc("number format to compute in")] = "float32"

    def load_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """The folder's tokenizer."""
        from transformers import AutoTokenizer

        return self._load(AutoTokenizer, run)

    def load_model(
        self, run: Run, quantization: Quantizer | None = None, placement: Placement = ANYWHERE
    ) -> PreTrainedModel:
        """The model in evaluation mode, on the GPU where there is one and `placement` does not say otherwise."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # a run shows its own
        dtype = getattr(torch, placement.dtype or self.dtype)
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
        if quantization is not None:
            options["quantization_config"] = quantization.config(dtype)
        if placement.device is not None:
            options["device_map"] = {"": placement.device}
        elif torch.cuda.is_available() and not placement.sharding:
            options["device_map"] = {"": torch.cuda.current_device()}
        return self._load(AutoModelForCausalLM, run, **options)

    def base(self, run: Run) -> Path:
        """The folder itself."""
        if not (self.path / "config.json").is_file() or not any(self.path.glob("*.safetensors")):
            what = "is no folder with config.json and safetensors"
            raise InputError(what, where=f"model.path {self.path}", todo="name the folder of a saved model")
        return self.path

    def _load(self, auto: Any, run: Run, **options: Any) -> Any:
        from safetensors import SafetensorError

        folder = self.base(run)
        try:
            return auto.from_pretrained(folder, local_files_only=True, **options)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            what = f"cannot be loaded ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=f"model.path {folder}", todo="save the model again") from error
