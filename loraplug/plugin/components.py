"""The kinds of component. A component is a frozen attrs class: fields are options, one verb is its job.

A field whose type is one of these bases, a list of them or an optional one, is a table with a `use` of its own: a
component may hold components of any kind. Verbs are called by keyword.

Annotate every field with `Doc`; `plugins show`, the JSON schema and the docs are made from it. Import torch,
transformers, datasets and the like inside methods, never at module level: listing plugins must stay fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
from attrs import Factory, frozen

from loraplug.config.options import ByUse
from loraplug.data.schemas import Encoded, Placement
from loraplug.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from loraplug.context import Run
    from loraplug.errors import Problem
    from loraplug.recipe.recipe import Recipe

ANYWHERE = Placement()
Made = Literal["adapter", "model"]


class Component(ByUse, ABC):
    """Base of all kinds. Not to be used directly."""

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
        """Rows of a shape the formatter knows (see `shape_of`); nested values (messages, tools) go in `Json` columns.

        Optional columns: `instance_id` or `task_id` name a row in messages to the user; `group` (a list of strings,
        coarse to fine, such as repository then task) keeps related rows on one side of the validation split.

        Raises:
            InputError: the data cannot be read or has no rows, naming file and line or row.
        """


class Transform(Component):
    """Transforms rows between source and formatter: `[[dataset.transform]]`, in the order they are written.

    `for_validation` says whether the rows of `[validation] path` go through it, too: yes for what changes rows, which
    must then look alike; no for what chooses among the training rows or orders them.
    """

    __slots__ = ()
    kind: ClassVar[str] = "transform"
    for_validation: ClassVar[bool] = True

    @abstractmethod
    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows that the next transform, or the formatter, is given; `rows` itself stays as it is.

        The same rows, options and `run.seed` must give the same rows, as a run that goes on makes them again. The core
        tells how many went in and came out; what is left out for a reason of its own is told through `run`.

        Raises:
            InputError: the rows cannot be transformed, naming column or row.
        """


class Formatter(Component):
    """Encodes rows as tokens with labels, and packs them if configured.

    `produces` are the schemas it can encode into (see `encode`); the trainer takes one of them.
    """

    __slots__ = ()
    kind: ClassVar[str] = "formatter"
    produces: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def recognise(self, columns: Sequence[str], schema: str = "tokens") -> str:  # noqa: ARG002
        """A short description of rows with these columns, for the log; called once the rows are loaded.

        Args:
            schema: what they are to be encoded into, one of `produces`.

        Raises:
            InputError: this formatter cannot encode such rows; the message says which it can.
        """
        return f"columns {', '.join(columns)}"

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens") -> Encoded:
        """Token ids and labels (-100 = not trained), as `Encoded` of the schema that is asked for.

        Columns; `row` is a list of str everywhere, the ids of the rows inside:

        - `tokens`: `input_ids` (list of int, length L), `labels` (list of int, length L), `row`; where rows were packed
          together `seq_lengths` (list of int, summing to L), and where a token has a weight other than 0 and 1
          `token_weights` (list of float, length L: the factor of its loss; 0 where not trained).
        - `pairs`: `prompt_ids`, and of each side behind it `chosen_ids`, `chosen_labels`, `rejected_ids`,
          `rejected_labels` (lists of int, labels as long as their ids), `row`.
        - `labelled`: `prompt_ids`, `completion_ids`, `completion_labels` (lists of int), `label` (bool: whether the
          completion is wanted), `row`.
        - `rollouts`: `prompt_ids`, `completion_ids` (lists of int), `old_log_probs` (list of float, as long as the
          completion), `advantage` (float), `group` (str), `row`.

        Rows left out are counted and told through `run`.

        Args:
            schema: one of `produces`.

        Raises:
            InputError: the rows cannot be encoded, naming the row.
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
            messages: with `role` and `content` (text), and what else the chat template reads.
            tools: JSON schemas of functions that the model may call.

        Raises:
            InputError: the chat template is missing, or refuses them.
        """
        from loraplug.pipeline.prompts import encode_prompt

        return encode_prompt(tokenizer, messages, tools)


