"""Calls that agents write as text: SWE-smith's XML form, SWE-agent's and mini-swe-agent's blocks."""

from __future__ import annotations

import re

from loraplug_data.traces.turns import Message, Turn, call, has_failed

XML = re.compile(r"<function=([\w.-]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([\w.-]+)>(.*?)</parameter>", re.DOTALL)
_COMMAND = re.compile(r"<command>\n?(.*?)\n?</command>", re.DOTALL)
_FENCE = re.compile(r"^```[\w-]*[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_MINI = re.compile(r"```(?:bash|mswea_bash_command)\s*\n(.*?)\n```", re.DOTALL)


def xml_turn(text: str) -> Turn:
    """An assistant's turn with calls as `<function=name><parameter=key>value</parameter></function>`."""
    found = list(XML.finditer(text))
    calls = [call(match[1], {key: _plain(value) for key, value in _PARAMETER.findall(match[2])}) for match in found]
    return _turn(text, [match.span() for match in found], calls)


def block_turn(text: str) -> Turn:
    """An assistant's turn of SWE-agent: the last block, of backticks or `<command>`, is what the shell is given."""
    if XML.search(text):
        return xml_turn(text)
    found = list(_COMMAND.finditer(text)) or list(_FENCE.finditer(text))
    return _turn(text, [one.span() for one in found[-1:]], [_bash(one[1]) for one in found[-1:]])


def mini_turn(text: str) -> Turn:
    """An assistant's turn of mini-swe-agent, which must hold one `bash` block and no more."""
    found = list(_MINI.finditer(text))
    if len(found) != 1:
        return Turn("assistant", text, text=text)
    return _turn(text, [found[0].span()], [_bash(found[0][1])])


def answer(text: str, before: Turn | None) -> Turn:
    """A user's turn behind an assistant's: what its call printed, or that it made none."""
    if before is not None and before.role == "assistant" and not before.shown:
        if before.calls:
            return Turn("tool", text, text=text, failed=has_failed(text))
        before.malformed = True
    return Turn("user", text, text=text)


def _turn(text: str, spans: list[tuple[int, int]], calls: list[Message]) -> Turn:
    if not spans:
        return Turn("assistant", text, text=text)
    parts, at = [], 0
    for start, end in spans:
        parts.append(text[at:start])
        at = end
    said = "\n".join(part.strip() for part in [*parts, text[at:]] if part.strip())
    return Turn("assistant", said, calls, text=text)


def _bash(command: str) -> Message:
    return call("bash", {"command": _plain(command)})


def _plain(value: str) -> str:
    """Without the line ends beside its tags."""
    return value.removeprefix("\n").removesuffix("\n")
