"""Adapters merged, extracted and converted: loaded by peft alone, they change what they should."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from loraplug import InputError
from loraplug_export import open_adapter
from loraplug_export.derive.low_rank import Errors, product_norm, truncate


@pytest.fixture(autouse=True)
def _no_warnings_of_peft(recwarn):
    """peft warns of much that is meant."""


@pytest.fixture
def base(make_base):
    return make_base()


@pytest.fixture
def adapters(base, make_adapter, tmp_path):
    """Adapters of `base` by name, from configs of peft."""

    def make(**configs):
        made = []
        for name, config in configs.items():
            folder = make_adapter(base, config)
            if name == "b":  # another seed would give the same values
                _scale(folder, -0.7)
            made.append(folder.rename(tmp_path / name))
        return made

    return make


def _scale(folder, factor):
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    torch.manual_seed(5)
    save_file(
        {name: factor * one.roll(1, 0) + 0.05 * torch.randn_like(one) for name, one in load_file(file).items()}, file
    )


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | options)


def changes(base, adapter):
    """What an adapter changes each weight by, as plain peft merges it, in fp32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    after = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    found = {name: after[name] - before[name] for name in after}
    return {name: change for name, change in found.items() if change.abs().max() > 1e-7}


def close(got, wanted, tolerance=2e-5):
    assert got.keys() == wanted.keys()
    for name, change in wanted.items():
        assert torch.linalg.norm(got[name] - change) <= tolerance * torch.linalg.norm(change), name


def weighted(base, folders, weights):
    parts = [changes(base, folder) for folder in folders]
    names = {name for part in parts for name in part}
    return {name: sum(w * part[name] for w, part in zip(weights, parts, strict=True) if name in part) for name in names}


def made_from(folder):
    return json.loads((folder / "loraplug.json").read_text())["derived"]


@pytest.fixture
def made(inside, tmp_path):
    """The folder that a command makes, and what it printed."""

    def run(*words):
        done = inside(*words, "--name", "made")
        assert done.returncode == 0, done.stderr
        return tmp_path / "outputs" / "adapters" / "made", done.stdout

    return run


SOURCES = {
    "alike": (lora(), lora()),
    "other ranks, scales and layers": (
        lora(use_rslora=True, rank_pattern={"q_proj": 3}),
        lora(r=2, alpha_pattern={"layers.1.self_attn.v_proj": 16}, target_modules="all-linear"),
    ),
}


@pytest.mark.parametrize("pair", SOURCES)
def test_cat_is_the_weighted_sum(pair, base, adapters, made):
    """Exactly; with ranks, scales and layers that differ, and a negative weight."""
    a, b = adapters(a=SOURCES[pair][0], b=SOURCES[pair][1])
    out, text = made("merge", a, b, "--method", "cat", "--weights", "0.7,-1.3")
    close(changes(base, out), weighted(base, [a, b], [0.7, -1.3]))
    assert made_from(out)["distance_from_weighted_sum"] < 1e-6
    assert "0.0000 from the weighted sum" in text and "merge: outputs/adapters/made" in text


@pytest.mark.parametrize("pair", SOURCES)
def test_svd_is_the_best_of_its_rank(pair, base, adapters, made):
    """Each layer is the truncation of the weighted sum; the distance told is the one there is."""
    a, b = adapters(a=SOURCES[pair][0], b=SOURCES[pair][1])
    out, _ = made("merge", a, b, "--method", "svd", "--rank", "3")
    got, wanted = changes(base, out), weighted(base, [a, b], [1, 1])
    told = made_from(out)["layers"]
    assert got.keys() == wanted.keys()
    for name, change in wanted.items():
        best = float(torch.linalg.svdvals(change)[3:].norm() / change.norm())
        off = float((got[name] - change).norm() / change.norm())
        assert off == pytest.approx(best, abs=1e-4)
        assert told[name.removesuffix(".weight")]["error"] == pytest.approx(best, abs=1e-4)


