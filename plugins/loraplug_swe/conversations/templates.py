"""System and instance templates of a conversation, built-in or the user's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomli
from attrs import frozen

from loraplug import InputError
from loraplug_swe.tasks.options import Turns

_TASK = re.compile(r"\{\{\s*task\s*\}\}")
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_EXAMPLE = 'a table "agent" with the texts system_template and instance_template, the second with {{task}} in it'

AGENT_SYSTEM = """\
You are a software engineer at a Linux shell, inside a git checkout of the repository in question.

Each of your replies says in a sentence what you do next and why, and then gives one bash command in a code block:

```bash
one command, or several joined with && or a pipe
```

The command is run, and you are shown its exit code and output. Every command starts in the top folder of the checkout.
When the change is done, submit it with this command on its own:

```bash
echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached
```
"""
TOOLS_SYSTEM = """\
You are a software engineer at a Linux shell, inside a git checkout of the repository in question.

Each of your replies says in a sentence what you do next and why, and then calls the tool bash with one command, or
several joined with && or a pipe. The command is run, and you are shown its exit code and output. Every command starts
in the top folder of the checkout. When the change is done, submit it with this command on its own:

echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached
"""
AGENT_INSTANCE = """\
This issue was reported for the repository:

<issue>
{{task}}
</issue>

Find the cause and change the code so that the issue is solved. Keep the change as small as the issue allows, leave the
tests alone, then submit.
"""
SINGLE_SYSTEM = """\
You are a software engineer. You are given an issue of a repository and answer with the change that solves it, as one
unified diff that `git apply` takes from the top folder of the repository, in a code block.
"""
SINGLE_INSTANCE = """\
This issue was reported for the repository:

<issue>
{{task}}
</issue>

Answer with the diff.
"""


@frozen
class Templates:
    """System text, and the first user message with `{{task}}` where the issue goes."""

    system: str
    instance: str

    def ask(self, statement: str) -> str:
        """The first user message. The statement is inserted literally: placeholders in it are not expanded."""
        return _TASK.sub(lambda _: statement, self.instance)

    def foreign(self) -> list[str]:
        """Placeholders other than `{{task}}`, which are left unchanged."""
        found = _PLACEHOLDER.findall(self.system + "\n" + _TASK.sub("", self.instance))
        return list(dict.fromkeys(found))


def default_templates(turns: Turns) -> Templates:
    """The built-in templates."""
    if turns == "single":
        return Templates(SINGLE_SYSTEM, SINGLE_INSTANCE)
    return Templates(TOOLS_SYSTEM if turns == "tools" else AGENT_SYSTEM, AGENT_INSTANCE)


def read_templates(path: Path, turns: Turns) -> Templates:
    """Templates of a TOML or YAML file, `agent.system_template` and `agent.instance_template`; with built-in defaults.

    Raises:
        InputError: unreadable, neither is there, not text, or the instance template lacks `{{task}}`.
    """
    agent = _load(path)
    agent = agent.get("agent") if isinstance(agent, dict) else None
    names = ("system_template", "instance_template")
    if not isinstance(agent, dict) or not set(names) & set(agent):
        raise InputError("holds no agent templates", where=path, todo=f"give {_EXAMPLE}")
    ours = default_templates(turns)
    system, instance = agent.get(names[0], ours.system), agent.get(names[1], ours.instance)
    for name, text in zip(names, (system, instance), strict=True):
        if not isinstance(text, str):
            raise InputError(f"agent.{name} is {type(text).__name__}, not text", where=path)
    if not _TASK.search(instance):
        raise InputError(
            "agent.instance_template has no {{task}}", where=path, todo="put {{task}} where the issue goes"
        )
    return Templates(system, instance)


def _load(path: Path) -> Any:
    try:
        raw = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".toml":
            return tomli.loads(raw)
        if path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            try:
                return yaml.safe_load(raw)
            except yaml.YAMLError as error:
                raise ValueError(error) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=path, todo=f"give {_EXAMPLE}") from None
    raise InputError("templates are read from .toml, .yaml or .yml", where=path)
