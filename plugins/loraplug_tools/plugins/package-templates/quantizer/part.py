"""The quantizer `my-part`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Quantizer

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


@frozen
class MyPart(Quantizer):
    """8 bits a weight with bitsandbytes, outliers and chosen modules in full precision (LLM.int8)."""

    name = "my-part"
    threshold: Annotated[float, Doc("activations beyond this are multiplied in full precision")] = field(
        default=6.0, validator=validators.ge(0)
    )
    keep: Annotated[tuple[str, ...], Doc("modules that are not quantised, by name")] = ("lm_head",)

    def config(self, dtype: Any) -> BitsAndBytesConfig:
        """The `transformers` config; 8-bit products are computed in the dtype of what comes in."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=self.threshold, llm_int8_skip_modules=list(self.keep)
        )

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the base: only the adapters learn."""
        model.requires_grad_(False)
        return model
