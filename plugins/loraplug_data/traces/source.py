"""The dataset source `traces`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from attrs import asdict, define, field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Problem, Run, atomic_output, iter_rows, row_id
from loraplug_data.caching import content_key
from loraplug_data.fetching import Fetcher, naming, remotes
from loraplug_data.paths import Paths, as_written, find_files, source_of
from loraplug_data.reading import document, json_lines
from loraplug_data.shaped import reaches_formatter
from loraplug_data.tables import digest, rows_to_dataset
from loraplug_data.traces.files import in_folders, rows_of
from loraplug_data.traces.formats import Format, format_of
from loraplug_data.traces.readers import read_trace
from loraplug_data.traces.rules import Rule, apply_rules
from loraplug_data.traces.turns import Trace, Turn, schemas

if TYPE_CHECKING:
    from datasets import Dataset

Named = Iterable[tuple[str, str, Mapping[str, Any]]]
"""Traces with their names, and where each is from."""
_FORM = "1"
"""Goes into the cache's names; another word where what is made of the same traces changes."""
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w-]*?)__([\w.-]+?)(?:-\d+|\.[0-9a-f]{7,40}\..+)")
_SHOWN = 8


def _paths(value: Any) -> Any:
    return None if value is None else as_written(value)


@frozen
class TraceSource(DatasetSource):
    """Traces of agents as conversations with calls of tools: SWE-agent, mini-swe-agent, OpenHands, SWE-smith …"""

    name: ClassVar[str] = "traces"
    path: Annotated[
        Paths | None,
        Doc("a .traj, .json or .jsonl file, a list of files, a pattern, a folder (with all below it) or an address"),
    ] = field(default=None, converter=_paths)
    source: Annotated[
        DatasetSource | None, Doc('another source that yields traces, in place of path: { use = "hub", id = "…" }')
    ] = None
    format: Annotated[
        Format | None,
        Doc("format of the traces; default: detected for each trace, and an ambiguous one is refused"),
    ] = None
    calls: Annotated[
        Literal["tools", "as-written"],
        Doc("tools: calls that the agent wrote as text become tool_calls, and their outputs tool results; as-written: "
            "calls stay text, and outputs are user messages"),
    ] = "tools"  # fmt: skip
    untrained: Annotated[
        tuple[Rule, ...], Doc("steps that stay in the conversation but are not trained; see docs/traces.md")
    ] = ()
    tools: Annotated[
        Path | None,
        Doc("a .json file with the list of tools, for traces without one; default: inferred from the calls"),
    ] = None
    limit: Annotated[int | None, Doc("use only the first so many traces")] = field(
        default=None, validator=validators.optional(validators.ge(1))
    )

    def __attrs_post_init__(self) -> None:
        if (self.path is None) == (self.source is None):
            raise InputError("needs exactly one of path and source" + ("" if self.path is None else ", has both"))

    @classmethod
    def reads(cls, path: str) -> bool:
        """Whether the file is a `.traj`."""
        return source_of(path) == cls.name

    def load(self, run: Run) -> Dataset:
        """A row for each trace: `instance_id`, `messages`, `tools`, `group`, and what tells how it ended.

        Raises:
            InputError: a trace cannot be read, is of no known format or could be of two, by its name.
        """

        if self.source is not None:
            rows = self.source.load(run=run)
            pairs = ((row_id(row, number), row) for number, row in enumerate(iter_rows(rows)))
            named: Named = ((name, name, row) for name, row in pairs)
            key, copies = content_key(rows, self, _FORM), {}
        else:
            fetch = Fetcher(run, self.name, None)
            files = find_files(in_folders(self.path or ()), self.name, fetch)
            named = (one for file in files for one in _named(file))
            parts = [f"{_FORM} {self!r}", *(f"{file.name} {digest(file).hex()}" for file in files)]
            key, copies = sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest(), fetch.copies
        tools = self._tools()
        place = run.cache / "traces" / f"{key}.jsonl"
        told = place.with_suffix(".json")
        if not (place.is_file() and told.is_file()):
            with naming(copies):
                self._write(named, place, told)
        facts = _Told(**json.loads(told.read_text(encoding="utf-8")))
        facts.say(run, self)
        tools = tools or facts.tools

        def read(file: Path) -> Iterator[dict[str, Any]]:
            for row in json_lines(file):
                yield {**row, "tools": row["tools"] or tools or None}

        made: Dataset = rows_to_dataset(read, [place], f"traces {key} {json.dumps(tools)}", run)
        return made

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """Files that cannot be read, and a first trace of no known format."""
        try:
            self._tools()
            if self.path is not None:
                if addresses := remotes(self.path):
                    yield from Fetcher(run, self.name, None).problems(addresses)
                else:
                    file = find_files(in_folders(self.path), self.name, lambda _: [])[0]
                    self._read(*next(_named(file))[1:])
        except InputError as error:
            yield Problem.of(error, "dataset.path")
            return
        if reaches_formatter(self, recipe):
            columns = ["instance_id", "messages", "tools", "group"]
            recipe.formatter.recognise(columns=columns, schema=recipe.trainer.consumes)

    def _tools(self) -> list[Any]:
        if self.tools is None:
            return []
        found = document(self.tools) if self.tools.is_file() else None
        if not (isinstance(found, list) and found and all(isinstance(one, dict) for one in found)):
            raise InputError(
                "is not a JSON file with a list of tools", where=self.tools, todo='write [{"type": "function", …}]'
            )
        return found

    def _read(self, where: str, row: Mapping[str, Any]) -> tuple[str, str, Trace]:
        try:
            kind, why = (self.format, "as the recipe says") if self.format else format_of(row)
            return kind, why, read_trace(row, kind)
        except InputError as error:
            raise InputError(error.what, where=where, todo=error.todo or "remove it from the data") from None

    def _write(self, named: Named, place: Path, told: Path) -> None:
        facts = _Told()
        called: Counter[str] = Counter()

        def read() -> Iterator[Trace]:
            for number, (name, where, row) in enumerate(named):
                if number == self.limit:
                    return
                kind, why, trace = self._read(where, row)
                facts.add(f"{kind} ({why})", trace, apply_rules(trace.turns, self.untrained))
                line = {"instance_id": _id(row, name), "messages": [_message(turn, self.calls) for turn in trace.turns]}
                line |= {"tools": trace.tools, "group": _group(_id(row, name)), **trace.facts}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                called[name] += 1
                yield Trace([]) if trace.tools or (self.calls == "as-written" and _is_text(trace)) else trace

        with atomic_output(place) as fresh, fresh.open("w", encoding="utf-8", newline="\n") as out:
            facts.tools = schemas(read())
        if not called:
            raise InputError("has no traces", where="dataset.path", todo="check that it is the right file")
        with atomic_output(told) as fresh:
            fresh.write_text(json.dumps(asdict(facts)), encoding="utf-8")


