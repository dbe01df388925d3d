"""What `target_modules` covers: every linear layer that can be adapted; what is left out is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from families import build
from loraplug import InputError, Run, adapted_share, layer_weights, load_adapter
from loraplug.testing import from_table
from loraplug_train.adapters.lora import Lora
from loraplug_train.adapters.targets import SHARED
from loraplug_train.engine.reach import OTHER
from loraplug_train.trainer import Sft

# ends of names of linear layers that "all-linear" is to leave out, beside the output
LEFT_OUT = {
    "llama": (),
    "gpt2": (),
    "opt": (),
    "qwen2_moe": (),  # its router is no linear layer
    "deepseek_v3": (),
    "jamba": ("dt_proj", "router"),
    "mamba": ("dt_proj", "out_proj"),
    "llama4": ("router",),
    "lfm2_moe": ("gate",),
}


def _attached(name: str, **lora: Any) -> tuple[Any, Any]:
    import torch

    model, targets = Lora(r=4, **lora).put_on(build(name))
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=drawn)
    return model.eval(), targets


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits


@pytest.mark.parametrize("name", LEFT_OUT)
def test_all_linear_is_every_linear_layer(name: str) -> None:
    """But the output, routers and those on which an adapter would do nothing; those are told with the rest."""
    import torch
    from transformers.pytorch_utils import Conv1D

    base = build(name)
    head = base.get_output_embeddings()
    linear = {n for n, m in base.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head}
    left_out = {n for n in linear if n.endswith(LEFT_OUT[name] or ("-",))}
    model, targets = _attached(name)
    wrapped = {n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A") and len(m.lora_A)}
    assert wrapped == linear - left_out
    assert set(targets.left_out) == left_out
    share = adapted_share(model, targets.left_out)
    assert share.done == sum(base.get_submodule(n).weight.numel() for n in wrapped)
    for last in LEFT_OUT[name]:
        assert last in share.sentence()
    _trains(model)


def _trains(model: Any) -> None:
    """Every adapter outside unrouted experts gets a gradient."""
    import torch

    out = model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits
    out.float().logsumexp(-1).sum().backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


@pytest.mark.parametrize("name", ["qwen3_next", "deepseek_v3"])
def test_shared_experts_and_dense_first_layers_load_in_plain_peft(name: str, tmp_path: Path) -> None:
    """peft would take their names for fused experts; what is saved is the adapter it makes again, and ours too."""
    from peft import PeftModel

    model, _ = _attached(name)
    expected = _logits(model)
    model.save_pretrained(tmp_path / "a")
    assert _logits(PeftModel.from_pretrained(build(name), tmp_path / "a").eval()) == pytest.approx(expected, abs=1e-5)
    again = load_adapter(build(name), tmp_path / "a")
    assert _logits(again.eval()) == pytest.approx(expected, abs=1e-5)
    assert not any("ParamWrapper" in type(module).__name__ for module in again.modules())
    again.save_pretrained(tmp_path / "b")
    configs = [(tmp_path / each / "adapter_config.json").read_text(encoding="utf-8") for each in "ab"]
    assert "shared_expert" in configs[0]
    assert _logits(PeftModel.from_pretrained(build(name), tmp_path / "b").eval()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["gpt_oss", "mixtral", "qwen3_moe"])
def test_experts_are_adapted_where_they_are_asked_for(name: str, tmp_path: Path) -> None:
    """Fused ones by peft's target_parameters: all of them, with gradients, and plain peft loads them."""
    from peft import PeftModel

    model, targets = _attached(name, target_modules=("all-linear", "experts"))
    share = adapted_share(model, targets.left_out)
    assert share.share > 0.99
    assert set(share.rest) == {"routers"}
    expected = _logits(model)
    model.save_pretrained(tmp_path)
    assert _logits(PeftModel.from_pretrained(build(name), tmp_path).eval()) == pytest.approx(expected, abs=1e-5)
    assert _logits(load_adapter(build(name), tmp_path).eval()) == pytest.approx(expected, abs=1e-5)
    _trains(model)


def test_attention_and_mlp_are_groups() -> None:
    """Both together are all of a dense model; a group that a model has none of is refused."""
    for name in ("llama", "opt", "gpt_neox"):
        attention = set(_attached(name, target_modules="attention")[1].modules)
        mlp = set(_attached(name, target_modules=("mlp",))[1].modules)
        assert attention and mlp and not attention & mlp
        assert attention | mlp == set(_attached(name)[1].modules)
    with pytest.raises(InputError, match='"attention" matches no layer of this model'):
        Lora(target_modules="attention").put_on(build("mamba"))
    with pytest.raises(InputError, match='"experts" matches no layer of this model'):
        Lora(target_modules=("all-linear", "experts")).put_on(build("llama"))