@frozen
class BaseFacts:
    """Facts of a base model, read from its files without loading it.

    Attributes:
        folder: where they lie: the model's folder, or that of its `.gguf` file.
        config: config.json as it stands; of a GGUF file `model_type`, `vocab_size` and what else its header tells.
        weights: tensor name to number format and shape, by the headers of the files ("BF16", (576, 49152)); names and
            formats are those of the file, so a GGUF file's are `blk.0.attn_q.weight` and "Q4_K". Empty where no file
            is at hand.
        vocabulary: tokens the tokenizer knows; None where that is not told.
        chat_template: its text; None where there is none.
        is_gguf: whether names and formats are GGUF's.
        added_tokens: texts that the tokenizer keeps whole wherever they stand, special tokens among them; None where
            that is not told.
        template_advice: of a base without a chat template, which ones by name fit its tokenizer; for messages.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Mapping[str, tuple[str, tuple[int, ...]]] = Factory(dict)
    vocabulary: int | None = None
    chat_template: str | None = None
    is_gguf: bool = False
    added_tokens: frozenset[str] | None = None
    template_advice: str = ""

    @property
    def parameters(self) -> int:
        """The number of parameters, from the weights' shapes."""
        return sum(prod(shape) for _, shape in self.weights.values())


class ModelLoader(Component):
    """Loads a base model and its tokenizer."""

    __slots__ = ()
    kind: ClassVar[str] = "model"

    @abstractmethod
    def load_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """The tokenizer with its chat template."""

    @abstractmethod
    def load_model(
        self, run: Run, quantization: Quantizer | None = None, placement: Placement = ANYWHERE
    ) -> PreTrainedModel:
        """The base model in evaluation mode, quantized with `quantization` if given, on the device of `placement`."""

    @abstractmethod
    def base(self, run: Run) -> Path:
        """A local folder with the full-precision base as safetensors, config and tokenizer.

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
        """The `transformers` quantization config; `dtype` is the torch dtype to compute in."""

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Prepare a freshly loaded quantized model for training adapters."""
        return model

    def dequantize(self, weight: Tensor, dtype: Any) -> Tensor:  # noqa: ARG002
        """A weight as the quantized model has it: quantized and dequantized, in float32.

        Called by exporters that merge an adapter into the weights it was trained with (`onto = "dequantized"`).

        Args:
            weight: of a linear layer, shape (outputs, inputs), in full precision.
            dtype: the torch dtype that the model was loaded in.

        Raises:
            InputError: this quantizer does not support it.
        """
        what = f"the quantizer {self.name} cannot dequantize a weight"
        raise InputError(what, where="exporter.onto", todo='set onto = "original"')


@frozen
class Sample:
    """One prompt answered by the model before and after training, as text."""

    prompt: str
    before: str
    after: str


@frozen
class TrainingResult:
    """The result of a trainer.

    Attributes:
        path: the folder with it, tokenizer and chat template included. Of an adapter adapter_model.safetensors and
            adapter_config.json; of a model config.json and its safetensors files.
        figures: numbers for the summary and the lock; well-known: `validation_loss_before`, `validation_loss_after`
            (mean cross-entropy in nats per trained token), `train_loss`, `trained_tokens`, `tokens_per_second`,
            `seconds`, `peak_memory_bytes` (of training, after loading), `loading_memory_bytes`, `steps`.
        samples: prompts answered before and after.
        kind: what it made, as `Trainer.makes` has it.
    """

    path: Path
    figures: Mapping[str, float]
    samples: Sequence[Sample] = ()
    kind: Made = "adapter"


@frozen
class Estimate:
    """The estimated needs of a training.

    Attributes:
        memory_bytes: the most held at once while it trains.
        seconds: of training; None where that is not known.
        parts: `memory_bytes` by what it is for.
        loading_bytes: the most held at once before, while data and model are loaded, where that was measured.
        notes: sentences on what was found on the model, by what they are about (such as `adapters`).
    """

    memory_bytes: int
    seconds: float | None
    parts: Mapping[str, int] = Factory(dict)
    loading_bytes: int | None = None
    notes: Mapping[str, str] = Factory(dict)


