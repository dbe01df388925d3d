"""Merges of each kind of model: proved, and answering like base + adapter, where weights are read past their modules,
stored under other names, put together from several, or belong to a model that sees as well."""

from __future__ import annotations

import json

import pytest

import families
from loraplug import InputError, LoraplugError, testing
from loraplug_export import judge, verify
from loraplug_export.merged import MergedExporter

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
OLMO_HYBRID = families.Family("olmo_hybrid", families.FAMILIES["qwen3_next"].config)
KINDS = {
    "lfm2": "all-linear",  # the convolution's weight is read by the mixer around it
    "qwen3_5": "all-linear",
    "jamba": "all-linear",  # dt_proj is read past its adapter
    "gpt_neox": "all-linear",  # the head is stored as embed_out
    "olmo_hybrid": "all-linear",  # norms are stored under other names
    "qwen3_moe": ATTENTION,  # experts are stored singly
    "granitemoe": ATTENTION,
    "gpt_oss": ATTENTION,
}
SIGHT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "depth": 1, "num_heads": 4,
    "num_attention_heads": 4, "out_hidden_size": 64, "image_size": 28, "patch_size": 14,
}  # fmt: skip
SEEING = {"qwen3_5": "qwen3_5", "gemma3": "gemma3"}


@pytest.fixture
def result(make_adapter, trained, tmp_path, monkeypatch):
    """From a family and peft's targets to the finished run that exporters see."""

    def make(name, targets="all-linear", dtype="float32", size=0.1, **more):
        from peft import LoraConfig

        monkeypatch.setitem(families.FAMILIES, "olmo_hybrid", OLMO_HYBRID)
        base = families.save(name, tmp_path / "base", dtype)
        config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **more)
        return trained(make_adapter(base, config, size=size), base)

    return make


@pytest.fixture
def seeing(make_adapter, trained, tmp_path):
    """The same for a model with a vision tower, as such models are published."""

    def make(name, **more):
        import torch
        from peft import LoraConfig
        from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

        text = families.build(SEEING[name]).config
        torch.manual_seed(0)
        config = CONFIG_MAPPING[name](text_config=text.to_dict(), vision_config=SIGHT)
        AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "base")
        lora = LoraConfig(r=4, target_modules=r".*layers\.\d+\.mlp\.\w+_proj", task_type="CAUSAL_LM", **more)
        return trained(make_adapter(tmp_path / "base", lora), tmp_path / "base")

    return make


def proof_of(folder):
    return json.loads((folder / "loraplug.json").read_text())["proof"]


@pytest.mark.parametrize("kind", KINDS)
def test_merge_is_proved_module_by_module(kind, result, logits, tmp_path):
    """The proof passes each time, and the folder answers like base + adapter."""
    made = result(kind, KINDS[kind])
    merged = MergedExporter().export(made, tmp_path / "merged")
    proof = proof_of(merged)
    assert proof["by"] == "modules" and proof["modules"] > 8 and 0 < proof["relative"] <= proof["allowed"]
    wanted = logits(made.base, made.adapter)
    assert float((wanted - logits(made.base)).abs().max()) > 0.1, "the adapter does nothing"
    assert float((logits(merged) - wanted).abs().max()) < 1e-3
    again = verify.verify(plan_of(made), merged, [list(range(3, 60))], made.run)
    assert again.relative == pytest.approx(
        verify.verify(plan_of(made), merged, [list(range(3, 60))], made.run).relative
    )


def test_weights_that_are_single_numbers_are_copied(result, logits, tmp_path, monkeypatch):
    """Apertus' activations have two each; tensors of no dimensions are written as they are."""
    monkeypatch.setitem(families.FAMILIES, "apertus", families.Family("apertus"))
    made = result("apertus", ATTENTION)
    merged = MergedExporter().export(made, tmp_path / "merged")
    assert float((logits(merged) - logits(made.base, made.adapter)).abs().max()) < 1e-3


def plan_of(made):
    from loraplug_export.lora_files import open_adapter
    from loraplug_export.plan import make_plan
    from loraplug_export.tensors import open_checkpoint

    return make_plan(open_adapter(made.adapter), open_checkpoint(made.base))


def test_adapters_that_do_nothing_are_left_out(result, tmp_path):
    """Jamba reads the weight of dt_proj past its adapter: merging it would change what the model says."""
    made = result("jamba", ["dt_proj", "in_proj"])
    MergedExporter().export(made, tmp_path / "merged")
    (line,) = [line for line in made.run.reporter.lines if "left out" in line]
    assert "model.layers.0.mamba.dt_proj.weight" in line