def test_linear_is_what_peft_says(base, adapters, made):
    """(Σ √(w s) B) (Σ √(w s) A), with a lower rank filled up with zeros; and how far from the sum that is."""
    from peft import load_peft_weights
    from torch.nn.functional import pad

    a, b = adapters(a=lora(), b=lora(r=2, lora_alpha=5))
    out, _ = made("merge", a, b, "--method", "linear", "--weights", "0.5,2")
    one, two = load_peft_weights(str(a)), load_peft_weights(str(b))
    wanted = {}
    for name in one:
        if name.endswith("lora_A.weight"):
            other, roots = name.replace("lora_A", "lora_B"), (math.sqrt(0.5 * 6 / 4), math.sqrt(2 * 5 / 2))
            mixed_a = roots[0] * one[name] + roots[1] * pad(two[name], (0, 0, 0, 2))
            mixed_b = roots[0] * one[other] + roots[1] * pad(two[other], (0, 2))
            wanted[name.removeprefix("base_model.model.").replace("lora_A.", "")] = mixed_b @ mixed_a
    got = changes(base, out)
    close(got, wanted)
    sums = weighted(base, [a, b], [0.5, 2])
    off = math.sqrt(sum(float((got[name] - sums[name]).norm()) ** 2 for name in sums))
    size = math.sqrt(sum(float(change.norm()) ** 2 for change in sums.values()))
    assert made_from(out)["distance_from_weighted_sum"] == pytest.approx(off / size, rel=1e-4)
    assert off / size > 0.1


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_pruning_methods_are_pefts_and_follow_the_seed(method, base, adapters, made, tmp_path):
    """The values of `add_weighted_adapter` on a loaded base; the same seed gives the same bytes, another other ones."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    a, b = adapters(a=lora(), b=lora(lora_alpha=9))
    words = ("merge", a, b, "--method", method, "--weights", "0.6,0.8", "--density", "0.5", "--seed", "7")
    out, _ = made(*words)
    first = (out / "adapter_model.safetensors").read_bytes()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), a, "a")
    model.load_adapter(b, "b")
    if method in ("ties", "magnitude_prune"):  # nothing is drawn
        model.add_weighted_adapter(["a", "b"], [0.6, 0.8], "c", combination_type=method, density=0.5)
        wanted = get_peft_model_state_dict(model, adapter_name="c")
        got = load_file(out / "adapter_model.safetensors")
        assert got.keys() == wanted.keys()
        assert all(torch.allclose(got[name], wanted[name], atol=1e-6) for name in wanted)
    made(*words)
    assert (out / "adapter_model.safetensors").read_bytes() == first
    made(*words[:-1], "8")
    assert ((out / "adapter_model.safetensors").read_bytes() != first) == method.startswith("dare")


def test_outputs_that_peft_saves_along(make_base, make_adapter, made, tmp_path):
    """With an adapter on the output peft saves the base's own weight: no reason to refuse it."""
    base = make_base(tie_word_embeddings=False)
    config = lora(target_modules=["lm_head", "embed_tokens", "q_proj"])
    a = make_adapter(base, config).rename(tmp_path / "a")
    b = make_adapter(base, config).rename(tmp_path / "b")
    out, _ = made("merge", a, b, "--method", "cat", "--weights", "1,0.5")
    close(changes(base, out), weighted(base, [a, b], [1, 0.5]))
    plain = make_adapter(base, lora(target_modules=["lm_head", "q_proj"], use_dora=True)).rename(tmp_path / "c")
    out, _ = made("convert", plain, "--to", "lora", "--rank", "64")
    close(changes(base, out), changes(base, plain), 1e-3)


def test_embeddings_and_gpt2(make_base, make_adapter, made, tmp_path):
    """LoRA on an embedding, and on layers that are stored as (inputs, outputs)."""
    base = make_base("gpt2", n_layer=2, n_embd=32, n_head=2, vocab_size=120, n_positions=64)
    config = {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}
    a = make_adapter(base, lora(**config)).rename(tmp_path / "a")
    b = make_adapter(base, lora(**config | {"r": 2})).rename(tmp_path / "b")
    out, _ = made("merge", a, b, "--method", "cat", "--weights", "1,0.5")
    close(changes(base, out), weighted(base, [a, b], [1, 0.5]))


