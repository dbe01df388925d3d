"""What passes between the stages of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, frozen

if TYPE_CHECKING:
    from loraplug.context import Run
    from loraplug.plugin.components import Quantizer

Made = Literal["adapter", "model"]


@frozen
class BaseFacts:
    """Facts of a base model, read from its files without loading it.

    Attributes:
        folder: the model's folder, or the folder of its `.gguf` file.
        config: the contents of config.json; for a GGUF file `model_type`, `vocab_size` and what else its header says.
        weights: tensor name to number format and shape, from the headers of the files ("BF16", (576, 49152)). Names
            and formats are those of the file: in a GGUF file `blk.0.attn_q.weight` and "Q4_K". Empty if there is no
            local file.
        vocabulary: number of tokens of the tokenizer; None if unknown.
        chat_template: its text; None if there is none.
        is_gguf: whether names and formats are GGUF's.
        added_tokens: texts that the tokenizer never splits, including special tokens; None if unknown.
        template_advice: for a base without a chat template, names of templates that fit its tokenizer; for messages.
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
        path: its folder, with tokenizer and chat template. An adapter has adapter_model.safetensors and
            adapter_config.json; a model has config.json and its safetensors files.
        figures: numbers for the summary and the lock. Common names: `validation_loss_before`, `validation_loss_after`
            (mean cross-entropy in nats per trained token), `train_loss`, `trained_tokens`, `tokens_per_second`,
            `seconds`, `peak_memory_bytes` (of training, after loading), `loading_memory_bytes`, `steps`.
        samples: prompts answered before and after training.
        kind: what was made, as returned by `Trainer.makes`.
    """

    path: Path
    figures: Mapping[str, float]
    samples: Sequence[Sample] = ()
    kind: Made = "adapter"


@frozen
class Estimate:
    """The estimated needs of a training.

    Attributes:
        memory_bytes: peak memory during training.
        seconds: duration of training; None if unknown.
        parts: `memory_bytes` by purpose.
        loading_bytes: peak memory before training, while data and model are loaded; None if it was not measured.
        notes: sentences on findings about the model, by subject (such as `adapters`).
    """

    memory_bytes: int
    seconds: float | None
    parts: Mapping[str, int] = Factory(dict)
    loading_bytes: int | None = None
    notes: Mapping[str, str] = Factory(dict)


@frozen
class Artefact:
    """An artefact of this run: the name of its exporter, its path, and the options it was made with."""

    exporter: str
    place: Path
    options: Mapping[str, Any] = Factory(dict)


@frozen
class ExportContext:
    """A finished adapter as exporters are given it; can be made from any adapter folder.

    Attributes:
        adapter: the folder that the trainer wrote: an adapter, or a complete model if `kind` says so.
        base: local folder of the full-precision base model (see `ModelLoader.base`).
        base_id: the base model as named in the recipe; for model cards.
        extras: further files that belong beside an adapter (lock, metrics, plot), file name to path.
        figures, samples: as in `TrainingResult`; empty for an adapter that loraplug did not train.
        artefacts: artefacts of earlier exporters of this run, in order.
        kind: as in `TrainingResult`; one that the exporter `takes`.
        quantizer: the quantizer of the training; None if there was none, or if it is unknown.
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
        """The path of the last artefact that an exporter made with these options; None if there is none."""
        found = (one for one in reversed(self.artefacts) if one.exporter == exporter)
        return next((one.place for one in found if options.items() <= one.options.items()), None)
