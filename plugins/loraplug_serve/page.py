"""The gradio page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import zip_longest
from typing import Any
from urllib.parse import urlsplit

# before gradio is loaded: it would tell its makers of every page, and ask whether there is a newer gradio
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from loraplug import InputError, LoraplugError, printable
from loraplug_serve.chat_model import Answer, ChatBackend, Message, Sampling
from loraplug_serve.forms import Call
from loraplug_serve.guard import Guard, Names
from loraplug_serve.models import Models
from loraplug_serve.runs_page import Runs

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = "#chatbot .md { white-space: pre-wrap } footer { display: none }"
_ONE_MODEL: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_LIGHT: dict[str, Any] = {"queue": False, "api_visibility": "private"}


def build(models: Models) -> gr.Blocks:
    """The page: a chat, base and fine-tuned model side by side, and runs in progress."""
    temperature = models.get(models.first).tuned.temperature
    with gr.Blocks(title="loraplug", analytics_enabled=False, fill_height=True) as page:
        model = gr.Dropdown(models.names(), value=models.first, label="Model", elem_id="model")
        with gr.Accordion("System prompt and sampling", open=False, elem_id="settings"):
            system = gr.Textbox("", label="System prompt", lines=2, elem_id="system")
            with gr.Row():
                controls = [
                    gr.Slider(0, 2, temperature, step=0.05, label="Temperature", info="0 is greedy"),
                    gr.Slider(
                        0.05,
                        1,
                        1,
                        step=0.05,
                        label="Top p",
                        info="nucleus sampling: the most probable tokens up to this total",
                    ),
                    gr.Slider(16, 4096, 512, step=16, label="Longest answer", info="tokens"),
                    # a Number shows an empty box as 0
                    gr.Textbox(
                        "",
                        label="Seed",
                        info="a whole number makes answers repeatable",
                        max_lines=1,
                        placeholder="empty: a new one each time",
                        elem_id="seed",
                    ),
                ]
        settings = [model, system, *controls]
        with gr.Tab("Chat", id="chat") as chat:
            _chat_tab(models, settings)
        with gr.Tab("Compare", id="compare") as compare:
            _compare_tab(models, settings)
        with gr.Tab("Runs", id="runs") as runs:
            timer = _runs_tab(Runs(models.run.outputs), runs)
        for other in (chat, compare):
            other.select(lambda: gr.Timer(active=False), None, timer, **_LIGHT)
        page.load(lambda: gr.update(choices=models.names()), None, model, **_LIGHT)
    made: gr.Blocks = page
    return made


def _chat_tab(models: Models, settings: Sequence[Any]) -> None:
    # gradio's own buttons would copy escaped text, and share on a public site
    shown = gr.Chatbot(label="Chat", height="50vh", render_markdown=False, buttons=[], elem_id="chatbot")
    history = gr.State([])
    figures = gr.HTML("", elem_id="figures")
    with gr.Row():
        said = gr.Textbox(placeholder="Say something", show_label=False, scale=8, elem_id="said", autofocus=True)
        send = gr.Button("Send", variant="primary", elem_id="send", min_width=80)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
        clear = gr.Button("Clear", elem_id="clear", min_width=80)

    def answer(messages: list[Message], name: str, system: str, *controls: Any) -> Iterator[Any]:
        if not messages or messages[-1]["role"] != "user":
            return
        made = Answer()
        with _as_gradio_errors():
            backend = models.get(name).tuned
            for _ in backend.answer([*_system(system), *_sent(messages)], sampling_of(*controls), made):
                now = [*messages, _kept(made)]
                yield _shown(now), now, _figures(made)
            now = [*messages, _kept(made)]
            yield _shown(now), now, _figures(made)

    begun = gr.on([said.submit, send.click], _asked, [said, history], [said, shown, history], **_LIGHT)
    going = begun.then(answer, [history, *settings], [shown, history, figures], show_progress="minimal", **_ONE_MODEL)
    stop.click(None, cancels=[going], **_LIGHT)
    # in two steps: a piece that is on its way when the answer is stopped would bring the conversation back
    stopped = gr.on([clear.click, shown.clear], None, cancels=[going], **_LIGHT)
    stopped.then(lambda: ([], [], ""), None, [shown, history, figures], **_LIGHT)


def _asked(said: str, messages: list[Message]) -> tuple[str, list[Message], list[Message]]:
    if said.strip():
        # a question whose answer never began gives way to the next
        asked = messages[:-1] if messages and messages[-1]["role"] == "user" else messages
        messages = [*asked, {"role": "user", "content": said}]
    return "", _shown(messages), messages


def _kept(made: Answer) -> Message:
    """An answer as the page remembers it: as it was written, and taken apart."""
    return {
        "role": "assistant", "content": made.text, "reasoning": made.reasoning, "said": made.content,
        "calls": [[call.name, call.arguments] for call in made.calls],
    }  # fmt: skip


def _sent(messages: Sequence[Message]) -> list[Message]:
    """The conversation for the model."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _shown(messages: Sequence[Message]) -> list[Message]:
    """Texts as they are, which the chat box would take as HTML; reasoning and calls folded, above and below them."""
    found: list[Message] = []
    for message in messages:
        found += _folded("Reasoning", [message["reasoning"]] if message.get("reasoning") else [])
        said, calls = message.get("said", message["content"]), message.get("calls") or []
        if said.strip() or not (calls or message.get("reasoning")):
            found.append({"role": message["role"], "content": escape(said, quote=False)})
        for call in (Call(*one) for one in calls):
            found += _folded(f"Calls {call.name}", [call.arguments])
    return found