@pytest.mark.parametrize("change", ["conv.conv.weight", "embedding_norm.weight"])
def test_wrong_weights_are_found_wherever_they_are_read(change, result, tmp_path):
    """The weight of a convolution that never runs itself, and one that does."""
    from safetensors.torch import load_file, save_file

    made = result("lfm2", dtype="bfloat16", size=0.02)
    merged = MergedExporter().export(made, tmp_path / "merged")
    path = merged / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(change))
    tensors[name] *= 1.02
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(LoraplugError, match="gives another output"):
        verify.verify(plan_of(made), merged, [list(range(3, 60))], made.run)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_cannot_be_run_in_pieces_are_proved_by_logits(dtype, result, tmp_path, monkeypatch):
    """Said so, with a bound measured on the model; a layer that was forgotten is found, and so is a changed copy."""
    from safetensors.torch import load_file, save_file

    def refuse(self, rows, done):
        raise verify.NotInPiecesError("it keeps its weights elsewhere")

    monkeypatch.setattr(verify.Pieces, "run", refuse)
    made = result("llama", dtype=dtype)
    merged = MergedExporter().export(made, tmp_path / "merged")
    proof = proof_of(merged)
    assert (proof["by"], proof["modules"], proof["layer"]) == ("logits", 0, "logits")
    assert 0 < proof["relative"] <= proof["allowed"] < 0.1
    said = "\n".join(made.run.reporter.lines)
    assert "(it keeps its weights elsewhere)" in said and "the logits differ by at most" in said
    path = merged / "model.safetensors"
    right, base = load_file(path), load_file(made.base / "model.safetensors")
    for name, message in [
        ("model.layers.1.mlp.up_proj.weight", "logits differ"),
        ("model.norm.weight", "differs from the base's"),
    ]:
        wrong = right | {name: base[name] * (1.1 if "norm" in name else 1)}
        save_file(wrong, path, metadata={"format": "pt"})
        with pytest.raises(LoraplugError, match=message):
            verify.verify(plan_of(made), merged, [list(range(3, 60))], made.run)


@pytest.mark.parametrize("more", [{}, {"init_lora_weights": "pissa"}], ids=["streamed", "by peft"])
@pytest.mark.parametrize("kind", SEEING)
def test_models_that_see_stay_models_that_see(kind, more, seeing, logits, tmp_path):
    """Architecture and vision tower are the base's, byte for byte; its text part is merged."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    made = seeing(kind, **more)
    merged = MergedExporter().export(made, tmp_path / "merged")
    assert (merged / "config.json").read_text().strip() == (made.base / "config.json").read_text().strip()
    old, new = load_file(made.base / "model.safetensors"), load_file(merged / "model.safetensors")
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all(".mlp." in name and "vis" not in name for name in changed)
    whole, info = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    wanted = logits(made.base, made.adapter)
    assert float((wanted - logits(made.base)).abs().max()) > 1e-2, "the adapter does nothing"
    assert float((logits(merged) - wanted).abs().max()) < 1e-3
    with torch.inference_mode():
        assert float((whole.eval()(torch.arange(3, 67)[None]).logits - wanted).abs().max()) < 1e-3
    proof = proof_of(merged)
    assert proof["by"] == "modules" and proof["modules"] > 10 and proof["unchanged"] > 5


@pytest.mark.parametrize("more", [{}, {"init_lora_weights": "pissa"}], ids=["streamed", "by peft"])
@pytest.mark.parametrize("targets", ["all-linear", r".*language_model.*(q|down)_proj"], ids=["all", "text"])
def test_adapters_of_the_whole_model_that_sees(targets, more, seeing, trained, tmp_path):
    """Others train the published class, whose modules have other names than those of the text part alone."""
    import torch
    from safetensors.torch import load_file

    base = seeing("qwen3_5").base
    adapted = foreign_adapter(base, tmp_path / "foreign", targets, **more)
    made = trained(tmp_path / "foreign", base)
    merged = MergedExporter().export(made, tmp_path / "merged")
    got, wanted = load_file(merged / "model.safetensors"), adapted.merge_and_unload().state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in got)
    assert proof_of(merged)["by"] == "modules" and proof_of(merged)["modules"] > 10


@pytest.mark.parametrize("more", [{}, {"use_dora": True, "rank_pattern": {"down_proj": 2}}], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("targets", ["all-linear", r".*language_model.*(q|down)_proj"], ids=["all", "text"])
def test_an_adapter_of_the_whole_model_that_sees_answers(targets, more, seeing, tmp_path, monkeypatch):
    """As `loraplug chat` opens it: put on the text part alone, with the logits of the published class."""
    import torch

    from loraplug import Run, load_registry
    from loraplug.pipeline.reference import open_model

    base = seeing("qwen3_5").base
    adapted = foreign_adapter(base, tmp_path / "foreign", targets, **more).eval()
    testing.tiny_tokenizer().save_pretrained(tmp_path / "foreign")
    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "float32")
    run = Run("chat", outputs=tmp_path)
    model, _ = open_model(tmp_path / "foreign", load_registry()).load(run, "foreign")
    assert any("belong to image or audio encoders" in line for line in run.reporter.warnings) == (
        targets == "all-linear"
    )
    ids = torch.arange(3, 67)[None]
    with torch.inference_mode():
        wanted = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            plain = adapted(input_ids=ids).logits
        got = model(input_ids=ids).logits
    assert float((wanted - plain).abs().max()) > 1e-2, "the adapter does nothing"
    assert float((got - wanted).abs().max()) < 1e-4


def test_a_model_that_fails_on_text_is_refused_in_words(result, tmp_path, trained, monkeypatch):
    """As Llama 4's published class does (transformers 5.24): no proof can be made, and how to merge without is told."""
    from transformers import LlamaForCausalLM

    def fail(self, **_):
        raise AttributeError("no attribute 'image_outputs'")

    made = result("llama")
    monkeypatch.setattr(LlamaForCausalLM, "forward", fail)
    with pytest.raises(LoraplugError, match=r"a LlamaForCausalLM fails on input tokens[\s\S]*verify = false"):
        MergedExporter().export(made, tmp_path / "merged")
    assert (MergedExporter(verify=False).export(made, tmp_path / "unproved") / "model.safetensors").is_file()


