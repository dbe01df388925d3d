"""The trainer on the tiny model: equal results however a step is computed, and sick runs noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from forked import Server
from loraplug import InputError, LoraplugError, Run, TrainingResult
from loraplug_train.adapters.lora import Lora

Train = Callable[..., TrainingResult]


def losses(result: TrainingResult) -> list[float]:
    """The loss of each step."""
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines[:-1]]


def test_rows_at_once_change_nothing(train: Train) -> None:
    """One row at a time, all end to end, or with activations recomputed: the same losses."""
    one = losses(train("one", micro_batch=1))
    assert losses(train("four", micro_batch=4)) == pytest.approx(one, rel=1e-5)
    assert losses(train("again", gradient_checkpointing=True)) == pytest.approx(one, rel=1e-5)


def test_packed_documents_do_not_see_each_other(train: Train) -> None:
    """Rows packed into one give the loss and the steps that they give apart."""
    from datasets import Dataset

    rows = encoded(8)
    packed = {
        "input_ids": [list(chain(*rows["input_ids"]))],
        "labels": [list(chain(*rows["labels"]))],
        "row": [list(chain(*rows["row"]))],
        "seq_lengths": [list(map(len, rows["input_ids"]))],
    }
    apart = train("apart", rows=rows, batch_size=8, epochs=4)
    together = train("together", rows=Dataset.from_dict(packed), batch_size=1, epochs=4)
    assert losses(together) == pytest.approx(losses(apart), rel=1e-5)
    assert together.figures["trained_tokens"] == apart.figures["trained_tokens"]


def test_losses_are_those_of_trl(train: Train, tiny_model: Path, tmp_path: Path) -> None:
    """trl's own trainer, given the same rows, seed and rates, has the same loss at every step."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    ours = losses(train("ours", epochs=2, batch_size=4, warmup_ratio=0.0))
    options = SFTConfig(
        output_dir=str(tmp_path), seed=42, num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-2,
        lr_scheduler_type="cosine", warmup_steps=0, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    set_seed(42)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        args=options,
        train_dataset=encoded(14).remove_columns("row"),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True, "r": 4},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "gaussian", "dropout": 0.1},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 64.0}},
        {"target_modules": ("q_proj", "v_proj"), "modules_to_save": ("embed_tokens",)},
        {"target_modules": r".*\.layers\.1\..*(gate|up)_proj"},
        {"loraplus_lr_ratio": 16.0},
    ],
    ids=lambda lora: "-".join(lora),
)
def test_every_kind_of_lora_trains_and_loads(lora: dict[str, Any], train: Train, tiny_model: Path) -> None:
    """The loss falls, and plain peft loads what is left behind."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = train("lora", epochs=6, lora=Lora(**lora), learning_rate=5e-3)
    assert min(losses(result)[-4:]) < losses(result)[0]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), result.path)


@pytest.mark.parametrize(
    "optimizer",
    ["adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit", "ademamix", "adafactor", "sgd"],
)
def test_every_optimizer_trains(optimizer: str, train: Train) -> None:
    """Each of them takes steps that change the adapter."""
    assert train("a", optimizer=optimizer, epochs=1).figures["steps"] == 4


@pytest.mark.filterwarnings("error:Paged optimizers")
def test_paging_is_told_in_our_words_where_there_is_no_gpu(train: Train) -> None:
    """A paged optimizer on a CPU keeps its states where they are, and says so in one line."""
    paged = train("a", optimizer="paged_adamw_8bit", epochs=1)
    assert any("paged_adamw_8bit pages its states" in line for line in train.reporter.lines)  # type: ignore[attr-defined]
    plain = train("b", optimizer="adamw_8bit", epochs=1)
    assert losses(paged) == losses(plain)


def test_more_rows_in_a_step_than_there_are_is_found_before_the_model_is_loaded(train: Train) -> None:
    """The rows are counted first."""
    with pytest.raises(InputError, match="20 rows in one step, but there are only 14 to train on"):
        train("a", batch_size=20, load_model=lambda _: pytest.fail("the model was loaded"))


def test_going_on_from_an_adapter_begins_where_it_ended(train: Train) -> None:
    """`start_from`: validation loss before is that after of the earlier run; a folder that is none is refused."""
    held = encoded(4, seed=5)
    first = train("first", held=held)
    second = train("second", held=held, lora=Lora(start_from=first.path))
    assert second.figures["validation_loss_before"] == pytest.approx(first.figures["validation_loss_after"], rel=1e-6)
    with pytest.raises(InputError, match="not an adapter folder"):
        train("third", lora=Lora(start_from=first.path.parent))


def test_the_best_adapter_is_kept_and_training_stops_early(train: Train) -> None:
    """Rows to learn by heart, others to validate on: the loss on those soon rises, and the run ends at its best."""
    result = train(
        "best",
        held=encoded(6, seed=3),
        epochs=40,
        validate_every=2,
        early_stopping=3,
        load_best_model_at_end=True,
        learning_rate=2e-2,
    )
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[:-1]
    validated = [line["validation_loss"] for line in map(json.loads, lines) if "validation_loss" in line]
    assert result.figures["steps"] < 160
    assert min(validated) == validated[-4]
    assert result.figures["validation_loss_after"] == pytest.approx(min(validated), rel=1e-6)


def test_a_wild_learning_rate_is_stopped(train: Train) -> None:
    """The error says step and rows and what to try; the adapter is not written."""
    with pytest.raises(LoraplugError, match=r"(?s)step \d+, rows r\d+.*loss.*learning_rate"):
        train("wild", learning_rate=1e4, epochs=30, scheduler="constant")


def test_a_learning_rate_that_does_nothing_is_told(train: Train) -> None:
    """Everything runs, nothing is learned: a warning says so."""
    train("idle", learning_rate=1e-9, held=encoded(4, seed=5))
    assert "changed the validation loss by only" in " ".join(train.reporter.warnings)  # type: ignore[attr-defined]


def test_an_adapter_that_is_what_it_was_is_told() -> None:
    """Told by a hash of all its values: any one of them, of any dtype and layout, makes another."""
    import torch

    from loraplug_train.engine.health import fingerprint, moved

    values = [torch.zeros(3, 2), torch.ones(5, 4, dtype=torch.bfloat16)[:, :1].t(), torch.tensor(1.0)]
    before = fingerprint(values)
    assert fingerprint([value.clone() for value in values]) == before
    for value in values:
        value.view(-1)[-1] += 0.5
        assert fingerprint(values) != before
        value.view(-1)[-1] -= 0.5
    assert fingerprint(values) == before
    moved(Run("x"), changed=True, before=2.0, after=1.0)
    with pytest.raises(LoraplugError, match="the adapter is what it was before training"):
        moved(Run("x"), changed=False, before=2.0, after=2.0)


def test_a_gradient_of_zero_is_stopped(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose output is cut off from its layers learns nothing; the run does not go on as if it did."""
    import torch
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained

    def dead(*words: Any, **options: Any) -> Any:
        model = load(*words, **options)
        with torch.no_grad():
            model.model.norm.weight.zero_()
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", dead)
    with pytest.raises(LoraplugError, match="gradient was zero for 5 steps"):
        train("dead", epochs=9)