def _folded(title: str, texts: Sequence[str]) -> list[Message]:
    told = {"title": escape(printable(title)), "status": "done"}
    return [{"role": "assistant", "content": escape(text, quote=False), "metadata": told} for text in texts]


def _figures(made: Answer) -> str:
    """Tokens, and how fast they came."""
    rate = f", {made.rate:.1f} tokens/s" if made.rate else ""
    return f"<small>{made.tokens} tokens{rate}; first token after {made.first_token_seconds:.2f} s</small>"


def _compare_tab(models: Models, settings: Sequence[Any]) -> None:
    with gr.Row():
        prompt = gr.Textbox(placeholder="One prompt for both", show_label=False, scale=8, lines=3, elem_id="prompt")
        send = gr.Button("Compare", variant="primary", elem_id="compare", min_width=80)
        stop = gr.Button("Stop", elem_id="stop-compare", min_width=80)
    with gr.Row(equal_height=True):
        columns = [
            gr.Textbox(label=label, lines=15, max_lines=15, interactive=False, elem_id=label.lower(), buttons=["copy"])
            for label in ("Base", "Fine-tuned")
        ]

    def answers(prompt: str, name: str, system: str, *controls: Any) -> Iterator[Any]:
        if not prompt.strip():
            return
        yield "", ""
        with _as_gradio_errors():
            messages = [*_system(system), {"role": "user", "content": prompt}]
            yield from side_by_side(models.both(name), messages, sampling_of(*controls))

    going = gr.on(
        [prompt.submit, send.click], answers, [prompt, *settings], columns, show_progress="minimal", **_ONE_MODEL
    )
    stop.click(None, cancels=[going], **_LIGHT)


def _runs_tab(runs: Runs, tab: Any) -> Any:
    """What is chosen, looked at again every two seconds while the tab is open; gives the timer."""
    # nothing is chosen before the tab is opened, when a run may have begun that is at work
    chosen = gr.Dropdown(runs.names(), value=None, label="Run", elem_id="run-name")
    shown = gr.HTML("", elem_id="run-shown")
    timer = gr.Timer(2, active=False)

    def opened(name: str | None) -> tuple[Any, str, Any]:
        names = runs.names()
        name = name if name in names else next(iter(names), None)
        return gr.update(choices=names, value=name), runs.html(name), gr.Timer(active=True)

    tab.select(opened, chosen, [chosen, shown, timer], show_progress="hidden", **_LIGHT)
    gr.on([timer.tick, chosen.change], runs.html, chosen, shown, show_progress="hidden", **_LIGHT)
    return timer


def side_by_side(
    backends: Sequence[ChatBackend], messages: Sequence[Message], sampling: Sampling
) -> Iterator[tuple[str, ...]]:
    """Answers of several models to one prompt, a piece of each in turn; yields the texts so far."""
    made = [Answer() for _ in backends]
    streams = [backend.answer(messages, sampling, answer) for backend, answer in zip(backends, made, strict=True)]
    for _ in zip_longest(*streams):
        yield tuple(answer.text for answer in made)


def _system(text: str) -> list[Message]:
    return [{"role": "system", "content": text}] if text.strip() else []


def sampling_of(temperature: float, top_p: float, max_tokens: float, seed: str) -> Sampling:
    """What the page's controls say; an empty seed is none.

    Raises:
        InputError: the seed is no whole number.
    """
    text = seed.strip()
    if text and not (text.isascii() and text.isdecimal() and int(text) < 2**63):
        raise InputError(
            f"{text!r} is not a whole number of at least 0", where="Seed", todo="enter one, or leave the field empty"
        )
    return Sampling(float(temperature), float(top_p), int(max_tokens), int(text) if text else None)


class _as_gradio_errors:  # noqa: N801 - a context manager
    """Shows our errors in the page as they are shown in a terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LoraplugError):
            # which gradio would take as HTML, and which may name what a stranger has written
            text = escape(printable(str(error)), quote=False)
            raise gr.Error(text, duration=None, print_exception=False) from error


def serve(models: Models, host: str, port: int, share: bool, names: Names, ready: Callable[[str], None]) -> None:
    """Serve the page under its `names` until Ctrl-C; `ready` is called with its address once it listens."""
    from starlette.middleware import Middleware

    page = build(models)
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=THEME,
        css=CSS,
        run_history=False,  # which browsers would keep
        app_kwargs={"middleware": [Middleware(Guard, names)], "docs_url": None, "redoc_url": None},
    )
    if public and (name := urlsplit(public).hostname):
        names.named.add(name)
    ready(public or local)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
