"""The kinds of component. A component is a frozen attrs class: its fields are options, its main method does the work.

A field whose type is one of these bases, a list of them or an optional one, is a table with its own `use`: a component
may contain components of any kind. Methods are called with keyword arguments.

Annotate every field with `Doc`; `plugins show`, the JSON schema and the docs are generated from it. Import torch,
transformers, datasets and the like inside methods, never at module level: listing plugins must stay fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from loraplug.config.options import ByUse
from loraplug.data.schemas import Encoded, Placement
from loraplug.errors import InputError
from loraplug.plugin.handover import BaseFacts, Estimate, ExportContext, Made, TrainingResult

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraplug.context import Run
    from loraplug.errors import Problem
    from loraplug.recipe.recipe import Recipe

ANYWHERE = Placement()


class Component(ByUse, ABC):
    """Base of all kinds. Do not subclass it directly."""

    __slots__ = ()

    def check(self, recipe: Recipe) -> Iterable[Problem]:  # noqa: ARG002
        """Yield problems of these options with each other or the rest of the recipe, without loading anything."""
        return ()

    def preflight(self, run: Run, recipe: Recipe) -> Iterable[Problem]:  # noqa: ARG002
        """Yield what would stop this stage although its options are valid: a missing file, a base that does not fit.

        Called for every stage by `recipe check`, and by `plan` and `run` before any work; all problems are shown at
        once. Must take a fraction of a second, without torch: whether files are there, their first rows,
        `recipe.model.facts(run)`. An InputError that is raised is one problem; those yielded before it count.
        """
        return ()

    def disk(self, run: Run, recipe: Recipe) -> Mapping[Path, int]:  # noqa: ARG002
        """Bytes that this stage will write, approximately, by folder or file (which need not exist yet).

        Compared with the free disk space before any work, together with what other stages will write there.
        """
        return {}

    def preflight_model(self, run: Run, recipe: Recipe, model: PreTrainedModel) -> Iterable[Problem]:  # noqa: ARG002
        """Yield problems that need the model's modules; `model` has its parameters on the meta device.

        Asked by `plan`, `run` and `recipe check --deep`, after `preflight`. All components are given the same model: do
        not change it.
        """
        return ()


class DatasetSource(Component):
    """Yields training rows.

    @frozen
    class YamlSource(DatasetSource):
        '''Rows of a YAML file, which is a list of mappings.'''

        name = "yaml"
        path: Annotated[Path, Doc("the YAML file")]

        def load(self, run):
            import yaml
            from datasets import Dataset

            return Dataset.from_list(yaml.safe_load(self.path.read_text()))
    """

    __slots__ = ()
    kind: ClassVar[str] = "dataset"

    @classmethod
    def reads(cls, path: str) -> bool:  # noqa: ARG003
        """Whether this source can read such a file, pattern or folder through its option `path`.

        Used to choose the source of `[validation] path`, by file extensions only.
        """
        return False

    @abstractmethod
    def load(self, run: Run) -> Dataset:
        """Rows of a shape the formatter knows (see `shape_of`); nested values (messages, tools) go into `Json` columns.

        Optional columns: `instance_id` or `task_id` names a row in messages to the user; `group` (a list of strings,
        coarse to fine, such as repository, then task) keeps related rows on the same side of the validation split.

        Raises:
            InputError: the data cannot be read or has no rows; names the file and the line or row.
        """


class Transform(Component):
    """Transforms rows between source and formatter: `[[dataset.transform]]`, in the order they are written.

    `for_validation` says whether the rows of `[validation] path` go through it, too. It should be true for a transform
    that changes rows, so that validation rows look the same, and false for one that selects or orders training rows.
    """

    __slots__ = ()
    kind: ClassVar[str] = "transform"
    for_validation: ClassVar[bool] = True

    @abstractmethod
    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows for the next transform, or for the formatter; `rows` itself must not be changed.

        The same rows, options and `run.seed` must give the same result, because a resumed run computes it again. The
        core reports the number of rows before and after. Report rows that are left out for another reason through
        `run`.

        Raises:
            InputError: the rows cannot be transformed; names the column or row.
        """


