"""Tokens that a recipe adds: trained, resumed, saved, merged, read again by whoever reads adapters and models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sft_rows import encoded

from loraplug import Encoded, ExportContext, InputError, Problem, TrainingResult, load_adapter, new_tokens
from loraplug.testing import from_table, tiny_run
from loraplug_hf.loader import TransformersModel
from loraplug_train.adapters.lora import Lora
from loraplug_train.trainer import Sft

NEW = ("<|call|>", "<|done|>")
Train = Callable[..., TrainingResult]


@pytest.fixture(params=["untied", "tied"])
def base(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model; tied: the same without an output layer of its own."""
    if request.param == "untied":
        return tiny_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=True)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def rows(ids: tuple[int, ...]) -> Any:
    """Random rows, in the middle of each the new tokens, which are trained."""

    def put(row: dict[str, Any]) -> dict[str, Any]:
        half = len(row["input_ids"]) // 2
        return {name: [*row[name][:half], *ids, *row[name][half:]] for name in ("input_ids", "labels")}

    return encoded(10, longest=24).map(put)


@pytest.fixture
def train(base: Path, tmp_path: Path) -> Train:
    """Trains the base with the new tokens."""

    def run(name: str = "a", quantizer: Any = None, **options: Any) -> TrainingResult:
        given = tiny_run(tmp_path, name)
        given.folder.mkdir(parents=True, exist_ok=True)
        loader = TransformersModel(id=str(base), dtype="float32", add_tokens=NEW)
        model = loader.load_model(given, quantizer)
        run.reporter = given.reporter  # type: ignore[attr-defined]
        settings = {"samples": 0, "learning_rate": 1e-2, "epochs": 2.0, "batch_size": 4, "save_every": 1, **options}
        return Sft(**settings).train(
            given, lambda _: model, loader.load_tokenizer(given), Encoded(rows(new_tokens(model))), None
        )

    return run


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Of one row, (tokens, vocabulary)."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return found


