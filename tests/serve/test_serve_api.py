"""What clients of OpenAI's interface get from models in memory, by the real client."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from serve_helpers import Served, post, serving

from calling import ASKED, TOOL
from loraplug_serve.sampling import Drawing, Prompt, Sampler


@pytest.fixture(scope="module")
def server(
    tiny_model: Path, adapters: list[Path], caller: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The base, two adapters on it, and a model that calls a function."""
    folder = tmp_path_factory.mktemp("serving")
    whole = {"LORAPLUG_AUTO_DTYPE": "float32"}  # as the models of the tests that answers are compared with
    with serving(folder, f"base={tiny_model}", *adapters, caller, "--max-body", 1, env=whole) as found:
        yield found


def expected(model: Any, tokenizer: Any, ids: list[int], **how: Any) -> str:
    (found,) = Sampler(model, {tokenizer.eos_token_id}).completions([Prompt(ids)], Drawing(**how))
    return str(tokenizer.decode(found.ids, skip_special_tokens=True))


def test_adapters_on_one_base_answer_by_name_as_they_do_alone(
    server: Served, tiny_model: Path, adapters: list[Path]
) -> None:
    """Eight clients at once, of the base and both adapters; a model that is not there is 404."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    wanted = {}
    for name, folder in (("base", None), ("adapter-1", adapters[0]), ("adapter-2", adapters[1])):
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model = model if folder is None else PeftModel.from_pretrained(model, folder)
        wanted[name] = expected(model.eval(), tokenizer, ids, max_tokens=20)
    assert len(set(wanted.values())) == 3
    client = server.client()
    assert [one.id for one in client.models.list()] == ["adapter-1", "adapter-2", "base", "caller"]

    def ask(name: str) -> str:
        said = client.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=20)
        assert said.model == name and said.usage.prompt_tokens == len(ids)
        return said.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        names = [*wanted] * 4
        assert list(pool.map(ask, names)) == [wanted[name] for name in names]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; there are: adapter-1"):
        ask("other")
    assert server.log.read_text().count("adapter-1, adapter-2, base: served by loraplug's sampler") == 1


def test_streams_say_what_whole_answers_say(server: Served) -> None:
    """Text, several answers, logprobs, usage; a seed draws the same again."""
    client = server.client()
    asked: dict[str, Any] = {
        "model": "adapter-1", "messages": ASKED, "temperature": 1.0, "seed": 7, "n": 3, "max_tokens": 12,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts, told, ends = [""] * 3, [[], [], []], [None] * 3
    usage = None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            told[choice.index] += choice.logprobs.content if choice.logprobs else []
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [one.message.content for one in whole.choices] and len(set(texts)) == 3
    assert ends == [one.finish_reason for one in whole.choices]
    assert [[one.token for one in each] for each in told] == [
        [one.token for one in choice.logprobs.content] for choice in whole.choices
    ]
    assert usage == whole.usage and usage.completion_tokens >= sum(map(len, told))
    first = whole.choices[0].logprobs.content[0]
    assert first.logprob <= first.top_logprobs[0].logprob < 0 and len(first.top_logprobs) == 2
    other = client.chat.completions.create(**asked | {"seed": 8})
    assert [one.message.content for one in other.choices] != texts


def test_a_stop_text_ends_an_answer(server: Served) -> None:
    """In the middle of a token or across two, and is no part of it."""
    client = server.client()
    asked: dict[str, Any] = {"model": "adapter-1", "messages": ASKED, "temperature": 0, "max_tokens": 20}
    text = client.chat.completions.create(**asked).choices[0].message.content
    stop = text[5:8]
    found = client.chat.completions.create(**asked, stop=[stop, "never said"]).choices[0]
    assert found.message.content == text[: text.index(stop)] and found.finish_reason == "stop"
    streamed = client.chat.completions.create(**asked, stop=stop, stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in streamed) == found.message.content


def test_calls_and_reasoning_come_back_as_such(server: Served) -> None:
    """Of a model that was trained to call; in a stream too; as text where no tools were given; by force."""
    client = server.client()
    asked: dict[str, Any] = {"model": "caller", "messages": ASKED, "temperature": 0, "max_tokens": 200, "tools": [TOOL]}
    found = client.chat.completions.create(**asked).choices[0]
    assert found.finish_reason == "tool_calls" and found.message.content is None
    assert found.message.reasoning_content == "hm"
    (call,) = found.message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments) == {"a": 3, "b": 1}
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    (streamed,) = [call for one in deltas for call in one.delta.tool_calls or []]
    assert streamed.function == call.function or streamed.function.arguments == call.function.arguments
    assert deltas[-1].finish_reason == "tool_calls"
    text = client.chat.completions.create(**asked, tool_choice="none").choices[0].message
    assert text.tool_calls is None
    forced = client.chat.completions.create(
        **asked | {"max_tokens": 30}, tool_choice={"type": "function", "function": {"name": "add"}}
    ).choices[0]
    assert forced.message.tool_calls or (forced.message.content or "").startswith('<tool_call>\n{"name": "add", "arg')
    turn = [
        *ASKED, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "4"},
    ]  # fmt: skip
    assert client.chat.completions.create(**asked | {"messages": turn, "max_tokens": 4}).usage.prompt_tokens > 50
    with pytest.raises(openai.BadRequestError, match="writes tool calls in an unknown format"):
        client.chat.completions.create(**asked | {"model": "base"}, tool_choice="required")
    with pytest.raises(openai.BadRequestError, match="base's chat template leaves tools out"):
        client.chat.completions.create(**asked | {"model": "base"})
    assert client.chat.completions.create(**asked | {"model": "base", "max_tokens": 2}, tool_choice="none").choices


def test_text_is_gone_on_with(server: Served, tiny_model: Path) -> None:
    """From texts and from token ids, several at once, with log-probabilities."""
    client = server.client()
    asked: dict[str, Any] = {"model": "base", "temperature": 0, "max_tokens": 8}
    found = client.completions.create(**asked, prompt=["one two", "bug"], n=2, logprobs=1)
    assert [one.index for one in found.choices] == [0, 1, 2, 3]
    assert found.choices[0].text == found.choices[1].text
    assert len(found.choices[0].logprobs.tokens) <= 8 and found.choices[0].logprobs.text_offset[0] == 0
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_model)("bug")["input_ids"]
    assert client.completions.create(**asked, prompt=ids).choices[0].text == found.choices[2].text
    streamed = client.completions.create(**asked, prompt="bug", stream=True)
    assert "".join(one.choices[0].text for one in streamed) == found.choices[2].text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages: must be a non-empty list"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is not text"),
        ({"temperature": "hot"}, "temperature: must be a number"),
        ({"n": 0}, "n: must be an integer"),
        ({"frequency_penalty": 1}, "frequency_penalty: not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format: not supported"),
        ({"temprature": 1}, "temprature: not supported"),
        ({"tools": [{"type": "function"}]}, "tools[0]: must be"),
        ({"stop": [""]}, "stop: must be"),
        ({"messages": [{"role": "user", "content": "bug " * 600}]}, "maximum context length is 512"),
        ({"messages": [{"role": "user", "content": "raise"}]}, "this template does not like it"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(server: Served, change: dict[str, Any], says: str) -> None:
    """With 400, in OpenAI's shape, whole and as a stream."""
    for stream in (False, True):
        body = {"model": "caller", "messages": ASKED, "max_tokens": 2, "stream": stream} | change
        status, found = post(server.address, "/v1/chat/completions", body)
        assert status == 400 and says in found["error"]["message"], found
        assert set(found["error"]) == {"message", "type", "param", "code"}


