"""What my-part promises."""

from pathlib import Path

from datasets import Dataset

import my_package
from loraplug import Encoded
from loraplug.testing import make_registry, tiny_model, tiny_run, tiny_tokenizer
from loraplug_tools.plugins.conformance import assert_conforms
from my_package.part import MyPart


def test_it_is_found_by_name() -> None:
    """A recipe can say `use = "my-part"`."""
    assert make_registry(my_package).find("trainer", "my-part") is MyPart


def test_it_conforms(tmp_path: Path) -> None:
    """Everything loraplug asks of a trainer: the same result twice, nothing to train refused."""
    assert_conforms(MyPart(), tmp_path)


def test_it_learns(tmp_path: Path) -> None:
    """The loss of a row falls while it is trained on, and only the adapter is written."""
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    ids = tokenizer("the bug is in the last line")["input_ids"]
    rows = Encoded(Dataset.from_list([{"input_ids": ids, "labels": ids, "row": ["a"]}]))
    base, losses = tiny_model(tmp_path / "base"), []
    for epochs in (1, 20):
        run = tiny_run(tmp_path / str(epochs))
        result = MyPart(epochs=epochs, learning_rate=1e-2).train(
            run, lambda _: AutoModelForCausalLM.from_pretrained(base), tokenizer, rows, rows
        )
        losses.append(result.figures["validation_loss_after"])
        assert (result.path / "adapter_config.json").is_file()
    assert losses[1] < losses[0] - 0.5