class Trainer(Component):
    """Trains on encoded rows, and saves an adapter or a model.

    Attributes:
        consumes: the schema of encoded rows that it takes, see `Formatter.encode`.
        columns: what it heeds beyond that: the encoded column `token_weights`, and columns of rows that judge answers
            (`chosen`, `label`, `score` …) and are not of its schema. Data with such a column is refused where the
            trainer does not name it, as it would be trained as if the column were not there.
        distributed: whether several processes may train together; see `Run.distributed`. Others are refused there.
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
        """Train on rows of the schema `consumes`; leave what is made whole in `run.folder / "adapter"` or `"model"`.

        Where several processes train together, all but the first are given None for the rows and write nothing.

        Args:
            load_model: gives the model of the recipe, quantised where it says so. `load_model(Placement())` will do for
                most; a model that is compared with may be loaded beside it.

        Raises:
            LoraplugError: training cannot start or has gone wrong, naming step and rows.
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


@frozen
class Artefact:
    """What an exporter of this run made: its name, where it lies, and the options it was made with."""

    exporter: str
    place: Path
    options: Mapping[str, Any] = Factory(dict)


@frozen
class ExportContext:
    """A finished adapter as exporters are given it; can be made from any adapter folder.

    Attributes:
        adapter: the folder that the trainer left: an adapter, or where `kind` says so a whole model.
        base: local folder of the full-precision base (see `ModelLoader.base`).
        base_id: the base as the recipe names it; for cards.
        extras: further files that belong beside an adapter (lock, metrics, plot), file name to path.
        figures, samples: as in `TrainingResult`; empty for an adapter of somebody else's.
        artefacts: what exporters of this run made before, in that order.
        kind: as in `TrainingResult`; one of what the exporter `takes`.
        quantizer: what the base was loaded by in training, if by any, and if that is known.
    """

    run: Run
    adapter: Path
    base: Path
    base_id: str
    extras: Mapping[str, Path] = Factory(dict)
    figures: Mapping[str, float] = Factory(dict)
    samples: Sequence[Sample] = ()
    artefacts: Sequence[Artefact] = ()
    kind: Made = "adapter"
    quantizer: Quantizer | None = None

    def artefact(self, exporter: str, **options: Any) -> Path | None:
        """The place of what an exporter made with these options, of several the last; None where there is none."""
        found = (one for one in reversed(self.artefacts) if one.exporter == exporter)
        return next((one.place for one in found if options.items() <= one.options.items()), None)


class Exporter(Component):
    """Exports what was trained.

    Attributes:
        takes: kinds of result that it can export, see `TrainingResult`.
        needs: names of exporters whose artefacts it works with: they must be in the recipe too, and run before it.
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
            `out`, or None in `out`'s stead where nothing is left on disk (a push to a hub).

        Raises:
            LoraplugError: it cannot be made. The core removes what was written.
        """


class Adapter(Component):
    """What is trained of a model: LoRA, another method of peft's, or the whole model. For trainers that hold one.

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
        """Write what was trained into `folder`, as safetensors and JSON."""

    @abstractmethod
    def load(self, model: PreTrainedModel, folder: Path) -> Any:
        """Load what `save` wrote onto the base, bit for bit.

        Raises:
            InputError: the folder does not contain it, or it does not fit this base.
        """

    @abstractmethod
    def mergeable(self, config: Mapping[str, Any]) -> bool:
        """Whether what `save` wrote can be merged into the base; `config` is the saved settings, a JSON object."""


KINDS: dict[str, type[Component]] = {
    cls.kind: cls for cls in (DatasetSource, Transform, Formatter, ModelLoader, Quantizer, Adapter, Trainer, Exporter)
}
"""Every kind of component, by name, in the order a run comes to them."""
TABLES = ("dataset", "formatter", "model", "quantizer", "trainer", "exporter")
"""The kinds that are tables of a recipe; the others stand inside these."""
HOOKS = {
    "loraplug_dataset_sources": "dataset",
    "loraplug_transforms": "transform",
    "loraplug_formatters": "formatter",
    "loraplug_model_loaders": "model",
    "loraplug_quantizers": "quantizer",
    "loraplug_adapters": "adapter",
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