def test_odd_requests_get_an_answer_of_json(server: Served) -> None:
    """No JSON, another path, another method, a foreign site or name, a body of 100 MB."""
    assert post(server.address, "/v1/chat/completions", b"{")[0] == 400
    assert post(server.address, "/v1/chat/completions", b"[" * 100_000)[0] == 400
    assert post(server.address, "/v1/embeddings", {})[0] == 404
    assert post(server.address, "/v1/models", {})[0] == 405
    assert post(server.address, "/v1/completions", {}, Origin="https://evil.example")[0] == 403
    assert post(server.address, "/v1/completions", {}, Host="evil.example")[0] == 403
    status, found = post(server.address, "/v1/chat/completions", b" " * 100_000_000)
    assert status == 413 and found["error"]["code"] == "body_too_large"
    # refused by what it says of itself, before it is sent
    with socket.create_connection(("127.0.0.1", server.port), 30) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n")
        assert b" 413 " in raw.recv(1000)


def test_figures_and_health(server: Served) -> None:
    """In Prometheus' format."""
    server.client().chat.completions.create(model="base", messages=ASKED, max_tokens=2)
    assert httpx2.get(f"{server.address}/health").json() == {"status": "ok"}
    text = httpx2.get(f"{server.address}/metrics").text
    assert 'loraplug_requests_total{model="base",path="/v1/chat/completions",status="200"}' in text
    assert 'loraplug_tokens_total{kind="completion",model="base"}' in text
    assert "loraplug_answers_running 0.0" in text and "loraplug_requests_waiting 0.0" in text


