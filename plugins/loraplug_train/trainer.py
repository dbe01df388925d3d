"""The options that all trainers on the engine share, and the trainer `sft`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import (
    Adapter,
    Doc,
    Encoded,
    Estimate,
    Optimizer,
    Placement,
    Problem,
    Run,
    Scheduler,
    Trainer,
    TrainingResult,
)
from loraplug_train.adapters.lora import Lora
from loraplug_train.objectives.base import Objective
from loraplug_train.objectives.sft import SupervisedFineTuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_AT_LEAST_ONE = validators.optional(validators.ge(1))


@frozen(slots=False)  # so that an objective with options of its own can stand beside it
class EngineTrainer(Trainer):
    """The options that all trainers on the engine share. A trainer is an objective and this together:

        @frozen
        class DpoTrainer(Dpo, EngineTrainer):
            '''Direct preference optimisation.'''

            name = "dpo"

    All options have defaults, and so must those of the objective, whose schema of rows the trainer consumes. An
    objective that is made otherwise is given by `objective`.
    """

    columns = frozenset({"token_weights"})
    distributed = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if issubclass(cls, Objective):
            cls.consumes = cls.schema
            if cls.schema != "tokens" and "columns" not in vars(cls):
                cls.columns = frozenset()

    epochs: Annotated[float, Doc("passes over the training rows", aka=("num_train_epochs", "num_epochs"))] = field(
        default=3.0, validator=validators.gt(0)
    )
    max_steps: Annotated[int | None, Doc("number of optimizer steps; overrides epochs")] = field(
        default=None, validator=_AT_LEAST_ONE
    )
    batch_size: Annotated[int, Doc("rows per optimizer step", aka=("per_device_train_batch_size",))] = field(
        default=4, validator=validators.ge(1)
    )
    tokens_per_step: Annotated[int | None, Doc("tokens per optimizer step, at most, in place of batch_size")] = field(
        default=None, validator=_AT_LEAST_ONE
    )
    micro_batch: Annotated[
        int | Literal["auto"],
        Doc(
            "rows computed at once, packed without padding; halved when out of memory. auto: on a CPU one row, or with "
            "the fast kernel up to 512 tokens; on a GPU as many rows as together are no longer than the longest one"
        ),
    ] = "auto"
    optimizer: Annotated[
        Literal[
            "adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit",
            "ademamix", "adafactor", "sgd",
        ] | Optimizer,
        Doc("optimizer, by its name in transformers (8-bit and paged ones are those of bitsandbytes), or a table "
            "`[trainer.optimizer]` with `use`", aka=("optim",)),
    ] = "adamw_torch"  # fmt: skip
    learning_rate: Annotated[
        float, Doc("peak learning rate; the smallest models want more (1e-3 for SmolLM2-135M)", aka=("lr",))
    ] = field(default=5e-4, validator=validators.gt(0))
    scheduler: Annotated[
        Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] | Scheduler,
        Doc(
            "learning-rate schedule, by its name in transformers, or a table `[trainer.scheduler]` with `use`",
            aka=("lr_scheduler", "lr_scheduler_type"),
        ),
    ] = "cosine"
    warmup_ratio: Annotated[
        float, Doc("share of the steps in which the learning rate rises from 0", aka=("warmup",))
    ] = field(default=0.05, validator=[validators.ge(0), validators.lt(1)])
    weight_decay: Annotated[float, Doc("weight decay of the trained weights")] = field(
        default=0.0, validator=validators.ge(0)
    )
    max_grad_norm: Annotated[float, Doc("gradients are clipped to this norm")] = field(
        default=1.0, validator=validators.gt(0)
    )
    neftune_alpha: Annotated[
        float | None,
        Doc(
            "strength of noise on the embeddings (NEFTune, Jain et al. 2023); typically 5", aka=("neftune_noise_alpha",)
        ),
    ] = field(default=None, validator=validators.optional(validators.gt(0)))
    gradient_checkpointing: Annotated[
        bool | Literal["auto"],
        Doc("recompute activations in the backward pass: less memory, a third more time. auto: if memory is short"),
    ] = "auto"
    router_loss: Annotated[
        float,
        Doc(
            "coefficient of the load-balancing loss of a mixture of experts; 0: none",
            aka=("router_aux_loss_coef",),
        ),
    ] = field(default=0.0, validator=validators.ge(0))
    kernel: Annotated[
        Literal["auto", "plain", "liger"],
        Doc(
            "how loss and gradients are computed. auto: loraplug's own kernel for common models on a CPU, else plain; "
            "plain: transformers' own code; liger: plain with liger-kernel's Triton kernels, on a GPU"
        ),
    ] = "auto"
    validate_every: Annotated[int | None, Doc("steps between validations", aka=("eval_steps",))] = field(
        default=None, validator=_AT_LEAST_ONE
    )
    early_stopping: Annotated[
        int | None,
        Doc("stop after this many validations in a row without a lower loss", aka=("early_stopping_patience",)),
    ] = field(default=None, validator=_AT_LEAST_ONE)
    load_best_model_at_end: Annotated[
        bool, Doc("export the adapter with the lowest validation loss, not the last one", aka=("keep_best",))
    ] = False
    save_every: Annotated[
        int | str, Doc('steps between checkpoints, or a time: "90 s", "10 min"', aka=("save_steps",))
    ] = "5 min"
    save_total_limit: Annotated[int, Doc("checkpoints kept", aka=("keep",))] = field(
        default=2, validator=validators.ge(1)
    )
    report_to: Annotated[
        Literal["auto"] | tuple[Literal["wandb", "tensorboard", "trackio", "mlflow"], ...],
        Doc("experiment trackers to report to. auto: wandb where WANDB_API_KEY is set and not `disabled`"),
    ] = "auto"
    samples: Annotated[int, Doc("prompts answered before and after training, for the summary")] = field(
        default=1, validator=validators.ge(0)
    )
    lora: Annotated[Lora, Doc("the adapters")] = field(factory=Lora)
    adapter: Annotated[
        Adapter | None,
        Doc("what is trained, in place of the table `lora`: LoRA, another method of peft, or the whole model"),
    ] = None

    @property
    def lora_options(self) -> Lora | None:
        """LoRA's options, whichever table has them; None where something else is trained."""
        if self.adapter is None:
            return self.lora
        return self.adapter if isinstance(self.adapter, Lora) else None

    def objective(self) -> Objective:
        """The objective to minimise; by default the trainer itself."""
        if not isinstance(self, Objective):
            raise TypeError(f"{type(self).__name__} is no Objective; return the one to train with from objective()")
        return self

    def check(self, recipe: Any) -> Iterable[Problem]:
        """Options that cannot be combined, those of the objective among them."""
        from loraplug_train.engine.options import problems

        yield from self.objective().option_problems()
        if self.adapter is not None and self.lora != Lora():
            what = "and [trainer.lora] both say what is trained; leave out one of the two"
            yield Problem("trainer.adapter", what)
        yield from problems(self, recipe)

    def preflight(self, run: Run, recipe: Any) -> Iterable[Problem]:
        """Report names that match no module of the base, an unusable `start_from`, too little memory."""
        from loraplug_train.engine.preflight import problems

        return problems(self, run, recipe)

    def preflight_model(self, run: Run, recipe: Any, model: PreTrainedModel) -> Iterable[Problem]:
        """Report names and patterns of LoRA's table that match no module, and too little memory for unquantized
        experts.
        """
        from loraplug_train.adapters.targets import check_names
        from loraplug_train.engine.preflight import experts_too_large

        if self.lora_options is not None and self.lora_options.start_from is None:
            check_names(self.lora_options, model)
        return experts_too_large(run, recipe, model)

    def disk(self, run: Run, recipe: Any) -> dict[Path, int]:
        """Bytes of the adapter and its checkpoints, each with two optimizer moments per parameter, in float32."""
        from loraplug_train.engine.preflight import trained_numbers

        trained = 4 * trained_numbers(self, run, recipe)
        there = sum(path.stat().st_size for path in run.folder.glob("checkpoints/**/*") if path.is_file())
        return {run.folder: trained + 3 * trained * (self.save_total_limit + 1) - there}

    def makes(self) -> Literal["adapter", "model"]:
        """`model` for full fine-tuning, else `adapter`."""
        return "adapter" if self.adapter is None else self.adapter.makes

    def estimate(self, run: Run, model: PreTrainedModel, lengths: Sequence[int]) -> Estimate:  # noqa: ARG002
        """Memory of weights, adapters, optimizer and the longest row's activations; time from two measured steps."""
        from loraplug_train.engine.forecast import forecast

        epochs = self.epochs
        if self.max_steps is not None:
            epochs = self.max_steps * self.batch_size / len(lengths)
        return forecast(self, model, lengths, epochs)

    def placement(self, run: Run) -> Placement:  # noqa: ARG002
        """The GPU, or the CPU if the weights are sharded from there."""
        from loraplug_train.engine import shards

        kind = shards.capture()
        return Placement(sharding=kind if kind in shards.SHARDED else "")

    def train(
        self,
        run: Run,
        load_model: Callable[[Placement], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        train: Encoded | None,
        validation: Encoded | None,
    ) -> TrainingResult:
        """Train, resuming from the newest intact checkpoint; the adapter is written to `run.folder / "adapter"`."""
        from logging import ERROR, getLogger

        getLogger("bitsandbytes").setLevel(ERROR)  # peft imports it, and it warns about an optional package
        from loraplug_train.engine.engine import Engine

        return Engine(self, self.objective()).fit(run, load_model, tokenizer, train, validation)


@frozen
class Sft(SupervisedFineTuning, EngineTrainer):
    """LoRA supervised fine-tuning; QLoRA when the recipe has a quantizer."""

    name = "sft"
