"""A chat template, rendered as transformers renders it, plain or with the origin of every character."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from attrs import define

from loraplug import Conversation, InputError
from loraplug_chat import reasoning
from loraplug_chat.compat import aliased_reasoning, compiled, plain_data
from loraplug_chat.provenance import (
    CLOSE,
    OPEN,
    TEMPLATE,
    TOOLS,
    UNKNOWN,
    InspectedError,
    Parts,
    PrintedPartsError,
    ProvenanceStr,
    Runs,
    Thought,
    TrackedDict,
    TrackedList,
    concat,
    derived,
    following,
    is_opaque,
    joined,
    track,
)

NOT_RENDERED = frozenset({"train", "weight", "cuttable"})
_USUAL = {"role", "content"}
_NO_PROMPT = {"add_generation_prompt": False}
_DICT_NAMES = frozenset(dir(TrackedDict))


def body(message: int) -> int:
    """The owner of everything in message number `message` but its role."""
    return 2 * message


def role(message: int) -> int:
    """The owner of the role of message number `message`."""
    return 2 * message + 1


@define
class TemplateInput:
    """A conversation as the template gets it.

    Attributes:
        id: the row's name.
        messages: without our own keys and without keys that are null but content; reasoning under all names it goes by.
        tools: tool schemas or None.
        wanted: for each message the weight of its tokens in the loss; 0 or False where it is not trained.
    """

    id: str
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    wanted: list[float]

    @classmethod
    def of(cls, talk: Conversation) -> TemplateInput:
        """Prepare a row as `apply_chat_template` does."""
        wanted = [0.0 if m.get("train", True) is False else m.get("weight", 1.0) for m in talk.messages]
        kept = [
            {k: v for k, v in m.items() if k not in NOT_RENDERED and (v is not None or k == "content")}
            for m in talk.messages
        ]
        if all(m.keys() == _USUAL and type(m["content"]) is type(m["role"]) is str for m in kept):
            return cls(talk.id, kept, plain_data(talk.tools), wanted)
        messages = aliased_reasoning(plain_data(kept))
        return cls(talk.id, messages, plain_data(talk.tools), wanted)


class Template:
    """A compiled chat template of a tokenizer, with the variables `apply_chat_template` gives it."""

    def __init__(self, source: str, variables: dict[str, Any]) -> None:
        self.source = source
        self._variables = {"documents": None, **variables}
        self._plain = compiled(source)
        self._tracking = _tracking_twin(self._plain.environment, source)
        self.sealable = "strftime_now" not in source and _sealable(self._plain.environment.parse(source))
        self._globals = dict(self._tracking.globals)

    def words(self) -> frozenset[str]:
        """Every name, attribute and text constant that the template's code holds."""
        from jinja2 import nodes

        tree = self._plain.environment.parse(self.source)
        found = {str(node.value) for node in tree.find_all(nodes.Const)}
        found |= {node.attr for node in tree.find_all(nodes.Getattr)}
        return frozenset(found | {node.name for node in tree.find_all(nodes.Name)})

    def compared(self) -> frozenset[str]:
        """Every text constant that the template compares something with, by itself or in a list."""
        from jinja2 import nodes

        found: set[str] = set()
        for compare in self._plain.environment.parse(self.source).find_all(nodes.Compare):
            sides = [compare.expr, *(operand.expr for operand in compare.ops if operand.op in ("eq", "ne"))]
            for operand in compare.ops:
                if operand.op in ("in", "notin") and isinstance(operand.expr, nodes.List | nodes.Tuple):
                    sides += operand.expr.items
            if any(operand.op in ("in", "notin") for operand in compare.ops):
                sides.remove(compare.expr)  # `'tools' in message` asks for a key
            found |= {str(side.value) for side in sides if isinstance(side, nodes.Const)}
        return frozenset(found)

    def whole(self, talk: TemplateInput) -> str:
        """The text of a conversation by transformers' own compiled template.

        Raises:
            InputError: the template refuses the conversation.
        """
        try:
            made: str = self._plain.render(messages=talk.messages, tools=talk.tools, **_NO_PROMPT, **self._variables)
        except _refusals() as error:
            raise _refused(talk, error) from error
        return made

    def plain(
        self, talk: TemplateInput, upto: int | None = None, *, prompt: bool = False, more: Sequence[Any] = ()
    ) -> str:
        """The text of the first `upto` messages (and `more`), ready for an answer if `prompt`.

        Raises:
            InputError: the template refuses the conversation.
        """
        return str.__str__(self._render(self._tracking, talk, [*talk.messages[:upto], *more], talk.tools, prompt))

    def tracked(self, talk: TemplateInput, upto: int | None = None, *, prompt: bool = False) -> ProvenanceStr:
        """As `plain`, with runs; owners are `body(i)`, `role(i)`, or those of `loraplug_chat.provenance`."""
        messages = []
        for index, message in enumerate(talk.messages[:upto]):
            if message.keys() == _USUAL and type(message["content"]) is str:
                messages.append(_usual(message["role"], message["content"], index))
                continue
            messages.append(track(message, body(index)))
            if isinstance(speaker := message.get("role"), str):
                messages[-1]["role"] = ProvenanceStr(speaker, ((role(index), len(speaker)),))
            if isinstance(content := messages[-1].get("content"), TrackedList):
                messages[-1]["content"] = Parts(content)
                messages[-1]["content"]._owner = body(index)
            elif isinstance(content, str):
                messages[-1]["content"] = _content(speaker, content, index)
            for key in reasoning.KEYS:
                if isinstance(thought := messages[-1].get(key), str):
                    messages[-1][key] = ProvenanceStr(thought, ((Thought(body(index)), len(thought)),))
        return self._render(self._tracking, talk, messages, track(talk.tools, TOOLS), prompt)

    def sealed(self, talk: TemplateInput, messages: list[Any], *, prompt: bool) -> ProvenanceStr:
        """As `tracked`, of messages with sealed contents.

        Raises:
            InspectedError: the template looks at a content.
        """
        return self._render(self._tracking, talk, messages, None, prompt)

    def _render(
        self, compiled: Any, talk: TemplateInput, messages: list[Any], tools: Any, prompt: bool
    ) -> ProvenanceStr:
        environment = compiled.environment
        names = {**self._globals, **self._variables, "messages": messages, "tools": tools}
        names["add_generation_prompt"] = prompt
        context = environment.context_class(environment, names, compiled.name, compiled.blocks)
        try:
            return concat(compiled.root_render_func(context))
        except _refusals() as error:
            raise _refused(talk, error) from error