def test_limits_of_key_queue_and_time_and_a_clean_end(endless: Path, tmp_path: Path) -> None:
    """A model that never ends: who hangs up stops the work, who waits too long is told, a full queue is 429.

    The folder is damaged after loading, and it goes on answering; SIGTERM in the middle of an answer ends it with 0.
    """
    folder = tmp_path / "model"
    shutil.copytree(endless, folder)
    words = (folder, "--batch", 1, "--queue", 1, "--timeout", 4)
    with serving(tmp_path, *words, env={"LORAPLUG_SERVE_KEY": "secret-words"}) as server:
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(100)
        assert "secret-words" not in server.log.read_text()
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        client = server.client().with_options(api_key="secret-words")
        asked: dict[str, Any] = {"model": "model", "messages": ASKED, "temperature": 0}
        stream = client.chat.completions.create(**asked, stream=True)
        next(iter(stream))
        stream.close()
        # were the first still at work, this one would wait, and no token would come in its time
        began = time.monotonic()
        said = client.chat.completions.create(**asked, max_tokens=3)
        assert said.usage.completion_tokens == 3 and time.monotonic() - began < 4
        with pytest.raises(openai.APIStatusError, match="time limit of 4 seconds") as late:
            client.chat.completions.create(**asked)
        assert late.value.status_code == 504
        answers: list[Any] = []

        def ask() -> None:
            try:
                answers.append(client.chat.completions.create(**asked, max_tokens=100_000))
            except openai.APIStatusError as error:
                answers.append(error.status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [429, 429, 504, 504]
        stream = client.chat.completions.create(**asked, stream=True)
        next(iter(stream))
        assert server.end(signal.SIGTERM) == 0, server.log.read_text()
        assert "Traceback" not in server.log.read_text() and "serve: ended" in server.log.read_text()


def test_bad_words_are_told_in_one_block(inside: Any, tiny_model: Path, adapters: list[Path], tmp_path: Path) -> None:
    """A port in use, two of one name, an adapter for another base, an address beyond this machine without a key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = inside("serve", tiny_model, "--port", port)
        assert done.returncode == 2 and f"cannot listen on 127.0.0.1:{port}" in done.stderr, done.stderr
        done = inside("serve", tiny_model, "--host", "0.0.0.0", "--port", port)  # noqa: S104 - what the warning is about
        assert "without a key" in done.stderr
    done = inside("serve", tiny_model, tiny_model, "--port", port)
    assert done.returncode == 2 and "several models would be named" in done.stderr
    other = tmp_path / "other"
    shutil.copytree(adapters[1], other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    done = inside("serve", adapters[0], other, "--port", port)
    assert done.returncode == 2 and "does not fit this base" in done.stderr, done.stderr
    done = inside("serve", "http://127.0.0.1:9", "--port", port)
    assert done.returncode == 2 and "cannot be reached" in done.stderr
