"""`loraplug web`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import click

from loraplug import InputError, Run
from loraplug_serve.guard import Names, is_loopback

if TYPE_CHECKING:
    from loraplug import App


@click.command()
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 listens on all.")
@click.option("--share", is_flag=True, help="Make a public address through gradio's servers.")
@click.option(
    "--trusted-host", "trusted", multiple=True, metavar="NAME", help="Further host name that browsers may use."
)
@click.option("--base", metavar="MODEL", help="Base model to put the adapter on, instead of the one it names.")
@click.option("--trust", is_flag=True, help="Trust MODEL's recipe lock and run Python code that comes with it.")
@click.pass_obj
def web(
    app: App, model: str, port: int, host: str, share: bool, trusted: tuple[str, ...], base: str | None, trust: bool
) -> None:
    """Talk to MODEL in a browser and compare it with its base; the page also offers other finished runs.

    MODEL is a merged or adapter folder, owner/name on the hub, a .gguf file, package:NAME/FILE.gguf, or the URL of a
    server with OpenAI's interface (followed by #NAME if it serves several; its key is read from LORAPLUG_API_KEY).
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("web needs gradio, which is not installed", todo='pip install "gradio>=6.31"')
    _check_port(host, port)
    run = Run(name="web", reporter=app.reporter())
    if share:
        run.warn("--share: whoever knows the address can use this page, from anywhere")
    elif not is_loopback(host):
        run.warn(f"--host {host}: whoever can reach this machine can use this page")
    # not at the top: these load torch and gradio
    from loraplug_serve.models import Models

    models = Models(model, app.registry, run, base, trust)
    models.get(model)
    from loraplug_serve.page import serve

    serve(
        models, host, port, share, Names.of(host, trusted), lambda address: run.say(f"web: {address} (ctrl-c ends it)")
    )


def _check_port(host: str, port: int) -> None:
    """Before a model is loaded for nothing."""
    import socket

    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise InputError("no such address", where=f"--host {host}", todo="give 127.0.0.1, or leave it out") from None
    except OSError as error:
        todo = f"stop what listens there, or choose another: --port {port + 1 if port < 65535 else port - 1}"
        what = f"cannot listen on {host}:{port} ({error.strerror})"
        raise InputError(what, where="--port", todo=todo) from None
