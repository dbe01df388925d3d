"""Names and patterns that mean no module, and tokens that the model does not have, are refused before training."""

from __future__ import annotations

from typing import Any

import pytest
from sft_rows import encoded

from loraplug import InputError
from loraplug_train.adapters.lora import Lora
from loraplug_train.adapters.targets import find_targets


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Llama of two layers."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=64, **sizes))


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": ("q_proj", "layers.1.mlp.up_proj")},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": ("lm_head", "q_proj")},
        {"modules_to_save": ("lm_head", "embed_tokens", "norm")},
        {"layers_to_transform": (1,)},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 8}, "alpha_pattern": {"down_proj": 4.0}},
    ],
    ids=str,
)
def test_names_that_match_are_taken(lora: dict[str, Any], model: Any) -> None:
    """Names, ends of names, patterns, and those that tell ranks apart."""
    find_targets(Lora(**lora), model)


def test_layers_are_chosen_by_number(model: Any) -> None:
    """Of the targets that are named, those of these layers."""
    found = find_targets(Lora(target_modules=("q_proj", "lm_head"), layers_to_transform=(1,)), model)
    assert found.modules == ["model.layers.1.self_attn.q_proj"]


WRONG = {
    "a layer that is none": ({"layers_to_transform": (0, 7)}, ["no target module lies in layer 7 (layers: 0 to 1)"]),
    "one of two": ({"target_modules": ("q_proj", "w_proj")}, ['"w_proj" matches no module']),
    "a near miss": ({"target_modules": ("qproj",)}, ["did you mean q_proj?"]),
    "a list in a text": ({"target_modules": "q_proj,v_proj"}, ['write ["q_proj", "v_proj"]']),
    "a pattern": ({"target_modules": r".*\.attn\..*"}, ["matches no module"]),
    "a broken pattern": ({"target_modules": "(q_proj"}, ["is not a valid regular expression"]),
    "saved": ({"modules_to_save": ("lm_heads",)}, ['modules_to_save: "lm_heads"', "did you mean lm_head?"]),
    "rank": ({"rank_pattern": {"q_porj": 4}}, ['rank_pattern: "q_porj"', "did you mean q_proj?"]),
    "rank of no target": (
        {"target_modules": ("q_proj",), "rank_pattern": {"k_proj": 4}},
        ['rank_pattern: "k_proj" matches no adapted layer'],
    ),
    "alpha": ({"alpha_pattern": {"mpl": 4.0}}, ['alpha_pattern: "mpl"']),
    "a broken rank": ({"rank_pattern": {"(q_proj": 4}}, ["rank_pattern", "is not a valid regular expression"]),
    "all at once": (
        {"target_modules": ("x_proj", "y_proj"), "modules_to_save": ("heads",)},
        ['"x_proj"', '"y_proj"', '"heads"'],
    ),
    "both patterns": ({"rank_pattern": {"a": 1}, "alpha_pattern": {"b": 1.0}}, ["rank_pattern", "alpha_pattern"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_names_that_match_nothing_are_refused(kind: str, model: Any) -> None:
    """With the option, the name and the layers there are; all of them in one message."""
    lora, words = WRONG[kind]
    with pytest.raises(InputError) as error:
        find_targets(Lora(**lora), model)
    for word in [*words, "linear layers: down_proj, gate_proj, k_proj"]:
        assert word in str(error.value)


def test_an_empty_list_is_told_by_the_check(inside: Any, recipe: Any) -> None:
    """Before anything is loaded."""
    done = inside("recipe", "check", recipe, "--set", "trainer.lora.target_modules=[]")
    assert done.returncode == 2
    assert "trainer.lora.target_modules: is empty" in done.stderr


def test_a_token_that_the_model_lacks_is_refused(train: Any) -> None:
    """The row is named; nothing is trained."""
    rows = encoded(6).to_list()
    rows[3]["input_ids"][1] = 10_000_000
    from datasets import Dataset

    with pytest.raises(InputError, match="token 10000000 of the tokenizer is outside the") as error:
        train(rows=Dataset.from_list(rows))
    assert str(rows[3]["row"][0]) in str(error.value)


def test_tokens_of_the_tokenizer_that_the_model_lacks_are_told(
    train: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without them train, with a warning; a row that names one is refused."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained

    def with_more(*args: Any, **options: Any) -> Any:
        tokenizer = read(*args, **options)
        tokenizer.add_tokens(["<more>"])
        return tokenizer

    train(name="plain", epochs=1)
    assert not any("without a row" in text for text in train.reporter.warnings)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", with_more)
    train(epochs=1)
    assert any("1 tokens without a row in the model's embedding, such as" in text for text in train.reporter.warnings)
    rows = encoded(6).to_list()
    rows[4]["input_ids"][1:1] = written = read(tiny_model)("so <more> of it", add_special_tokens=False)["input_ids"]
    rows[4]["labels"][1:1] = written
    with pytest.raises(InputError, match="<more> is a token of the tokenizer, but the model") as error:
        train(rows=Dataset.from_list(rows))
    assert str(rows[4]["row"][0]) in str(error.value)
