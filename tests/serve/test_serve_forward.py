"""Streams of another server that names the model otherwise, however the network cuts them."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from starlette.responses import StreamingResponse

from loraplug_serve.server.forward import forward
from loraplug_serve.server.served import Forwarded

STREAM = (
    b'data: {"id":"1","model":"/home/me/secret.gguf","choices":[{"delta":{"content":"say \\"model\\":\\"x\\""}}]}\n\n'
    b'data: {"id":"1","model":"/home/me/secret.gguf","choices":[]}\n\ndata: [DONE]\n\n'
)


async def passed_on(pieces: list[bytes]) -> bytes:
    """What a client gets of an answer that arrives in `pieces`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    model = Forwarded("mine", address, "theirs", renamed=True)
    async with server, httpx2.AsyncClient(trust_env=False) as client:
        found = await forward(client, model, "/v1/chat/completions", {}, 10)
        assert isinstance(found, StreamingResponse)
        return b"".join([bytes(piece) async for piece in found.body_iterator])  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [20, 40, 60, 130, 200, len(STREAM) - 3])
def test_a_name_that_is_cut_is_replaced_as_well(cut: int) -> None:
    """The text says nothing of the file, keeps what the answer itself contains, and loses nothing at its end."""
    found = asyncio.run(passed_on([STREAM[:cut], STREAM[cut:]]))
    assert found == STREAM.replace(b'"model":"/home/me/secret.gguf"', b'"model":"mine"')


def test_an_answer_that_ends_early_is_passed_on() -> None:
    """What came after the last whole event is not held back."""
    found = asyncio.run(passed_on([STREAM[:130]]))
    assert found == STREAM[:130].replace(b'"model":"/home/me/secret.gguf"', b'"model":"mine"')
