"""LoRA by `[trainer.lora]` or `[trainer.adapter] use = "lora"`, and its translation to a `LoraConfig` of peft."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import field, frozen, validators

from loraplug import Adapter, Doc, InputError, attach_adapter, load_adapter, new_tokens, save_adapter, token_ends
from loraplug_train.adapters.targets import Targets, find_targets

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel


@frozen
class Lora:
    """Low-rank adapters (Hu et al. 2021): W becomes W + alpha/r · B·A, and only A and B are trained."""

    table: ClassVar[str] = "trainer.lora"
    """Where in a recipe these options stand."""

    r: Annotated[int, Doc("rank of B·A", aka=("rank", "lora_r", "lora_rank"))] = field(
        default=16, validator=validators.ge(1)
    )
    alpha: Annotated[float, Doc("B·A is scaled by alpha / r (by alpha / √r with use_rslora)", aka=("lora_alpha",))] = (
        field(default=32, validator=validators.gt(0))
    )
    dropout: Annotated[float, Doc("dropout probability of the inputs of A", aka=("lora_dropout",))] = field(
        default=0.0, validator=[validators.ge(0), validators.lt(1)]
    )
    target_modules: Annotated[
        str | tuple[str, ...],
        Doc(
            '"all-linear" (every linear layer but output and routers), "attention", "mlp", "experts" (fused ones '
            'too), names such as ["q_proj", "v_proj"], a list of any of these, or a regex'
        ),
    ] = "all-linear"
    layers_to_transform: Annotated[
        tuple[int, ...], Doc("indices of the decoder layers that get adapters, from 0; default: all")
    ] = field(default=(), validator=validators.deep_iterable(validators.ge(0)))
    modules_to_save: Annotated[
        tuple[str, ...], Doc("modules that are fully trained and saved with the adapter, e.g. embed_tokens")
    ] = ()
    use_rslora: Annotated[bool, Doc("scale by alpha/√r, for high ranks (Kalajdzievski 2023)", aka=("rslora",))] = False
    use_dora: Annotated[
        bool, Doc("DoRA: train magnitude and direction separately (Liu et al. 2024)", aka=("dora",))
    ] = False
    init_lora_weights: Annotated[
        Literal["default", "gaussian", "pissa", "olora", "orthogonal", "eva", "corda", "loftq"],
        Doc(
            "initialisation of A and B; default: A Kaiming-uniform, B zero; eva: A and ranks from the training rows",
            aka=("init",),
        ),
    ] = "default"
    rank_pattern: Annotated[dict[str, int], Doc("rank by layer name or regex, where it differs from r")] = field(
        factory=dict
    )
    alpha_pattern: Annotated[dict[str, float], Doc("alpha by layer name or regex, where it differs")] = field(
        factory=dict
    )

    loraplus_lr_ratio: Annotated[
        float | None,
        Doc(
            "learning rate of B divided by that of A (LoRA+, Hayou et al. 2024, who recommend 16)", aka=("plus_ratio",)
        ),
    ] = field(default=None, validator=validators.optional(validators.gt(0)))
    start_from: Annotated[
        Path | None,
        Doc(
            "continue training the adapter in this folder; its rank and target modules are used, not the "
            "ones given here"
        ),
    ] = None

    def put_on(self, model: PreTrainedModel) -> tuple[PeftModel, Targets]:
        """The model with new adapters or those of `start_from`, adapter weights in float32; and its coverage.

        Raises:
            InputError: no layer matches, one cannot be adapted, or `start_from` is no LoRA adapter for this model.
        """
        if self.start_from is None:
            targets = find_targets(self, model)
            tokens = new_tokens(model)
            rows = {end: list(tokens) for end in token_ends(model)} if tokens else None
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings(
                        "ignore", message="lora with eva initialization"
                    )  # a hint on faster loading
                    return attach_adapter(model, self.config(targets, rows)), targets
            except ValueError as error:  # peft's own error about a layer that was named
                raise InputError(" ".join(str(error).split())[:300], where=f"{self.table}.target_modules") from error
        where = f"{self.table}.start_from {self.start_from}"
        if not (self.start_from / "adapter_config.json").is_file():
            raise InputError(
                "is not an adapter folder (it has no adapter_config.json)", where=where, todo="check the path"
            )
        if (kind := _kind(self.start_from)) != "LORA":  # others read tokenizers as their config says
            raise InputError(
                f"is not a LoRA adapter (peft_type {kind})", where=where, todo="give the folder of a LoRA adapter"
            )
        if (trained := _token_rows(self.start_from)) != sorted(new_tokens(model)):
            what = f"has trained rows for {len(trained)} tokens, but model.add_tokens adds {len(new_tokens(model))}"
            raise InputError(what, where=where, todo="add the same tokens that it was trained with, in the same order")
        try:
            return load_adapter(model, self.start_from, trainable=True), Targets([])
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise InputError(
                f"does not fit the model: {' '.join(str(error).split())[:300]}",
                where=where,
                todo="use the base model that the adapter was trained on",
            ) from error

    def config(self, targets: Targets, rows: Mapping[str, list[int]] | None = None) -> LoraConfig:
        """The `LoraConfig` for these layers and these token ids, whose embedding and output rows are trained."""
        from peft import EvaConfig, LoraConfig

        return LoraConfig(
            eva_config=EvaConfig() if self.init_lora_weights == "eva" else None,
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets.modules,
            target_parameters=targets.parameters or None,
            modules_to_save=list(self.modules_to_save) or None,
            trainable_token_indices=dict(rows) if rows else None,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=True if self.init_lora_weights == "default" else self.init_lora_weights,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
        )


@frozen
class LoraAdapter(Lora, Adapter):
    """Low-rank adapters (Hu et al. 2021), with the options of `[trainer.lora]`, its short form."""

    name = "lora"
    table: ClassVar[str] = "trainer.adapter"

    def attach(self, model: PreTrainedModel) -> PeftModel:
        """See `Lora.put_on`."""
        return self.put_on(model)[0]

    def trainable(self, model: Any) -> Mapping[str, Any]:
        """See `Adapter.trainable`."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def save(self, model: Any, folder: Path) -> None:
        """See `Adapter.save`; under names that plain peft reads, as far as there are such."""
        save_adapter(model, folder)

    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """See `Adapter.load`."""
        try:
            return load_adapter(model, folder, trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # whatever peft raises
            what = f"cannot be put on the model ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=folder, todo="load it onto the base that it was trained on") from error

    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """See `Adapter.mergeable`."""
        return config.get("peft_type") == "LORA"


def _token_rows(adapter: Path) -> list[int]:
    """Ids of the tokens whose embedding rows a saved adapter trains."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    found = config.get("trainable_token_indices") or []
    ends = found.values() if isinstance(found, dict) else [found]
    return sorted({number for end in ends for number in end})


def _kind(adapter: Path) -> Any:
    """The `peft_type` of an adapter folder; None if its config has none."""
    try:
        return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, KeyError, TypeError, OSError):
        return None
