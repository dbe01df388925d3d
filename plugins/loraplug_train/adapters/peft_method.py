"""The `peft` adapter: any method of peft, configured by the fields of its own config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen

from loraplug import Adapter, Doc, InputError, Problem, Run, load_adapter
from loraplug_train.adapters.peft_fields import OURS, methods

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

_TASKS = "needs a task id with every row, which rows do not have here"
REFUSED = {
    "lora": 'has its own adapter here: use = "lora"',
    "adalora": "changes its ranks during training, which needs a training loop that calls it",
    "multitask_prompt_tuning": _TASKS,
    "poly": _TASKS,
    "shadow": "trains a second model beside the base",
    "xlora": "combines adapters that have been trained already",
}
"""Methods of peft that cannot be trained here, and why."""
UNMERGEABLE = frozenset(
    {"adaption_prompt", "beft", "cartridge", "cpt", "lily", "p_tuning", "prefix_tuning", "prompt_tuning", "shadow",
     "xlora"}
)  # fmt: skip
"""Methods that add no difference to the base's weights, so they cannot be merged."""
_MERGING = frozenset({"merged", "gguf", "ollama"})


@frozen
class PeftMethod(Adapter):
    """Any other method of peft: IA3, VeRA, OFT, LoHa, BOFT, HRA and more, by the options of its own config."""

    name = "peft"

    method: Annotated[str, Doc('name of the method in peft, such as "ia3", "vera" or "oft"')]
    options: Annotated[dict[str, Any], Doc("fields of that method's config in peft: `{ r = 8 }`")] = field(factory=dict)

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Refuse unknown methods and options, and exporters that would have to merge what cannot be merged."""
        known = methods()
        if self.method not in known or self.method in REFUSED:
            why = REFUSED.get(self.method, f"is not a method of peft{_near(self.method, known)}")
            told = ", ".join(sorted(set(known) - set(REFUSED)))
            yield Problem("trainer.adapter.method", f'"{self.method}" {why}; methods: {told}')
            return
        for option in self.options:
            place = f"trainer.adapter.options.{option}"
            if option in OURS:
                yield Problem(place, "is set by loraplug; leave it out")
            elif option not in known[self.method]:
                listed = ", ".join(sorted(known[self.method]))
                what = f"peft's {self.method} has no such option{_near(option, known[self.method])}"
                yield Problem(place, f"{what}; its options: {listed}")
        if getattr(getattr(recipe, "model", None), "add_tokens", ()):
            what = "cannot train the embedding rows of model.add_tokens"
            yield Problem("trainer.adapter.use", f'"peft" {what}; set use = "full", or [trainer.lora]')
        for number, exporter in enumerate(recipe.exporter):
            if exporter.name in _MERGING and self.method in UNMERGEABLE:
                what = f"{self.method} changes no weights, so it cannot be merged into the base model"
                yield Problem(
                    f"exporter[{number}]", f'{what}; use the exporter "adapter", or another trainer.adapter.method'
                )

    def preflight_model(self, run: Run, recipe: Any, model: PreTrainedModel) -> Iterator[Problem]:  # noqa: ARG002
        """Values that peft's config refuses."""
        try:
            self.config()
        except InputError as error:
            yield Problem.of(error, "trainer.adapter.options")

    def config(self) -> PeftConfig:
        """peft's config.

        Raises:
            InputError: it refuses a value.
        """
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.method.upper())]
        options = dict(self.options)
        try:
            return kind(task_type="CAUSAL_LM", **options)
        except (TypeError, ValueError, ImportError) as error:
            raise self._refused(error) from error

    def attach(self, model: PreTrainedModel) -> Any:
        """See `Adapter.attach`.

        Raises:
            InputError: peft refuses the options, or they do not fit this model.
        """
        from peft import get_peft_model

        config = self.config()
        try:
            adapted = get_peft_model(model, config)
        except (TypeError, ValueError, ImportError, RuntimeError, AttributeError, KeyError) as error:
            raise self._refused(error) from error
        if not self.trainable(adapted):
            raise InputError(
                "has nothing to train with these options",
                where="trainer.adapter.options",
                todo="see the method's options in peft's documentation",
            )
        return adapted

    def trainable(self, model: Any) -> Mapping[str, Any]:
        """See `Adapter.trainable`."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def save(self, model: Any, folder: Path) -> None:
        """adapter_model.safetensors and adapter_config.json, as peft reads them."""
        model.save_pretrained(folder, save_embedding_layers=False)

    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """See `Adapter.load`."""
        try:
            return _with_prompt(model, folder) or load_adapter(model, folder, trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # whatever peft raises
            what = f"cannot be loaded onto the model ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=folder, todo="the folder may be incomplete: copy it again") from error

    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """See `Adapter.mergeable`."""
        return str(config.get("peft_type")).lower() not in UNMERGEABLE

    def _refused(self, error: Exception) -> InputError:
        text = " ".join(str(error).split())[:300]
        return InputError(f"peft refuses {self.method}: {text}", where="trainer.adapter.options",
                          todo=f"see the options of {self.method} in peft's documentation")  # fmt: skip


def _with_prompt(model: Any, folder: Path) -> Any:
    """The model with a saved prompt, which peft would load only as frozen; None if the folder holds another method."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    if not config.is_prompt_learning:
        return None
    config.inference_mode = False
    adapted = get_peft_model(model, config)
    weights = load_peft_weights(str(folder), device="cpu", use_safetensors=True, local_files_only=True)
    set_peft_model_state_dict(adapted, weights)
    return adapted


def _near(name: str, known: Any) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
