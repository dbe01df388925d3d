"""The messages of a `swe` row: from a task and its answer, in code-context mode also from the tree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from loraplug_swe.conversations.observations import Look
from loraplug_swe.conversations.templates import Templates
from loraplug_swe.patches.proof import Proof
from loraplug_swe.patches.unified import Section
from loraplug_swe.tasks.task import Answered

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached"
_SUBMITTED = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n"

BASH_TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Runs a command with bash in the top folder of the checkout; gives its exit code and output.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "description": "the command"}},
            "required": ["command"],
        },
    },
}

Message = dict[str, Any]
Messages = list[Message]
Step = tuple[str, str, str | None]
"""What is thought, the command, and what it prints; None where the session ends with it."""


def single_turn(templates: Templates, answered: Answered, looks: Sequence[Look] = ()) -> Messages:
    """Question and answer; with `looks`, the question also shows the listing and the files."""
    parts = [templates.ask(answered.statement), *(_exhibit(look) for look in looks)]
    return [
        *_opening(templates, "\n".join(part if part.endswith("\n") else part + "\n" for part in parts)),
        _say("assistant", fenced(answered.patch, "diff")),
    ]


def agent_turns(
    templates: Templates, answered: Answered, proof: Proof | None, looks: Sequence[Look] = (), *, tools: bool = False
) -> Messages:
    """A shell session: reading files, the patch, the submission, each command followed by its output.

    Without a proof there is no tree to look at; the patch is then answered by the silence of a `git apply` that
    succeeds, and the session ends with the submission unanswered. `tools`: commands are calls of the tool `bash`, in
    place of a block in the text.
    """
    steps: list[Step] = [(_sentence(look), look.command, look.output) for look in looks]
    command = apply_command(answered.patch, proof)
    steps.append(("Now I make the change.", command, proof.words if proof else ""))
    submitted = None if proof is None else _SUBMITTED + proof.diff
    steps.append(("The change is made, so I submit it.", SUBMIT, submitted))
    written = _called if tools else _as_text
    turns = (turn for number, step in enumerate(steps, 1) for turn in written(number, step))
    return [*_opening(templates, templates.ask(answered.statement)), *turns]


def apply_command(patch: str, proof: Proof | None) -> str:
    """The patch as a here-document for `git apply`.

    `--index` is given where `git add -A` alone would lose part of the change: for submodules, which have no work tree
    here, and for new files, which an ignore rule may cover.
    """
    word = "PATCH"
    while re.search(rf"^{word}$", patch, re.MULTILINE):
        word += "_"
    staged = "" if proof is None or not any(_needs_index(section) for section in proof.sections) else "--index "
    return f"git apply {staged}- <<'{word}'\n{patch}{word}"


def fenced(text: str, language: str) -> str:
    """A code block, its fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"


def _needs_index(section: Section) -> bool:
    created = section.old is None or section.new not in (None, section.old)
    lines = (line for hunk in section.hunks for line in hunk.lines)
    return created or any(line[1:].startswith("Subproject commit ") for line in lines)


def _opening(templates: Templates, question: str) -> Messages:
    return [_say("system", templates.system), _say("user", question)]


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _as_text(_: int, step: Step) -> Messages:
    """A formatter that lacks room may cut out the middle of what the shell answers."""
    thought, command, output = step
    act = _say("assistant", f"{thought}\n\n{fenced(command, 'bash')}")
    return [act] if output is None else [act, _say("user", _answer(output)) | {"cuttable": True}]


def _called(number: int, step: Step) -> Messages:
    thought, command, output = step
    name = f"call{number:05d}"  # nine letters and digits, as Mistral's templates want
    call = {"id": name, "type": "function", "function": {"name": "bash", "arguments": {"command": command}}}
    act = _say("assistant", thought) | {"tool_calls": [call]}
    return [act] if output is None else [act, _say("tool", _answer(output)) | {"tool_call_id": name}]


def _answer(output: str, code: int = 0) -> str:
    return f"<returncode>{code}</returncode>\n<output>\n{output}</output>"


def _sentence(look: Look) -> str:
    if not look.path:
        return f"First I look at {look.about}."
    if look.lines:
        return "I read lines {} to {} of `{}`.".format(*look.lines[:2], look.path)
    return f"I read {look.about} `{look.path}`."


def _exhibit(look: Look) -> str:
    title = f"`{look.path}`" if look.path else look.about.capitalize()
    if look.lines:
        title += ", lines {} to {} of {}".format(*look.lines)
    return f"{title}:\n\n{fenced(look.output, '')}"
