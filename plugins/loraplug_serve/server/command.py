"""`loraplug serve`."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import click

from loraplug import InputError, Run
from loraplug_serve.guard import Names, is_loopback

if TYPE_CHECKING:
    from loraplug import App

KEY = "LORAPLUG_SERVE_KEY"
_MB = 1 << 20


@click.command()
@click.argument("models", metavar="[NAME=]MODEL...", nargs=-1, required=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 listens on all.")
@click.option(
    "--trusted-host", "trusted", multiple=True, metavar="NAME", help="Further host name that clients may use."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "llama.cpp", "sampler"]),
    default="auto",
    show_default=True,
    help="Engine for .gguf files; auto takes llama.cpp if it is installed.",
)
@click.option(
    "--batch", type=click.IntRange(1, 512), default=16, show_default=True, help="Answers generated at the same time."
)
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True, help="Most requests in the queue.")
@click.option(
    "--context",
    type=click.IntRange(64),
    help="llama.cpp's context in tokens, shared by all its answers; 16384 by default.",
)
@click.option(
    "--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Time limit of a request, in seconds."
)
@click.option("--max-body", type=click.IntRange(1), default=8, show_default=True, help="Largest request, in megabytes.")
@click.option("--base", metavar="MODEL", help="Base model of the adapters, instead of the one each names.")
@click.option(
    "--trust", is_flag=True, help="Trust the recipe locks of MODELs and run Python code that comes with them."
)
@click.pass_obj
def serve(
    app: App,
    models: tuple[str, ...],
    port: int,
    host: str,
    trusted: tuple[str, ...],
    engine: str,
    batch: int,
    queue: int,
    context: int | None,
    timeout: float,
    max_body: int,
    base: str | None,
    trust: bool,
) -> None:
    """Serve MODELs over an HTTP interface like OpenAI's; clients choose one by name.

    MODEL is a merged or adapter folder, owner/name on the hub, a .gguf file (model or adapter), package:NAME/FILE.gguf,
    or the URL of another such server. Adapters of one base share it in memory.

    If LORAPLUG_SERVE_KEY is set, clients must send that key. LORAPLUG_API_KEY is sent to servers at URLs.
    """
    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        todo = 'pip install "prometheus-client>=0.22" "starlette>=1.0" "uvicorn>=0.40"'
        raise InputError(f"serve needs {', '.join(missing)}, which is not installed", todo=todo)
    from loraplug_serve.server.listening import listen, run_until_stopped

    run = Run(name="serve", reporter=app.reporter())
    key = os.environ.get(KEY) or None
    if not is_loopback(host) and key is None:
        run.warn(f"--host {host} without a key: whoever can reach this machine can use the models; set {KEY}")
    # before models are loaded for nothing
    with listen(host, port) as socket:
        # not at the top: these load torch
        from loraplug_serve.server.loading import Settings, load, requested_models

        settings = Settings(batch, queue, context, engine, base, trust)
        served = load(requested_models(models), settings, app.registry, run)
        from loraplug_serve.server.app import Limits, build

        api = build(served, Limits(max_body * _MB, timeout), Names.of(host, trusted), key)
        run_until_stopped(api, socket, lambda address: run.say(f"serve: {address}/v1 (ctrl-c ends it)"))
        served.kept.clear()  # llama.cpp's server ends here
    run.say("serve: ended")
