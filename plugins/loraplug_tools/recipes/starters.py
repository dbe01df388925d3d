"""Recipes to start from, as text. Lines that wait for the user's own words are marked `<--`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import frozen

from loraplug_tools.recipes.proposal import LOOKED_AT, Proposal

_HEAD = {
    "swe": "Train a model to fix bugs, from bug reports and repositories.",
    "chat": "Fine-tune a chat model on your own conversations.",
    "text": "Train a model on plain texts, to continue in their style.",
}

_DATA = {
    "swe": """\
[dataset]
use = "swe"                        # conversations: look at the tree, read files, patch, submit
tasks = "tasks.jsonl"              # <-- a file, a folder of task_<id>.json, hub:owner/name or a bucket's https://…
# A line of tasks.jsonl: {"instance_id": "shop-17", "repo": "me/shop", "base_commit": "<commit with the bug>",
#                         "problem_statement": "<the bug report>", "patch": "<git diff of the fix>"}
ids = "0-9999"                     # positions in a file, or the numbers of task_<id>.json
# clone_url = "../{repo}"          # your own clones; without it repositories are cloned from GitHub
mode = "code-context"              # shows real files and proves each patch; "simple" needs no repository

[formatter]
use = "chat-template"              # the model's own chat format
train_on = "assistant"             # only what the assistant says is trained
max_length = 8192                  # tokens; more context, more memory
overlong = "truncate-left"         # longer rows lose middles of outputs, then their oldest turns
""",
    "chat": """\
[dataset]
use = "jsonl"                      # also: json, parquet, disk (save_to_disk), hub
path = "chats.jsonl"               # <-- your file; relative to this recipe
# A line: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
# or {"instruction": "…", "response": "…"}, or sharegpt's {"conversations": [{"from": "human", "value": "…"}, …]}

[formatter]
use = "chat-template"              # the model's own chat format
train_on = "assistant"             # only what the assistant says is trained
max_length = 2048                  # tokens
""",
    "text": """\
[dataset]
use = "jsonl"                      # also: json, parquet, disk (save_to_disk), hub
path = "texts.jsonl"               # <-- your file, a {"text": "…"} a line; relative to this recipe

[formatter]
use = "text"                       # every token is trained
max_length = 2048                  # tokens; longer texts become several rows, see overlong
""",
}

_MODEL = {
    "swe": ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "a model of the hub, a folder or a .gguf file; MODEL_ID overrides it"),
    "chat": ("HuggingFaceTB/SmolLM2-360M-Instruct", "a chat model of the hub, a folder or a .gguf file"),
    "text": ("HuggingFaceTB/SmolLM2-360M", "a model of the hub, a folder or a .gguf file; MODEL_ID overrides it"),
}

_QUANTIZER = """\
[quantizer]                        # leave this table out to train on the full-precision base
use = "bitsandbytes"
bits = 4
"""

_RECIPE = """\
# {head}
#
#     loraplug recipe check {file}    # can it be run?
#     loraplug preview {file}         # rows as the model will see them
#     loraplug run {file}
#
# `loraplug plugins list` lists what else `use` can name, `loraplug plugins show NAME` its options.

run_name = {name}  # <-- names the folders under outputs/
seed = 42

{data}
{validation}
[model]
use = "transformers"
id = {model}  # <-- {about}

{quantizer}
[trainer]
use = "sft"
epochs = 2
batch_size = 8                     # rows in one optimizer step
learning_rate = 5e-4               # the smallest models want more: 1e-3
[trainer.lora]
r = 16                             # rank: more can learn more, and remember more
alpha = 32
target_modules = "all-linear"

[[exporter]]
use = "adapter"                    # outputs/adapters/: small, needs the base beside it

[[exporter]]
use = "merged"                     # outputs/merged/: base and adapter in one
"""


_VALIDATION = """\
[validation]                       # rows held out before training, whole groups on one side
fraction = 0.05                    # or rows = 200, or path = "held-out.jsonl"
"""


@frozen
class Choices:
    """What a starter is made of.

    Attributes:
        purpose: "swe", "chat" or "text".
        file: the recipe's file, or `-`.
        name, model, quantize: run_name, model.id and whether there is a [quantizer]; None takes the purpose's own.
        proposal: what was found out about a file of rows, where one was given.
    """

    purpose: str
    file: str
    name: str | None = None
    model: str | None = None
    quantize: bool | None = None
    proposal: Proposal | None = None


def default_model(purpose: str) -> str:
    """The model that a starter takes where no other is named."""
    return _MODEL[purpose][0]


def quantized(purpose: str) -> bool:
    """Whether a starter has a [quantizer] where nothing was said."""
    return purpose == "swe"


def starter(choices: Choices) -> str:
    """A commented recipe."""
    purpose, found = choices.purpose, choices.proposal
    model, about = _MODEL[purpose]
    wanted = quantized(purpose) if choices.quantize is None else choices.quantize
    return _RECIPE.format(
        head=_HEAD[purpose],
        file="recipe.toml" if choices.file == "-" else choices.file,
        name=f"{_toml(choices.name or f'my-{purpose}'):<23}",
        data=_DATA[purpose] if found is None else _proposed(found, choices.file),
        validation=_VALIDATION if found is None or purpose == "swe" else _validation(found),
        model=_toml(choices.model or model),
        about=about,
        quantizer=_QUANTIZER if wanted else "# no [quantizer]: the base stays in full precision\n",
    )


def _validation(found: Proposal) -> str:
    if found.validation is None:
        return f"# no [validation]: {found.count}: too few to hold some out\n"
    return "\n".join([*_VALIDATION.splitlines()[:1], found.validation, ""])


def _proposed(found: Proposal, file: str) -> str:
    """The tables of dataset and formatter for a file that was looked at."""
    start = Path.cwd() if file == "-" else Path(file).resolve().parent
    path = _toml(Path(os.path.relpath(found.path.resolve(), start)).as_posix())
    if found.purpose == "swe":
        return _DATA["swe"].replace('"tasks.jsonl"              # <-- a file', f"{path}  # a file")
    lines = ["[dataset]", f"{f'use = {_toml(found.use)}':<34} # {found.count}, shape {found.shape}"]
    lines.append(f"{f'path = {path}':<34} # relative to this recipe")
    if found.rename:
        pairs = ", ".join(f"{_toml(old)} = {_toml(new)}" for old, new in found.rename.items())
        lines.append(f"rename = {{ {pairs} }}")
    most, longest = found.tokens
    lengths = f"# Longest of the first {LOOKED_AT:,} rows: about {longest:,} tokens; 95% have at most {most:,} (3"
    lines += ["", "[formatter]"]
    if found.purpose == "text":
        lines.append('use = "text"                       # every token is trained')
        more = "longer texts become several rows, see overlong"
    else:
        lines.append('use = "chat-template"              # the model\'s own chat format')
        lines.append('train_on = "assistant"             # only what the assistant says is trained')
        more = "longer rows are reported, see overlong"
    lines += [lengths, "# characters a token are assumed; `loraplug plan` counts them)."]
    lines.append(f"{f'max_length = {found.max_length}':<34} # tokens; {more}")
    return "\n".join(lines) + "\n"


def _toml(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