@define
class _Told:
    """What is said of all traces."""

    formats: dict[str, int] = field(factory=dict)
    skipped: dict[str, int] = field(factory=dict)
    rules: dict[str, int] = field(factory=dict)
    answers: int = 0
    shown: int = 0
    tools: list[Any] = field(factory=list)

    def add(self, kind: str, trace: Trace, took: Mapping[str, int]) -> None:
        """One more."""
        for table, counts in ((self.formats, {kind: 1}), (self.skipped, trace.skipped), (self.rules, took)):
            for key, count in counts.items():
                table[key] = table.get(key, 0) + count
        self.answers += sum(turn.role == "assistant" for turn in trace.turns)
        self.shown += sum(turn.role == "assistant" and turn.shown for turn in trace.turns)

    def say(self, run: Run, source: TraceSource) -> None:
        """Tell it."""
        for kind, count in self.formats.items():
            run.say(f"traces: {count} read as {kind}")
        for rule in source.untrained:
            run.say(f"traces: {self.rules.get(rule, 0)} of {self.answers} answers are not trained because of {rule}")
        if self.shown:
            run.say(f"traces: {self.shown} answers in examples shown to the agent are not trained")
        if self.skipped:
            run.say(
                "traces: ignored, as the model did not see it: "
                + ", ".join(f"{n} {key}" for key, n in self.skipped.items())
            )
        if self.tools and source.tools is None:
            names = [one["function"]["name"] for one in self.tools]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            run.say(f"traces: without descriptions of tools; inferred from calls: {', '.join(names[:_SHOWN])}{more}; "
                "set tools = to a file with full descriptions")  # fmt: skip


def _named(file: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, row in rows_of(file):
        at = name.rfind("[") if name.endswith("]") else len(name)
        yield name, f"{file}{name[at:]}", row


def _is_text(trace: Trace) -> bool:
    return any(turn.text is not None for turn in trace.turns)


def _message(turn: Turn, calls: str) -> dict[str, Any]:
    weight = 0.0 if turn.shown and turn.role == "assistant" else turn.weight
    heeded = {} if weight is None else {"weight": weight}
    if calls == "as-written" and turn.text is not None:
        role = "user" if turn.role == "tool" else turn.role
        return {"role": role, "content": turn.text, **({"cuttable": True} if turn.role == "tool" else {}), **heeded}
    if turn.role == "tool":
        return {"role": "tool", "content": turn.content, **({"tool_call_id": turn.answers} if turn.answers else {})}
    made: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        made |= {"content": turn.content or None, "tool_calls": turn.calls}
    if turn.thinking:
        made["reasoning_content"] = turn.thinking
    return made | heeded


def _id(row: Mapping[str, Any], name: str) -> str:
    info = row.get("info")
    for table in (row, info if isinstance(info, Mapping) else {}):
        for key in ("instance_id", "task_id", "id"):
            if isinstance(value := table.get(key), str) and value:
                return value
    return name


def _group(name: str) -> list[str]:
    """Attempts at one task stay on one side of the validation split, and so may those at one repository."""
    match = _REPOSITORY.fullmatch(name)
    return [f"{match[1]}/{match[2]}".lower(), name] if match else [name]