def plain(base: Path) -> Any:
    """The base as transformers alone loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def test_new_rows_begin_at_the_mean_and_are_the_same_each_time(base: Path, tmp_path: Path) -> None:
    """Mean plus little noise, by the seed; the rows that are there stay, and no random number of the run is taken."""
    loader = TransformersModel(id=str(base), dtype="float32", add_tokens=NEW)
    torch.manual_seed(5)
    first, state = loader.load_model(tiny_run(tmp_path)), torch.get_rng_state()
    again = loader.load_model(tiny_run(tmp_path))
    other = loader.load_model(tiny_run(tmp_path, seed=7))
    assert torch.equal(torch.get_rng_state(), state)
    count = plain(base).get_input_embeddings().num_embeddings
    assert new_tokens(first) == (count, count + 1)
    ends = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert torch.equal(ends[0][:count], plain(base).get_input_embeddings().weight)
    mean, spread = ends[0][:count].mean(0), ends[0][:count].std(0)
    apart = ((ends[0][count:] - mean) / spread).abs()
    assert 0 < apart.max() < 0.1 and not torch.equal(ends[0][count], ends[0][count + 1])
    tokenizer = loader.load_tokenizer(tiny_run(tmp_path))
    assert tokenizer("<|call|>")["input_ids"] == [count]
    facts, empty = loader.facts(tiny_run(tmp_path)), loader.load_empty(tiny_run(tmp_path))
    assert facts is not None and empty is not None and facts.config["vocab_size"] == facts.vocabulary == count + 2
    assert empty.get_input_embeddings().weight.shape == first.get_input_embeddings().weight.shape


def test_trained_resumed_saved_and_loaded(train: Train, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of both ends learn; a run that was stopped ends the same; peft alone fills a base that was resized."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from test_resume import StopError, digest, stop_before

    whole = train("whole")
    assert "plain kernel: rows of new tokens are trained" in " ".join(train.reporter.lines)  # type: ignore[attr-defined]
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_before(3, patch)
        train("stopped")
    assert digest(train("stopped")) == digest(whole)

    saved = {name: value for name, value in load_file(whole.path / "adapter_model.safetensors").items()
             if "trainable_tokens" in name}  # fmt: skip
    tied = bool(json.loads((base / "config.json").read_text())["tie_word_embeddings"])
    assert len(saved) == (1 if tied else 2) and all(value.shape == (2, 64) for value in saved.values())
    fresh = TransformersModel(id=str(base), dtype="float32", add_tokens=NEW).load_model(tiny_run(whole.path.parent))
    for name, value in saved.items():
        end = fresh.get_submodule(name.removeprefix("base_model.model.").partition(".token_adapter")[0]).weight
        assert (end[-2:] - value).abs().max() > 1e-3, f"{name} was not trained"

    ids = [5, 9, 301, 30, 302, 7]
    ours = load_adapter(plain(base), whole.path)
    assert ours.get_input_embeddings().weight.shape[0] == 303
    theirs = plain(base)
    theirs.resize_token_embeddings(303)
    theirs = PeftModel.from_pretrained(theirs, whole.path)
    assert torch.equal(logits(ours, ids), logits(theirs, ids))
    onward = Sft(samples=0, max_steps=1, batch_size=4, lora=Lora(start_from=whole.path))
    again = onward.train(
        tiny_run(whole.path.parent, "on"), lambda _: fresh, _tokenizer(whole), Encoded(rows((301, 302))), None
    )  # goes on from rows that were trained
    assert digest(again) != digest(whole)
    with pytest.raises(InputError, match=r"has trained rows for 2 tokens, but model\.add_tokens adds 0"):
        Lora(start_from=whole.path).put_on(plain(base))


def test_merged_and_written_to_gguf(train: Train, base: Path, tmp_path: Path) -> None:
    """Onto the base as it came: more rows, the config's vocabulary, the same answers, in transformers and from GGUF."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loraplug_export.merged import MergedExporter
    from loraplug_gguf.exporter import GgufExporter

    result = train("merging")
    made = ExportContext(tiny_run(tmp_path, "merging"), result.path, base, str(base))
    folder = MergedExporter().export(made, tmp_path / "merged")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 303
    assert config["tie_word_embeddings"] == json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    ids = [5, 9, 301, 30, 302, 7]
    merged, adapted = AutoModelForCausalLM.from_pretrained(folder), load_adapter(plain(base), result.path)
    assert (logits(merged, ids) - logits(adapted, ids)).abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(folder)("<|done|>")["input_ids"] == [302]
    file = GgufExporter(type="f16", verify=False).export(made, tmp_path / "model.gguf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    prompt = torch.tensor([[5, 301, 9]])
    answers = [model.generate(prompt, max_new_tokens=12, do_sample=False) for model in (merged, read)]
    assert torch.equal(*answers)


def test_merged_by_peft_where_it_must_be(train: Train, base: Path, tmp_path: Path) -> None:
    """An adapter that needs peft's own merge: the base gets its rows first, the folder its vocabulary."""
    from transformers import AutoModelForCausalLM

    from loraplug_export.merged import MergedExporter

    result = train("olora", max_steps=2, lora=Lora(r=4, init_lora_weights="olora"))
    made = ExportContext(tiny_run(tmp_path, "olora"), result.path, base, str(base))
    folder = MergedExporter().export(made, tmp_path / "merged")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 303
    ids = [5, 9, 301, 30, 302, 7]
    adapted = load_adapter(plain(base), result.path)
    assert (logits(AutoModelForCausalLM.from_pretrained(folder), ids) - logits(adapted, ids)).abs().max() < 1e-3


def test_an_adapter_for_llama_cpp_has_no_place_for_rows(train: Train, base: Path, tmp_path: Path) -> None:
    """It would answer as if they were not there: refused by the exporter, and before the work by the recipe."""
    from loraplug_gguf.adapter import GgufAdapterExporter, adapter_problems

    class Recipe:
        model, trainer = TransformersModel(id=str(base), add_tokens=NEW), Sft()

    told = [problem.path for problem in adapter_problems(Recipe(), tiny_run(tmp_path), "gguf-adapter")]
    assert told == ["model.add_tokens"]
    result = train("lora", max_steps=1)
    made = ExportContext(tiny_run(tmp_path, "lora"), result.path, base, str(base))
    with pytest.raises(InputError, match="trained rows of model.embed_tokens.weight for 2 tokens".replace(".", r"\.")):
        GgufAdapterExporter().export(made, tmp_path / "lora.gguf")


def _tokenizer(result: TrainingResult) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(result.path)


def test_four_bits_leave_the_vocabulary_alone(train: Train) -> None:
    """NF4 quantises neither embedding nor output layer, so new rows are trained as ever."""
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    from loraplug_bnb.quantizer import BitsAndBytes

    result = train("nf4", BitsAndBytes(), max_steps=2)
    assert any("trainable_tokens" in name for name in load_file(result.path / "adapter_model.safetensors"))


def test_a_quantised_output_layer_takes_no_rows(tiny_model: Path, tmp_path: Path) -> None:
    """A quantizer that spares nothing: refused by what it did, where the model is loaded."""
    pytest.importorskip("bitsandbytes")
    from loraplug_bnb.quantizer import BitsAndBytes

    class All(BitsAndBytes):  # type: ignore[misc]
        def config(self, dtype: Any) -> Any:
            made = super().config(dtype=dtype)
            made.llm_int8_skip_modules = []
            return made

    loader = TransformersModel(id=str(tiny_model), dtype="float32", add_tokens=NEW)
    with pytest.raises(InputError, match="the output layer is a quantised Linear4bit"):
        loader.load_model(tiny_run(tmp_path), All())


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "trainer.lora.modules_to_save"),
        ({"target_modules": ["q_proj", "lm_head"]}, "trainer.lora.target_modules"),
    ],
)
def test_what_does_not_go_with_new_tokens(table: dict[str, Any], place: str) -> None:
    """One layer cannot be changed in two ways; shards have no rows to add to."""
    trainer, problems = from_table(Sft, {"lora": table})
    assert trainer is not None and not problems
    assert place in [problem.path for problem in _asked(trainer)]


def test_shards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP2 and ZeRO-3 hold parts of an embedding."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("loraplug_train.engine.shards._captured", [])
    assert any("sharded" in str(problem) for problem in _asked(Sft()))


def _asked(trainer: Sft) -> list[Problem]:
    class Recipe:
        model, quantizer, validates = TransformersModel(id="x", add_tokens=NEW), None, False

    return list(trainer.check(recipe=Recipe()))
