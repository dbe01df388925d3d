"""What is served: names, and what answers behind each."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from loraplug import Prompter
from loraplug_serve.drawing import drawing_of
from loraplug_serve.forms import Form, form_of, shown_tokens, shows_tools
from loraplug_serve.sampling import Drawing, context_of
from loraplug_serve.server.errors import ApiError
from loraplug_serve.server.request import GenerationRequest
from loraplug_serve.server.worker import Worker


@define
class Sampled:
    """A model in memory, with one of its adapters or none.

    Attributes:
        encode: ids of messages, with the tools.
        prompter: None where there is no chat template.
    """

    name: str
    worker: Worker
    lane: str
    model: Any
    tokenizer: Any
    prompter: Prompter | None
    encode: Callable[[Sequence[Mapping[str, Any]], Any], list[int]]
    form: Form | None = field(init=False)
    shows_tools: bool = field(init=False)
    shown: frozenset[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.form = None if self.prompter is None else form_of(self.prompter)
        self.shows_tools = self.prompter is not None and shows_tools(self.prompter)
        self.shown = shown_tokens(self.tokenizer)

    def prompt(self, asked: GenerationRequest) -> tuple[list[int], str]:
        """Ids of a chat, and what its answer begins with because a call was required.

        Raises:
            ApiError: there is no template, it refuses the messages, leaves tools out, or writes calls in a way that is
                not known.
        """
        if self.prompter is None:
            raise ApiError(
                400, f"{self.name} has no chat template; use /v1/completions, which continues text", "messages"
            )
        required = asked.call not in ("none", "auto")
        if required and self.form is None:
            what = f"{self.name}'s chat template writes tool calls in an unknown format, so a call cannot be required"
            raise ApiError(400, f"tool_choice: {what}", "tool_choice", "unsupported_parameter")
        tools = asked.tools if asked.call != "none" else ()
        if tools and not self.shows_tools:
            what = f"{self.name}'s chat template leaves tools out, so the model would not see them"
            raise ApiError(400, f"tools: {what}", "tools", "unsupported_parameter")
        ids = self.encode(asked.messages, list(tools) or None)
        if self.form is None or not required:
            return ids, ""
        forced = self.form.forced(asked.call[1:] if asked.call.startswith(":") else None)
        return [*ids, *self.tokenizer(forced, add_special_tokens=False)["input_ids"]], forced

    def drawing(self, asked: GenerationRequest, ids: Sequence[int]) -> Drawing:
        """How to draw, by the request and else by the model's generation config.

        Raises:
            ApiError: the prompt leaves no room.
        """
        context = context_of(self.model)
        room = context - len(ids)
        if room <= 0:
            # begins as OpenAI's does: by that clients know that asking again is of no use
            what = f"This model's maximum context length is {context} tokens, and the prompt has {len(ids)}: shorten it"
            raise ApiError(400, what, "messages", "context_length_exceeded")
        how = asked.sampled
        seed = secrets.randbelow(2**63) if how.seed is None else how.seed
        given = {name: getattr(how, name) for name in
                 ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}  # fmt: skip
        return drawing_of(self.model.generation_config, min(how.max_tokens or room, room), seed, **given)


@frozen
class Forwarded:
    """A model of another server, or of llama.cpp's in this process.

    Attributes:
        name: as it is served.
        address: of the server, up to and without /v1.
        theirs: the model's name there.
        more: what is put into each request.
        key: what the server asks for; None asks for none.
        renamed: answers name the model otherwise.
    """

    name: str
    address: str
    theirs: str
    more: Mapping[str, Any] = {}
    key: str | None = field(default=None, repr=False)
    renamed: bool = False


Model = Sampled | Forwarded


@define
class Served:
    """All that one server answers with.

    Attributes:
        models: by name.
        workers: those of the models in memory.
        kept: what has to live as long as the server.
    """

    models: dict[str, Model] = field(factory=dict)
    workers: list[Worker] = field(factory=list)
    kept: list[Any] = field(factory=list)

    def get(self, name: str) -> Model:
        """The model of a name.

        Raises:
            ApiError: there is none.
        """
        found = self.models.get(name)
        if found is None:
            what = f"there is no model {name[:100]!r}; there are: {', '.join(self.models)}"
            raise ApiError(404, what, "model", "model_not_found")
        return found