class Formatter(Component):
    """Encodes rows as tokens with labels, and packs them if configured.

    `produces` is the set of schemas it can encode into (see `encode`); the trainer uses one of them.
    """

    __slots__ = ()
    kind: ClassVar[str] = "formatter"
    produces: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def recognise(self, columns: Sequence[str], schema: str = "tokens") -> str:  # noqa: ARG002
        """A short description of rows with these columns, for the log; called once the rows are loaded.

        Args:
            schema: the schema they will be encoded into, one of `produces`.

        Raises:
            InputError: this formatter cannot encode such rows; the message says which it can.
        """
        return f"columns {', '.join(columns)}"

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens") -> Encoded:
        """Token ids and labels (-100 = not trained), as `Encoded` of the requested schema.

        Columns; `row` is always a list of str, the ids of the rows that were encoded:

        - `tokens`: `input_ids` (list of int, length L), `labels` (list of int, length L), `row`; for packed rows
          `seq_lengths` (list of int, summing to L); if a token has a weight other than 0 and 1, `token_weights` (list
          of float, length L: the factor of its loss; 0 if not trained).
        - `pairs`: `prompt_ids`, then for each of the two answers `chosen_ids`, `chosen_labels`, `rejected_ids`,
          `rejected_labels` (lists of int, labels as long as their ids), `row`.
        - `labelled`: `prompt_ids`, `completion_ids`, `completion_labels` (lists of int), `label` (bool: whether the
          completion is desirable), `row`.
        - `rollouts`: `prompt_ids`, `completion_ids` (lists of int), `old_log_probs` (list of float, as long as the
          completion), `advantage` (float), `group` (str), `row`.

        Rows that are left out are counted and reported through `run`.

        Args:
            schema: one of `produces`.

        Raises:
            InputError: the rows cannot be encoded; names the row.
        """

    def encode_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        run: Run,  # noqa: ARG002
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The prompt's token ids for these messages; every command makes prompts with this method.

        By default through the chat template; text in messages never becomes a control token.

        Args:
            messages: with `role` and `content` (text), and other keys that the chat template reads.
            tools: JSON schemas of functions that the model may call.

        Raises:
            InputError: there is no chat template, or it refuses the messages.
        """
        from loraplug.pipeline.prompts import encode_prompt

        return encode_prompt(tokenizer, messages, tools)


class ModelLoader(Component):
    """Loads a base model and its tokenizer."""

    __slots__ = ()
    kind: ClassVar[str] = "model"

    @abstractmethod
    def load_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """The tokenizer, with its chat template."""

    @abstractmethod
    def load_model(
        self, run: Run, quantization: Quantizer | None = None, placement: Placement = ANYWHERE
    ) -> PreTrainedModel:
        """The base model in evaluation mode, quantized with `quantization` if given, on the device of `placement`."""

    @abstractmethod
    def base(self, run: Run) -> Path:
        """A local folder with the full-precision base model: safetensors, config and tokenizer.

        Quantizers load it and exporters merge into it, so a GGUF file is dequantized into `run.cache` once.
        """

    def facts(self, run: Run) -> BaseFacts | None:  # noqa: ARG002
        """The base's facts, read from its files in a fraction of a second, without torch.

        None if they are not available; this loader's `preflight` reports the reason.
        """
        return None

    def load_empty(self, run: Run) -> PreTrainedModel | None:  # noqa: ARG002
        """The model without weights, on the meta device, in a few seconds; None if this loader does not support it.

        Raises:
            InputError: this loader cannot load the base.
        """
        return None


class Quantizer(Component):
    """Loads the base in fewer bits per weight."""

    __slots__ = ()
    kind: ClassVar[str] = "quantizer"

    @abstractmethod
    def config(self, dtype: Any) -> Any:
        """The `transformers` quantization config; `dtype` is the torch compute dtype."""

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Prepare a freshly loaded quantized model for training adapters."""
        return model

    def dequantize(self, weight: Tensor, dtype: Any) -> Tensor:  # noqa: ARG002
        """A weight as the quantized model has it: quantized and dequantized, in float32.

        Called by exporters that merge an adapter into the weights it was trained with (`onto = "dequantized"`).

        Args:
            weight: weight of a linear layer, shape (outputs, inputs), in full precision.
            dtype: the torch dtype that the model was loaded in.

        Raises:
            InputError: this quantizer does not support it.
        """
        what = f"the quantizer {self.name} cannot dequantize a weight"
        raise InputError(what, where="exporter.onto", todo='set onto = "original"')


