"""The `peft` adapter: any method that peft has, by its own config."""

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

_TASKS = "needs a number of its task with every row, which rows here do not have"
REFUSED = {
    "lora": 'has an adapter of its own: use = "lora"',
    "adalora": "changes its ranks as it is trained, which peft leaves to the training loop",
    "multitask_prompt_tuning": _TASKS,
    "poly": _TASKS,
    "shadow": "trains a second model beside the base",
    "xlora": "mixes adapters that are trained already",
}
"""Methods of peft that are no adapter of one training, and why."""
UNMERGEABLE = frozenset(
    {"adaption_prompt", "beft", "cartridge", "cpt", "lily", "p_tuning", "prefix_tuning", "prompt_tuning", "shadow",
     "xlora"}
)  # fmt: skip
"""Methods whose difference is not one of the base's weights: no merge can take it in."""
_MERGING = frozenset({"merged", "gguf", "ollama"})


@frozen
class PeftMethod(Adapter):
    """Any other method of peft: IA3, VeRA, OFT, LoHa, BOFT, HRA and more, by the options of its own config."""

    name = "peft"

    method: Annotated[str, Doc('its name in peft, such as "ia3", "vera" or "oft"')]
    options: Annotated[
        dict[str, Any], Doc("options of peft's config of that method, by their names there: `{ r = 8 }`")
    ] = field(factory=dict)

    def check(self, recipe: Any) -> Iterator[Problem]:
        """A method that peft does not have, options that it does not take, exporters that would have to merge it."""
        known = methods()
        if self.method not in known or self.method in REFUSED:
            why = REFUSED.get(self.method, f"is no method of peft{_near(self.method, known)}")
            told = ", ".join(sorted(set(known) - set(REFUSED)))
            yield Problem("trainer.adapter.method", f'"{self.method}" {why}; methods: {told}')
            return
        for option in self.options:
            place = f"trainer.adapter.options.{option}"
            if option in OURS:
                yield Problem(place, "is filled in by the adapter; leave it out")
            elif option not in known[self.method]:
                listed = ", ".join(sorted(known[self.method]))
                what = f"peft's {self.method} has no such option{_near(option, known[self.method])}"
                yield Problem(place, f"{what}; it has: {listed}")
        if getattr(getattr(recipe, "model", None), "add_tokens", ()):
            what = "does not train the rows of model.add_tokens"
            yield Problem("trainer.adapter.use", f'"peft" {what}; take use = "full", or [trainer.lora]')
        for number, exporter in enumerate(recipe.exporter):
            if exporter.name in _MERGING and self.method in UNMERGEABLE:
                what = f"{self.method} changes no weights, so it cannot be merged into the base"
                yield Problem(f"exporter[{number}]", f'{what}; take "adapter", or another trainer.adapter.method')

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
            InputError: peft's word on options that do not go together, or with this model.
        """
        from peft import get_peft_model

        config = self.config()
        try:
            adapted = get_peft_model(model, config)
        except (TypeError, ValueError, ImportError, RuntimeError, AttributeError, KeyError) as error:
            raise self._refused(error) from error
        if not self.trainable(adapted):
            raise InputError("leaves nothing to train", where="trainer.adapter.options", todo="see its options in peft")
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
            what = f"cannot be put on the model ({' '.join(str(error).split())[:300]})"
            raise InputError(what, where=folder, todo="copy it again") from error

    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """See `Adapter.mergeable`."""
        return str(config.get("peft_type")).lower() not in UNMERGEABLE

    def _refused(self, error: Exception) -> InputError:
        text = " ".join(str(error).split())[:300]
        return InputError(f"peft refuses {self.method}: {text}", where="trainer.adapter.options",
                          todo=f"see the options of {self.method} in peft's documentation")  # fmt: skip


def _with_prompt(model: Any, folder: Path) -> Any:
    """The model with a saved prompt, which peft loads as frozen alone; None where the folder holds something else."""
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