def test_card_and_provenance(base, adapters, made, tmp_path):
    """Who it was made from is on the card and in a file, without paths of this machine; `export` carries it on."""
    import hashlib

    a, b = adapters(a=lora(), b=lora())
    (a / "tokenizer.json").write_text("{}")
    out, _ = made("merge", a, b, "--method", "dare_ties", "--density", "0.5", "--seed", "3")
    facts, card = made_from(out), (out / "README.md").read_text()
    assert facts["sources"][0]["sha256"] == hashlib.sha256((a / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert (facts["method"], facts["density"], facts["seed"]) == ("dare_ties", 0.5, 3)
    assert "made with LoRA by loraplug merge" in card and "## Made from" in card and "- `b`: sha256" in card
    assert str(tmp_path) not in card + json.dumps(facts)
    assert (out / "tokenizer.json").is_file()


def test_bad_merges(base, make_base, adapters, inside, tmp_path):
    """Another base (both are named), kinds and parts that are not merged, options that do not go together."""
    from peft import IA3Config

    a, b, whole, dora, ia3 = adapters(
        a=lora(),
        b=lora(),
        whole=lora(modules_to_save=["norm"]),
        dora=lora(use_dora=True),
        ia3=IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    )
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((b / "adapter_config.json").read_text())
    (b / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))

    def told(*words):
        done = inside("merge", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    text = told(a, b, "--method", "cat")
    assert str(base) in text and str(other) in text and "--base" in text
    assert "layernorm.weight is fully trained" in told(a, whole, "--method", "cat")
    assert "DoRA magnitude" in told(a, dora, "--method", "cat")
    assert "IA3" in told(a, ia3, "--method", "cat")
    text = told(a, "--method", "svd", "--weights", "1,2", "--density", "0.5")
    assert "--weights" in text and "--density" in text and "at least two adapters" in text
    assert "--rank" in told(a, b, "--method", "ties", "--rank", "4")
    assert inside("merge", a, b, "--method", "cat", "--base", base, "--name", "made").returncode == 0
    (tmp_path / "outputs" / "adapters" / "mine").mkdir()
    assert "exists already" in told(a, a, "--method", "cat", "--name", "mine")
    assert "cannot be a folder name" in told(a, a, "--method", "cat", "--name", "../x")
    bigger = make_base(hidden_size=32)
    assert "changes a weight of" in told(a, a, "--method", "cat", "--base", bigger)


@pytest.fixture
def tuned(base, tmp_path):
    """A whole fine-tune of `base`: linear layers by a matrix of rank 3 and noise, all norms, the tied embedding."""
    from transformers import AutoModelForCausalLM

    def make(noise=0.0, others=True):
        torch.manual_seed(2)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
                    weight += torch.randn(len(weight), 3) @ torch.randn(3, weight.shape[1]) * 0.01
                    weight += torch.randn_like(weight) * noise
                elif others and "lm_head" not in name:
                    weight += 0.01
        model.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
        return tmp_path / "tuned"

    return make


def test_extract_gets_back_a_change_of_low_rank(base, tuned, made, logits):
    """Nothing is lost, so that base and adapter answer as the tuned model; it can be any that changed nothing else."""
    folder = tuned(others=False)
    out, text = made("extract", base, folder, "--rank", "3")
    assert torch.allclose(logits(base, out), logits(folder), atol=1e-4)
    assert not torch.allclose(logits(base), logits(folder), atol=1e-2)
    assert made_from(out)["error"] < 1e-4 and "0.0000 of the linear layers' change is lost" in text
    assert len(json.loads((out / "adapter_config.json").read_text())["target_modules"]) == 7


def test_extract_tells_what_it_loses(base, tuned, made):
    """By layer, in all, and with what is no linear layer; each error is the one that there is."""
    folder = tuned(noise=0.01)
    out, text = made("extract", base, folder, "--rank", "2")
    told, got = made_from(out), changes(base, out)
    from safetensors.torch import load_file

    after = {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}
    before = load_file(base / "model.safetensors")
    wanted = {name: after[name] - before[name] for name in before}
    for name, change in got.items():
        off = float((wanted[name] - change).norm() / wanted[name].norm())
        assert told["layers"][name.removesuffix(".weight")]["error"] == pytest.approx(off, rel=1e-3)
        assert off == pytest.approx(
            float(torch.linalg.svdvals(wanted[name])[2:].norm() / wanted[name].norm()), rel=1e-3
        )
    lost = sum(float((wanted[name] - got.get(name, 0)).norm()) ** 2 for name in wanted)
    whole = sum(float(change.norm()) ** 2 for change in wanted.values())
    assert told["error_with_what_is_left_out"] == pytest.approx(math.sqrt(lost / whole), rel=1e-3)
    assert len(told["left_out"]) == 6 and "left out: 6 tensors" in text and "model.embed_tokens.weight" in text


def test_bad_extractions(base, tuned, make_base, inside, adapters, tmp_path):
    """Two models of other shapes, a model of itself, an adapter."""
    (adapter,) = adapters(a=lora())
    kept = shutil.copytree(base, tmp_path / "kept")
    other = make_base(hidden_size=32)

    def told(*words):
        done = inside("extract", *words, "--rank", "2")
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "is not a fine-tune of" in (text := told(kept, other)) and "(120, 64) in the base" in text
    assert "has the same weights" in told(kept, kept)
    assert "is an adapter" in told(kept, adapter)


def kinds():
    from peft import HRAConfig, IA3Config, LoHaConfig, LoKrConfig, OFTConfig

    targets = {"target_modules": ["q_proj", "down_proj"]}
    return {
        "DoRA": lora(use_dora=True),
        "LoRA": lora(use_rslora=True, alpha_pattern={"down_proj": 3}),
        "PiSSA": lora(init_lora_weights="pissa"),
        "LOHA": LoHaConfig(r=2, **targets),
        "LOKR": LoKrConfig(r=2, **targets),
        "IA3": IA3Config(feedforward_modules=["down_proj"], **targets),
        "OFT": OFTConfig(oft_block_size=8, r=0, **targets),
        "HRA": HRAConfig(r=4, **targets),
    }


@pytest.mark.parametrize("kind", ["DoRA", "LoRA", "PiSSA", "LOHA", "LOKR", "IA3", "OFT", "HRA"])
def test_convert(kind, base, adapters, made):
    """At full rank nothing is lost; at a low one what is told, and no more than must be."""
    (adapter,) = adapters(a=kinds()[kind])
    wanted = changes(base, adapter)
    out, _ = made("convert", adapter, "--to", "lora", "--rank", "64")
    close(changes(base, out), wanted, 1e-3)
    assert made_from(out)["error"] < 1e-3
    out, text = made("convert", adapter, "--to", "lora", "--rank", "3")
    got, told = changes(base, out), made_from(out)
    for name, change in wanted.items():
        off = float((got[name] - change).norm() / change.norm())
        assert off == pytest.approx(float(torch.linalg.svdvals(change)[3:].norm() / change.norm()), abs=1e-3)
        assert told["layers"][name.removesuffix(".weight")]["error"] == pytest.approx(off, abs=1e-3)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_dora"]) == ("LORA", 3, 3, False)
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"] and "of the change is lost" in text


def test_bad_conversions(base, adapters, make_base, make_adapter, inside):
    """Parts that LoRA on linear layers cannot stand for are named."""
    from peft import IA3Config, PromptTuningConfig

    whole, embedding, prompt = adapters(
        whole=lora(use_dora=True, modules_to_save=["norm"]),
        embedding=lora(target_modules=["embed_tokens", "q_proj"]),
        prompt=PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    )

    def told(adapter):
        done = inside("convert", adapter, "--to", "lora", "--rank", "2")
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "layernorm.weight is fully trained" in told(whole)
    assert "embed_tokens.weight belongs to an embedding" in told(embedding)
    assert "changes no weights" in told(prompt)
    shutil.rmtree(base)
    with_bias = make_base("qwen2")
    ia3 = make_adapter(with_bias, IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    assert "the bias of" in told(ia3)


def test_randomised_truncation_is_near_the_best_and_follows_its_seed():
    """On a matrix large enough for it, whose singular values fall slowly."""
    torch.manual_seed(0)
    change = torch.randn(700, 600) @ torch.diag(torch.arange(1, 601) ** -0.5)
    pair = truncate(change, 16, seed=1)
    off = float((change - pair.b @ pair.a).norm())
    assert off <= 1.01 * float(torch.linalg.svdvals(change)[16:].norm())
    again, other = truncate(change, 16, seed=1), truncate(change, 16, seed=2)
    assert torch.equal(pair.a, again.a) and not torch.equal(pair.a, other.a)
    assert truncate(change[:5], 16).rank == 5


def test_norms_and_totals():
    """Of a product that is never made, and of errors over layers."""
    left, right = torch.randn(30, 5), torch.randn(5, 40)
    assert product_norm(left, right) == pytest.approx(float((left @ right).norm()), rel=1e-5)
    assert product_norm(torch.cat([left, -left], 1), torch.cat([right, right])) < 1e-5
    errors = Errors()
    errors.add("x.q_proj", 2, 3.0, 5.0)
    errors.add("y.q_proj", 2, 4.0, 12.0)
    assert errors.total == pytest.approx(5 / 13)
    assert errors.lines() == ["  q_proj          2 layers  error 0.3846  worst 0.6000 (x.q_proj)"]


@pytest.mark.parametrize(("name", "said"), [("missing", "no such folder"), ("empty", "has no adapter_config.json")])
def test_a_path_without_an_adapter_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """A folder that is missing is told from one that holds something else, and the next step is named."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said) as error:
        open_adapter(tmp_path / name)
    assert "outputs/adapters/" in str(error.value.todo)