class Trainer(Component):
    """Trains on encoded rows, and saves an adapter or a model.

    Attributes:
        consumes: the schema of its encoded rows, see `Formatter.encode`.
        columns: further columns that it uses: the encoded column `token_weights`, and columns that judge answers
            (`chosen`, `label`, `score` …) and are not part of its schema. Data with such a column is refused if the
            trainer does not list it, because training would ignore the column.
        distributed: whether several processes may train together; see `Run.distributed`. If false, a launcher of
            several processes is refused.
    """

    __slots__ = ()
    kind: ClassVar[str] = "trainer"
    consumes: ClassVar[str] = "tokens"
    columns: ClassVar[frozenset[str]] = frozenset()
    distributed: ClassVar[bool] = False

    @abstractmethod
    def train(
        self,
        run: Run,
        load_model: Callable[[Placement], PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        train: Encoded | None,
        validation: Encoded | None,
    ) -> TrainingResult:
        """Train on rows of the schema `consumes`; write the complete result to `run.folder / "adapter"` or `"model"`.

        If several processes train together, all but the first get None for the rows and write nothing.

        Args:
            load_model: loads the model of the recipe, quantised if the recipe says so. `load_model(Placement())` is
                enough for most trainers; a second call loads a reference model.

        Raises:
            LoraplugError: training cannot start or has failed; names the step and rows.
        """

    def makes(self) -> Made:
        """The kind of its result, by its options: exporters that do not support it are refused before the run."""
        return "adapter"

    def placement(self, run: Run) -> Placement:  # noqa: ARG002
        """Where it will load the model; called in every process before the process group is initialised."""
        return ANYWHERE

    def estimate(self, run: Run, model: PreTrainedModel, lengths: Sequence[int]) -> Estimate | None:  # noqa: ARG002
        """Memory and time for encoded rows of these lengths (tokens); None if the trainer cannot estimate them."""
        return None


class Exporter(Component):
    """Exports what was trained.

    Attributes:
        takes: kinds of result that it can export, see `TrainingResult`.
        needs: names of exporters whose artefacts it uses; they must be in the recipe too, before this one.
    """

    __slots__ = ()
    kind: ClassVar[str] = "exporter"
    takes: ClassVar[frozenset[str]] = frozenset({"adapter"})
    needs: ClassVar[tuple[str, ...]] = ()

    def place(self, run: Run) -> Path:
        """The path of the artefact, a file or a folder."""
        return run.outputs / self.name / run.name

    @abstractmethod
    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the artefact to `out`, a temporary path beside its place; the core renames it on success.

        Returns:
            `out`, or None if nothing stays on disk (a push to a hub).

        Raises:
            LoraplugError: it cannot be made. The core removes what was written.
        """


class Adapter(Component):
    """Decides what is trained of a model: LoRA, another peft method, or the whole model. For trainers that use one.

    `makes` says what `save` writes: an adapter in peft's format, or a model as transformers writes it.
    """

    __slots__ = ()
    kind: ClassVar[str] = "adapter"
    makes: ClassVar[Made] = "adapter"

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> Any:
        """Attach what is to be trained, and freeze everything else; before training the model must compute the same as
        the base.
        """

    @abstractmethod
    def trainable(self, model: Any) -> Mapping[str, Any]:
        """The trained parameters by name, of a model from `attach` or `load`; at least one."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Write the trained parameters into `folder`, as safetensors and JSON."""

    @abstractmethod
    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """Load what `save` wrote onto the base, bit for bit.

        Raises:
            InputError: the folder does not contain it, or it does not fit this base.
        """

    @abstractmethod
    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """Whether what `save` wrote can be merged into the base; `config` is the saved settings, a JSON object."""


class Optimizer(Component):
    """Changes what is trained by its gradients. For trainers that hold one, as `[trainer.optimizer]`."""

    __slots__ = ()
    kind: ClassVar[str] = "optimizer"

    @abstractmethod
    def make(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> TorchOptimizer:
        """A `torch.optim.Optimizer` of these groups of parameters.

        It goes by the `lr` and `weight_decay` of each of its groups, of which the first is changed before every step.
        All that it remembers is in its `state_dict()`, as tensors, numbers, texts and lists of such, so that a
        training that goes on ends as one that was not stopped.

        Args:
            groups: each has `params` (tensors of any shape), `weight_decay`, and perhaps a `lr` of its own.
            learning_rate: the peak, for groups without their own.
        """


class Scheduler(Component):
    """The course of the learning rate. For trainers that hold one, as `[trainer.scheduler]`."""

    __slots__ = ()
    kind: ClassVar[str] = "scheduler"

    @abstractmethod
    def factor(self, step: int, steps: int, warmup: int) -> float:
        """What the peak learning rate is multiplied by in one step; it follows from these numbers alone.

        Args:
            step: how many steps are done, from 0 to `steps`.
            steps: how many there will be, at least 1.
            warmup: in how many of them, at the beginning, the rate is to rise; less than `steps`.
        """


KINDS: dict[str, type[Component]] = {
    cls.kind: cls
    for cls in (
        DatasetSource, Transform, Formatter, ModelLoader, Quantizer, Adapter, Optimizer, Scheduler, Trainer, Exporter,
    )
}  # fmt: skip
"""Every kind of component, by name, in the order a run comes to them."""
TABLES = ("dataset", "formatter", "model", "quantizer", "trainer", "exporter")
"""The kinds that are tables of a recipe; the others are nested in these."""
HOOKS = {
    "loraplug_dataset_sources": "dataset",
    "loraplug_transforms": "transform",
    "loraplug_formatters": "formatter",
    "loraplug_model_loaders": "model",
    "loraplug_quantizers": "quantizer",
    "loraplug_adapters": "adapter",
    "loraplug_optimizers": "optimizer",
    "loraplug_schedulers": "scheduler",
    "loraplug_trainers": "trainer",
    "loraplug_exporters": "exporter",
}
"""The hook that brings components of each kind."""
RESERVED = {"dataset": ("transform", "formatter", "share")}
"""Keys beside `use` and `name` that the core reads, or will read, in a recipe's table: no option may be called so."""


def held(part: Component) -> Iterator[Component]:
    """Every component inside a component, in tables, lists and mappings, and those inside them."""
    return (inner for _, inner in held_at(part, ""))


def held_at(value: Any, path: str) -> Iterator[tuple[str, Component]]:
    """As `held`, each with its path in the recipe, such as `trainer.teacher`, where that of `value` is `path`."""
    inside: Iterable[tuple[str, Any]] = ()
    if attrs.has(type(value)):
        inside = ((f"{path}.{one.name}", getattr(value, one.name)) for one in attrs.fields(type(value)))
    elif isinstance(value, Mapping):
        inside = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        inside = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    for place, item in inside:
        if isinstance(item, Component):
            yield place, item
        yield from held_at(item, place)