@pytest.mark.parametrize("more", [{}, {"init_lora_weights": "pissa"}], ids=["streamed", "by peft"])
def test_an_adapter_of_another_model_is_refused(more, result, trained, make_adapter, tmp_path):
    """peft alone warns, goes on with adapters that do nothing, and would have them proved."""
    from peft import LoraConfig

    made = result("qwen3")
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)
    adapter = make_adapter(made.base, config)
    path = adapter / "adapter_model.safetensors"
    rename(path, lambda name: name.replace("model.layers", "model.text.layers"))
    with pytest.raises(InputError, match=r"does not have|does not fit this base"):
        MergedExporter().export(trained(adapter, made.base), tmp_path / "merged")


def rename(path, new_name):
    from safetensors.torch import load_file, save_file

    save_file({new_name(name): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def foreign_adapter(base, out, targets, **more):
    """An adapter that peft has put on the published class of a base, saved into `out`; gives the `PeftModel`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    adapted = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=4, target_modules=targets, **more),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    adapted.save_pretrained(out)
    return adapted


@pytest.mark.parametrize("more", [{}, {"init_lora_weights": "pissa"}], ids=["streamed", "by peft"])
def test_a_base_without_a_head_is_refused(more, result, tmp_path):
    """transformers would draw one at random, and a proof over it would prove nothing."""
    from safetensors.torch import load_file, save_file

    made = result("llama", **more)
    path = made.base / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has no lm_head\.weight[\s\S]*head"):
        MergedExporter().export(made, tmp_path / "merged")


def test_weights_no_row_reaches_are_compared_on_made_up_inputs(seeing, tmp_path, make_adapter, trained):
    """Adapters on a vision tower, which no text goes through: a wrong merge of theirs is found all the same."""
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    made = seeing("gemma3")
    adapter = make_adapter(made.base, LoraConfig(r=4, target_modules=r".*vision_tower.*fc1", task_type="CAUSAL_LM"))
    made = trained(adapter, made.base)
    merged = MergedExporter().export(made, tmp_path / "merged")
    assert proof_of(merged)["layer"].endswith("fc1")
    path = merged / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("fc1.weight"))
    save_file(tensors | {name: tensors[name] * 1.01}, path, metadata={"format": "pt"})
    with pytest.raises(LoraplugError, match="fc1 gives another output"):
        verify.verify(plan_of(made), merged, [list(range(3, 60))], made.run)


def test_a_choice_that_rounding_changes_is_no_proof():
    """A router whose rounded weights pick other experts says nothing of the merge, right or wrong."""
    import torch

    from loraplug_export.pieces import Compared, NotInPiecesError

    weights = {"router.weight": torch.ones(2, 2)}
    outputs = [(torch.tensor([0.5]), torch.tensor([number])) for number in (0, 1)]
    with pytest.raises(NotInPiecesError, match="router makes another discrete choice"):
        judge.Worst().take(Compared("router", torch.nn.Identity(), weights, (), *outputs), {"BF16"})