def is_usual(talk: TemplateInput) -> bool:
    """Whether all messages are role and text, and there are no tools."""
    return not talk.tools and all(m.keys() == _USUAL and type(m["content"]) is str for m in talk.messages)


def _usual(speaker: str, content: str, index: int) -> TrackedDict:
    """`track` for a message of role and text alone, which most are."""
    made = TrackedDict()
    made["role"] = ProvenanceStr(speaker, ((role(index), len(speaker)),))
    made["content"] = _content(speaker, content, index)
    made._owner = body(index)
    return made


def _content(speaker: Any, content: str, index: int) -> ProvenanceStr:
    """A content, in which reasoning has an owner of its own."""
    found = reasoning.block(content) if speaker == "assistant" else None
    if found is None:
        return ProvenanceStr(content, ((body(index), len(content)),))
    begin, end = found
    runs = ((body(index), begin), (Thought(body(index)), end - begin), (body(index), len(content) - end))
    return ProvenanceStr(content, tuple(run for run in runs if run[1]))


def _sealable(tree: Any) -> bool:
    """Whether looking at a text always goes through its methods: `content in "..."` would not."""
    from jinja2 import nodes

    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        for operand, left in zip(compare.ops, sides, strict=False):
            listed = isinstance(operand.expr, nodes.List | nodes.Tuple)
            if operand.op in ("in", "notin") and not (isinstance(left, nodes.Const) or listed):
                return False
    return not any(test.name == "in" for test in tree.find_all(nodes.Test))


@cache
def _refusals() -> tuple[type[Exception], ...]:
    """What a template raises where it cannot take a conversation."""
    from jinja2.exceptions import TemplateError

    return (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def _refused(talk: TemplateInput, error: Exception) -> InputError:
    """The template's own words where it has some; never Python's."""
    from jinja2.exceptions import TemplateError, UndefinedError

    if isinstance(error, UndefinedError):
        why = f"it needs what the row does not have, {str(error).rsplit(' ', 1)[-1]}"
    elif isinstance(error, TemplateError | PrintedPartsError):
        why = str(error)
    else:
        why = "a value is missing, or of the wrong type"
    todo = "correct the row, or use another template: [model] chat_template"
    return InputError(f"the chat template refuses it: {why}", where=talk.id, todo=todo)


def _tracking_twin(environment: Any, source: str) -> Any:
    """The template compiled for an environment like `environment` in which text keeps its origin."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Marks(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            inside = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], inside).set_lineno(line)

        def _marked(self, caller: Any) -> ProvenanceStr:
            return concat([ProvenanceStr("", ((OPEN, 0),)), caller(), ProvenanceStr("", ((CLOSE, 0),))])

    class Tracking(ImmutableSandboxedEnvironment):
        concat = staticmethod(concat)
        intercepted_binops = frozenset("%")

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, dict) and attribute in obj and attribute not in _DICT_NAMES:
                return obj[attribute]
            return super().getattr(obj, attribute)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            made = super().call_binop(context, operator, left, right)
            return derived(made, left, right) if type(made) is str else made

        def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            if any(map(is_opaque, (*args, *kwargs.values()))) and not isinstance(function, Macro):
                raise InspectedError
            self_ = getattr(function, "__self__", None)
            if isinstance(self_, str):
                if function.__name__ == "join":
                    return joined(self_, *args)
                if function.__name__ in ("format", "format_map"):
                    made = super().call(context, function, *args, **kwargs)
                    return derived(str(made), self_, args, kwargs)
            return super().call(context, function, *args, **kwargs)

    twin = Tracking(trim_blocks=True, lstrip_blocks=True, extensions=[Marks, loopcontrols])
    twin.globals.update(environment.globals)
    twin.tests.update(environment.tests)
    exact = {"trim", "upper", "lower", "capitalize", "title", "replace", "string", "default", "d", "first", "last"}
    twin.filters.update(
        {name: f if name in exact else following(f) for name, f in environment.filters.items() if name != "join"}
    )
    twin.filters["join"] = _join_filter
    compiled = twin.from_string(source)
    compiled.root_render_func.__globals__["str_join"] = lambda parts: concat(map(str, parts))
    return compiled


def _join_filter(values: Any, separator: str = "", attribute: Any = None) -> ProvenanceStr:
    if attribute is not None:
        values = [value[attribute] for value in values]
    return joined(separator, map(str, values))


def merged(runs: Runs) -> list[tuple[int, int, int]]:
    """Runs as (start, end, owner), neighbours of one owner made one; empty runs stay where they are."""
    spans: list[tuple[int, int, int]] = []
    at = 0
    for owner, length in runs:
        like = spans and spans[-1][2] == owner and type(spans[-1][2]) is type(owner)
        if like and length and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + length, owner)
        elif length or owner not in (TEMPLATE, UNKNOWN):
            spans.append((at, at + length, owner))
        at += length
    return spans