def test_bad_rows_and_sizes_are_refused_before_training(train: Train) -> None:
    """Nothing trained, a row longer than the model takes."""
    from datasets import Dataset

    masked = encoded(4).map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(InputError, match="no token is trained"):
        train("a", rows=masked)
    long = [[5] * 600] * 4
    with pytest.raises(InputError, match=r"600 tokens is longer than the 512.*"):
        train("c", rows=Dataset.from_dict({"input_ids": long, "labels": long, "row": [["x"]] * 4}))


def test_a_lack_of_memory_halves_the_rows_at_once(tiny_model: Path, server: Server, tmp_path: Path) -> None:
    """Sixteen long rows end to end do not fit under the process' limit; the run goes on with fewer, to the same end."""
    script = tmp_path / "narrow.py"
    script.write_text(NARROW, encoding="utf-8")
    limits = {"wide": "0", "narrow": "150"}
    found = [server.run(tmp_path, tiny_model, tmp_path / name, limits[name], script=script) for name in limits]
    for done in found:
        assert done.wait() == 0, done.said()[-2000:]
    told = (next(line for line in done.said().splitlines() if line.startswith('{"warnings"')) for done in found)
    wide, narrow = map(json.loads, told)
    assert not wide["warnings"]
    assert any("out of memory at step 1; continuing with" in line for line in narrow["warnings"])
    assert narrow["losses"] == pytest.approx(wide["losses"], rel=1e-5)


NARROW = """
import json, resource, sys
from pathlib import Path
import psutil
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from loraplug import Encoded, Run
from loraplug_train.engine.step import StepComputer
from loraplug_train.trainer import Sft

ids = [[5 + (n * at) % 200 for at in range(500)] for n in range(16)]
rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "row": [[str(n)] for n in range(16)]})
run = Run("a", outputs=Path(sys.argv[2]))
run.folder.mkdir(parents=True)
compute = StepComputer.compute
def limited(self, rows, step):
    if int(sys.argv[3]) and step == 0:
        most = psutil.Process().memory_info().vms + int(sys.argv[3]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    return compute(self, rows, step)
StepComputer.compute = limited
options = Sft(
    samples=0, learning_rate=1e-2, batch_size=16, micro_batch=16, max_steps=3, gradient_checkpointing=False,
    kernel="plain",
)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
options.train(run, lambda _: model, AutoTokenizer.from_pretrained(sys.argv[1]), Encoded(rows), None)
lines = (run.folder / "metrics.jsonl").read_text().splitlines()[:-1]
print(json.dumps({"warnings": run.reporter.warnings, "losses": [json.loads(line)["loss"] for line in lines]}))
"""


@pytest.mark.parametrize("kernel", ["auto", "plain"])
@pytest.mark.parametrize("dora", ["false", "true"])
def test_a_bfloat16_base_answers_with_a_module_trained_in_float32(
    inside: Any, recipe: Path, kernel: str, dora: str
) -> None:
    """A trained output layer stays float32 beside a bfloat16 base: training and answers compute with both."""
    words = [
        "model.dtype=bfloat16", "trainer.samples=1", f"trainer.kernel={kernel}", f"trainer.lora.use_dora={dora}",
        'trainer.lora.modules_to_save=["lm_head"]', "trainer.max_steps=2",
    ]  # fmt: skip
    result = inside("run", recipe, *(word for setting in words for word in ("--set", setting)))
    assert result.returncode == 0, result.stderr
    assert "--- after ---" in result.stdout + result.stderr
