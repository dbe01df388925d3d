"""`loraplug chat`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from loraplug import InputError, LoraplugError, Run, echo, open_model

if TYPE_CHECKING:
    from loraplug import App
    from loraplug_serve.chat_model import ChatBackend, Sampling

_HELP = 'Enter sends; """ starts and ends a multi-line message; Ctrl-C stops an answer; Ctrl-D quits'


@click.command()
@click.argument("model")
@click.option("--prompt", metavar="TEXT", help="Answer this prompt and exit. Default: read the prompt from a pipe.")
@click.option("--system", metavar="TEXT", help="System message.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print each answer as one line of JSON, with token counts and times."
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10),
    help="0 is greedy; default: the model's generation config.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    help="Nucleus sampling: most probable tokens up to this total.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Longest answer, in tokens."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the sampling.")
@click.option("--base", metavar="MODEL", help="Base model to put the adapter on, instead of the one it names.")
@click.option("--trust", is_flag=True, help="Trust MODEL's recipe lock and run Python code that comes with it.")
@click.pass_obj
def chat(
    app: App,
    model: str,
    prompt: str | None,
    system: str | None,
    as_json: bool,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int,
    seed: int | None,
    base: str | None,
    trust: bool,
) -> None:
    """Talk to MODEL: a merged or adapter folder, owner/name on the hub, a .gguf file, package:NAME/FILE.gguf.

    MODEL may also be the URL of a server with OpenAI's interface: http://127.0.0.1:8000, followed by #NAME if it
    serves several models. Its key is read from LORAPLUG_API_KEY.
    """
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped()
    if prompt is not None and not prompt.strip():
        raise InputError("the prompt is empty", todo="give it with --prompt, through a pipe, or at a terminal")
    run = Run(name="chat", reporter=app.reporter())
    # not at the top: these load torch
    from loraplug_serve.chat_model import Sampling
    from loraplug_serve.remote import RemoteModel, is_url

    backend: ChatBackend
    if is_url(model):
        backend = RemoteModel.at(model)
    else:
        from loraplug_serve.loading import load

        backend = load(open_model(model, app.registry, base, trust), run, model).tuned
    talk = _Talk(backend, system, Sampling(temperature, top_p, max_tokens, seed), as_json)
    if prompt is not None:
        return talk.say(prompt)
    run.say(_HELP)
    return _converse(talk, run)


def _piped() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error})", where="stdin", todo="give text") from None


class _Talk:
    """A conversation and its history."""

    def __init__(self, backend: ChatBackend, system: str | None, sampling: Sampling, as_json: bool) -> None:
        self.backend, self.sampling, self.as_json = backend, sampling, as_json
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.figures = ""

    def say(self, text: str) -> None:
        """Answer `text` on stdout and add both to the history, also an answer that was stopped.

        Reasoning goes to stderr, calls of functions to stdout.
        """
        from loraplug_serve.chat_model import Answer

        made = Answer()
        asked = [*self.messages, {"role": "user", "content": text}]
        shown = _Shown()
        try:
            for kind, piece in self.backend.answer(asked, self.sampling, made):
                if not self.as_json:
                    shown.add(kind, piece)
        finally:
            echo(json.dumps(made.told(), ensure_ascii=False) if self.as_json else "")
            self.figures = f"{made.tokens} tokens, {made.rate:.1f} tokens/s" if made.rate else f"{made.tokens} tokens"
            if made.text:
                self.messages = [*asked, {"role": "assistant", "content": made.text}]


class _Shown:
    """Pieces of an answer on the terminal, a line feed between those of different kinds."""

    def __init__(self) -> None:
        self.last = ""

    def add(self, kind: str, piece: str) -> None:
        if self.last == "reasoning" and kind != "reasoning":
            echo(err=True)
        if kind == "call":
            echo(("\n" if self.last in ("content", "call") else "") + f"calls {piece}", nl=False, bold=True)
        elif kind == "reasoning":
            echo(piece, nl=False, err=True, dim=True)
        else:
            echo(piece, nl=False)
        self.last = kind


def _converse(talk: _Talk, run: Run) -> None:
    import readline  # noqa: F401 - gives input() line editing and history

    while True:
        try:
            text = _read()
        except (EOFError, KeyboardInterrupt):
            return echo(err=True)
        if not text.strip():
            continue
        try:
            talk.say(text)
            run.say(f"({talk.figures})")
        except KeyboardInterrupt:
            run.say("(stopped)")
        except LoraplugError as error:
            run.warn(str(error))


def _read() -> str:
    line = input("> ")
    if not line.startswith('"""'):
        return line
    lines = [line.removeprefix('"""')]
    while not lines[-1].endswith('"""'):
        lines.append(input(". "))
    return "\n".join(lines).removesuffix('"""')