def test_a_layer_that_cannot_be_adapted_is_refused_where_it_is_named() -> None:
    """peft's own refusal, and a router that gives a tuple."""
    with pytest.raises(InputError, match="peft refuses it"):
        Lora(target_modules=("in_proj", "out_proj")).put_on(build("mamba"))
    with pytest.raises(InputError, match="returns more than one tensor"):
        Lora(target_modules=("q_proj", "router")).put_on(build("llama4"))


def test_layers_that_compute_by_groups_have_no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass of torch's linear layer whose input is another (DeepSeek V4's output projection)."""
    import torch

    class ByGroups(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
            groups = input.unflatten(-1, (2, self.in_features)).unsqueeze(-2)
            return (groups * self.weight.unflatten(0, (2, -1))).sum(-1).flatten(-2)

    def grouped() -> Any:
        model = build("llama")
        for layer in model.model.layers:
            layer.self_attn.o_proj = ByGroups(32, 64, bias=False)
        return model

    targets = Lora().put_on(grouped())[1]
    assert len(targets.modules) == 12 and not [name for name in targets.modules if "o_proj" in name]
    assert set(targets.left_out.values()) == {OTHER}
    with pytest.raises(InputError, match="does not compute a linear layer's product of its input"):
        Lora(target_modules=("o_proj",)).put_on(grouped())


def test_layers_that_share_a_weight_are_left_out_and_named_ones_taken() -> None:
    """Each would get an adapter of its own, and there is one weight to merge both into."""
    model, targets = _attached("zamba2")
    assert targets.modules and not [name for name in targets.modules if "shared_transformer" in name]
    assert SHARED in adapted_share(model, targets.left_out).rest
    named = _attached("zamba2", target_modules=("o_proj",))[1]
    assert named.modules == [f"model.layers.{at}.shared_transformer.self_attn.o_proj" for at in (1, 3)]


def test_a_model_that_does_not_run_is_refused_before_the_work() -> None:
    """What its forward pass raises is told, once, in words."""
    model = build("llama")

    def fail(**_: Any) -> Any:
        raise AttributeError("no attribute 'cache'")

    model.forward = fail
    with pytest.raises(
        InputError, match=r"a LlamaForCausalLM in float32 fails on input tokens \(AttributeError: no attr"
    ):
        Lora().put_on(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_whose_tokens_see_ahead_is_refused(dtype: str) -> None:
    """BERT loads as a causal language model, with no more than a line in a log; as a decoder it is one."""
    import torch
    from transformers import AutoModelForCausalLM, BertConfig

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    for decoder in (True, False):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=64, is_decoder=decoder, initializer_range=0.1, **sizes)
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        if decoder:
            Lora().put_on(model)
        else:
            with pytest.raises(InputError, match=r"tokens attend to later ones[\s\S]*is_decoder = true"):
                Lora().put_on(model)


def test_rounding_in_16_bits_is_no_look_ahead(tmp_path: Path) -> None:
    """With another last token the logits of the others are rounded otherwise: in bfloat16 by 1 percent here."""
    from families import save
    from loraplug_hf.loader import TransformersModel

    loader = TransformersModel(id=str(save("inkling_text", tmp_path / "base")), dtype="bfloat16")
    Lora().put_on(loader.load_model(Run("a", outputs=tmp_path), None))


def test_the_forecast_counts_experts_that_are_not_quantised_in_full(tmp_path: Path) -> None:
    """A quantizer leaves them in the model's own format."""
    from families import save
    from loraplug_bnb.quantizer import BitsAndBytes
    from loraplug_hf.loader import TransformersModel
    from loraplug_train.engine.forecast import forecast

    loader = TransformersModel(id=str(save("qwen3_moe", tmp_path / "base")), dtype="float32")
    quantizer = BitsAndBytes()
    model = quantizer.prepare(loader.load_model(Run("a", outputs=tmp_path), quantizer))
    weights = layer_weights(model)
    experts = sum(4 * one.count for one in weights if one.kind == "experts")
    assert experts > 0 and not any(one.quantised for one in weights if one.kind == "experts")
    rest = sum(one.count // 2 for one in weights if one.quantised)
    made = forecast(Sft(), model, [32, 32], 1.0)
    ends = 2 * 4 * model.get_input_embeddings().weight.numel()
    assert experts + rest + ends < made.parts["weights"] < 1.1 * (experts + rest + ends)
    assert "experts fused in one tensor" in made.notes["quantised"]


def test_what_does_not_go_with_experts_is_a_problem_of_the_recipe() -> None:
    """Dropout, DoRA and starts that read the base, all at once; found without a model."""
    lora = {"target_modules": ["all-linear", "experts"], "dropout": 0.1, "use_dora": True, "init_lora_weights": "pissa"}
    made, problems = from_table(Sft, {"lora": lora})
    assert made is not None and not problems

    class Recipe:
        quantizer = None
        validation = None

    found = {problem.path for problem in made.check(Recipe())}
    assert {"trainer.lora.dropout", "trainer.lora.use_dora", "trainer.lora.init_lora_weights"} <= found
