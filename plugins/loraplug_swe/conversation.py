"""The messages of a `swe` row, from an answered task and, in code-context mode, the proof and the looks at its tree."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loraplug_swe.patches import Section
from loraplug_swe.proof import Proof
from loraplug_swe.tasks import Answered
from loraplug_swe.templates import Templates
from loraplug_swe.views import Look

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached"
_SUBMITTED = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n"

Message = dict[str, str | bool]
Messages = list[Message]


def single_turn(templates: Templates, answered: Answered, looks: Sequence[Look] = ()) -> Messages:
    """Question and answer; with `looks`, the question also shows the listing and the files."""
    parts = [templates.ask(answered.statement), *(_exhibit(look) for look in looks)]
    return [
        *_opening(templates, "\n".join(part if part.endswith("\n") else part + "\n" for part in parts)),
        _say("assistant", fenced(answered.patch, "diff")),
    ]


def agent_turns(templates: Templates, answered: Answered, proof: Proof | None, looks: Sequence[Look] = ()) -> Messages:
    """A shell session: looks, the patch, the submission, each command answered by what it prints.

    Without a proof there is no tree to look at; the patch is then answered by the silence of a `git apply` that
    succeeds, and the session ends with the submission unanswered.
    """
    messages = _opening(templates, templates.ask(answered.statement))
    for look in looks:
        messages += [_act(_sentence(look), look.command), observe(look.output)]
    messages += [
        _act("Now I make the change.", apply_command(answered.patch, proof)),
        observe(proof.words if proof else ""),
    ]
    messages.append(_act("The change is made, so I submit it.", SUBMIT))
    if proof is not None:
        messages.append(observe(_SUBMITTED + proof.diff))
    return messages


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


def observe(output: str, code: int = 0) -> Message:
    """What the shell answers. A formatter that lacks room may cut out the middle of it."""
    return _say("user", f"<returncode>{code}</returncode>\n<output>\n{output}</output>") | {"cuttable": True}


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


def _act(thought: str, command: str) -> Message:
    return _say("assistant", f"{thought}\n\n{fenced(command, 'bash')}")


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
