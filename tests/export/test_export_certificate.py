"""The certificate passes what answers as base + adapter does, and names what does not: each known trap, by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import export_tokenizers as small
import pytest

from loraplug import Artefact, ExportContext, InputError, LoraplugError, Run, Sample
from loraplug_export import MergedExporter
from loraplug_export.certificate import FILE, PAGE, Certificate, Claim, ask_reference, compare, folder_claim, settle
from loraplug_export.certificate.measure import adapter_share, divergence
from loraplug_export.certificate.openai_server import OpenAIEngine

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 700, "max_position_embeddings": 512,
         "initializer_range": 0.3}  # fmt: skip
BOS_FIRST = "{{ bos_token }}" + small.CHATML


def make(folder: Path, kind: str = "llama", **config) -> ExportContext:
    """A finished run on a tiny random base whose template begins with the begin token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    settings = AutoConfig.for_model(kind, **SIZES | {"tie_word_embeddings": False} | config)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    base = folder / "base"
    model.save_pretrained(base)
    small.save("qwen2", base, bos=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = BOS_FIRST
    tokenizer.save_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder / "adapter")
    run = Run(name="tiny", outputs=folder / "outputs", cache=folder / "cache")
    return ExportContext(run=run, adapter=folder / "adapter", base=base, base_id="someone/tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, what base + adapter answers, and its merged folder."""
    folder = tmp_path_factory.mktemp("certified")
    result = make(folder)
    merged = MergedExporter(verify=False, prove="never").export(result, folder / "merged")
    return result, ask_reference(result), merged


def report_of(reference, folder):
    """What the certificate says of a folder."""
    claim = folder_claim(folder)
    try:
        return compare(reference, claim.start(reference), claim.limit)
    except (RuntimeError, ValueError, LoraplugError) as error:  # as `certify` tells of what cannot be loaded
        from loraplug_export.certificate import EngineReport

        return EngineReport("merged", claim.limit, problems=[f"cannot be loaded: {error}"])


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def template(old: str, new: str):
    def change(folder):
        path = folder / "chat_template.jinja"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def no_end(folder):
    edit(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit(folder / "config.json", eos_token_id=0)


def rope(folder):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", rope_parameters=config["rope_parameters"] | {"rope_theta": 500.0})


def tensors(folder, change):
    from safetensors.torch import load_file, save_file

    found = load_file(folder / "model.safetensors")
    change(found)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def tied(folder):
    tensors(folder, lambda found: found.pop("lm_head.weight"))
    edit(folder / "config.json", tie_word_embeddings=True)


def not_resized(folder):
    def cut(found):
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            found[name] = found[name][:300].clone()

    tensors(folder, cut)
    edit(folder / "config.json", vocab_size=300)


def zero_layer(folder):
    tensors(folder, lambda found: found["model.layers.1.self_attn.o_proj.weight"].zero_())


TRAPS = {
    "no begin token": (template("{{ bos_token }}", ""), "lacks its first token '<|endoftext|>'"),
    "begin token twice": (template("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"), "'<|endoftext|>' (0) twice"),
    "end of turn does not stop": (no_end, "does not end at '<|im_end|>'"),
    "another template": (template("assistant\n", "Assistant\n"), "in training"),
    "embeddings not resized": (not_resized, "fails with "),
    "wrong rope": (rope, "probabilities differ"),
    "tied where it was not": (tied, "probabilities differ"),
    "a layer lost": (zero_layer, "probabilities differ"),
}


def test_merged_passes(made):
    """All prompts, all answers, the adapter wholly on."""
    _, reference, merged = made
    report = report_of(reference, merged)
    assert report.problems == []
    assert len(report.prompts) >= 6 and all(one.prompt_equal for one in report.prompts)
    assert report.mean < 1e-6 and report.ends and report.adapter == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_named(trap, made, tmp_path):
    """Each broken folder fails, for its reason."""
    _, reference, merged = made
    broken = shutil.copytree(merged, tmp_path / "broken")
    change, words = TRAPS[trap]
    change(broken)
    report = report_of(reference, broken)
    assert any(words in problem for problem in report.problems), report.problems


def test_a_base_is_not_the_merged_model(made):
    """The adapter off: nothing of what it changes is there."""
    result, reference, _ = made
    report = report_of(reference, result.base)
    assert any("the adapter is not applied: only 0%" in problem for problem in report.problems), report.problems


def test_dropped_experts(tmp_path):
    """Half of a mixture's experts without their weights."""
    result = make(tmp_path, "mixtral", num_local_experts=4, num_experts_per_tok=2)
    reference = ask_reference(result)
    merged = MergedExporter(verify=False, prove="never").export(result, tmp_path / "merged")
    assert report_of(reference, merged).problems == []

    def drop(found):
        for name in found:
            if "experts" in name and ("w2" in name or "down_proj" in name):
                found[name].zero_()

    tensors(merged, drop)
    assert any("probabilities differ" in problem for problem in report_of(reference, merged).problems)


def test_failing_is_not_made(made, tmp_path):
    """The error names the token, the report lies beside the place, and the hub refuses a folder with such a report."""
    from loraplug_export.hub import check_certified

    _, reference, merged = made
    broken = shutil.copytree(merged, tmp_path / "broken")
    template("assistant\n", "Assistant\n")(broken)
    certificate = Certificate("tiny", "someone/tiny", "float32", (report_of(reference, broken),))
    with pytest.raises(LoraplugError, match=r"gives other answers than base \+ adapter[\s\S]*in training"):
        settle(certificate, broken / FILE, broken / PAGE, tmp_path / "place")
    report = json.loads((tmp_path / "place.refused.json").read_text())
    assert report["version"] == 1 and report["passed"] is False
    assert "**The answers do not agree.**" in (tmp_path / "place.refused.md").read_text()
    certificate.write(broken / FILE, broken / PAGE)
    with pytest.raises(InputError, match="certificate"):
        check_certified(broken)


def test_exporter_proves_and_card_links(made, tmp_path):
    """`prove` writes both files, and the card names them; samples are asked, too."""
    from attrs import evolve

    result = evolve(made[0], samples=[Sample("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "a", "b")])
    out = MergedExporter(verify=False).export(result, tmp_path / "merged")  # after a training, and cheap
    told = json.loads((out / FILE).read_text())
    assert told["passed"] and told["engines"][0]["passed"] and len(told["engines"][0]["prompts"]) == 7
    assert "All give the same answers as base + adapter" in (out / PAGE).read_text()
    assert f"[{PAGE}]({PAGE})" in (out / "README.md").read_text()
    plain = MergedExporter(verify=False).export(made[0], tmp_path / "plain")  # an adapter from elsewhere
    assert not (plain / FILE).exists()


def test_divergence_by_hand():
    """Against the whole divergence where all is listed, and below it where little is."""
    import torch

    logs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    other = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    whole = float((logs.exp() * (logs - other)).sum())
    listed = dict(enumerate(other.tolist()))
    assert divergence(logs, listed) == pytest.approx(whole, abs=1e-6)
    assert 0 <= divergence(logs, {0: listed[0]}) <= whole
    assert divergence(logs, dict(enumerate(logs.tolist()))) == pytest.approx(0, abs=1e-6)


def test_share_of_the_adapter(made):
    """1 for itself, 0 for the base."""
    asked = made[1].asked

    def rows(which):
        return [[dict(enumerate(row.tolist())) for row in getattr(one, which)] for one in asked]

    for which, share in (("logs", 1.0), ("base", 0.0)):
        found, error = adapter_share(asked, rows(which))
        assert found == pytest.approx(share, abs=1e-4) and error < 1e-3


# ------------------------------------------------------------------------------------------------ llama.cpp


@pytest.fixture(scope="module")
def gguf(made, tmp_path_factory):
    """The run's file in f16, and what certifies it."""
    pytest.importorskip("xllamacpp", reason="real llama.cpp: pip install xllamacpp")
    from attrs import evolve

    from loraplug_gguf.exporter import GgufExporter

    result, _, merged = made
    out = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return GgufExporter(prove="never").export(
        evolve(result, artefacts=[Artefact("merged", merged, {"onto": "original"})]), out
    )


def proved(made, file, **more):
    """What the certificate says of a file."""
    from loraplug_export.certificate.verdict import _asked
    from loraplug_gguf.proof import file_claim

    result, reference, merged = made
    return _asked(reference, file_claim(file, "f16", merged, result.run, **more))


def field(key, change):
    """Write over a value of a file's header, in its place."""

    def at(path):
        from gguf import GGUFReader

        found = GGUFReader(path, "r+").fields[key]
        value = found.parts[found.data[0]]
        value[:] = change(value)

    return at


def zeroed(path):
    from gguf import GGUFReader

    tensor = next(one for one in GGUFReader(path, "r+").tensors if one.name == "blk.1.ffn_down.weight")
    tensor.data[:] = 0


def other_word(value):
    import numpy as np

    text = bytes(value)
    assert b"assistant" in text
    return np.frombuffer(text.replace(b"assistant", b"Assistant"), dtype=np.uint8)


FILE_TRAPS = {
    "begin token": (field("tokenizer.ggml.bos_token_id", lambda value: value + 1), "in training"),
    "another template": (field("tokenizer.chat_template", other_word), "in training"),
    "wrong rope": (field("llama.rope.freq_base", lambda value: value / 20), "probabilities differ"),
    "a layer lost": (zeroed, "blk.1.ffn_down.weight (model.layers.1.mlp.down_proj.weight) is off by 100%"),
}


def test_file_passes(made, gguf):
    """In llama.cpp, through its chat."""
    report = proved(made, gguf)
    assert report.problems == []
    assert all(one.prompt_equal for one in report.prompts) and report.ends and report.mean < 1e-3
    assert report.adapter == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("trap", FILE_TRAPS)
def test_traps_of_files_are_named(trap, made, gguf, tmp_path):
    """Each broken file fails, for its reason; a lost layer is named."""
    broken = Path(shutil.copy(gguf, tmp_path / "broken.gguf"))
    change, words = FILE_TRAPS[trap]
    change(broken)
    report = proved(made, broken)
    assert any(words in problem for problem in report.problems), report.problems


def test_no_file_at_all(made, tmp_path):
    """What llama.cpp cannot load is told, not raised."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    assert proved(made, broken).problems[0].startswith("cannot be loaded")


def test_server_at_a_url(made, gguf):
    """Through the OpenAI API of a server on loopback; where it leaves out parts of characters, nothing is guessed."""
    from loraplug_export.certificate import LlamaCppEngine

    reference = made[1]
    real = LlamaCppEngine.start("server", gguf, reference.context + 8)
    engine = OpenAIEngine("server", f"{real.address}/v1", "tiny", reference.tokenizer)
    report = compare(reference, engine, 1e-3)
    assert report.problems == [] and report.ends
    assert all(one.prompt_equal for one in report.prompts)
    assert report.mean is None or report.mean < 1e-3
    real.close()


def test_no_server(made):
    """A server that is not there is told with its address."""
    reference = made[1]
    engine = OpenAIEngine("server", "http://127.0.0.1:9", "tiny", reference.tokenizer)
    report = compare(reference, engine, 1e-3)
    assert any("no answer from the server" in problem for problem in report.problems)


def test_claims_are_of_their_engine():
    """A claim's engine that cannot be loaded is a report."""
    from loraplug_export.certificate.verdict import _asked

    def start(reference):
        raise OSError("broken")

    assert _asked(None, Claim("x", start, 1.0)).problems == ["cannot be loaded: OSError: broken"]
