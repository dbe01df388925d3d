"""Recipes to start from, as text. Lines that wait for the user's own words are marked `<--`."""

from __future__ import annotations

_HEAD = {
    "swe": "Bug reports and repositories in, a model that looks at code and patches it out.",
    "chat": "Your own conversations in, a tuned chat model out.",
    "text": "Plain texts in, a model that goes on in their manner out.",
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
# `loraplug plugins list` tells what else may stand after `use`, `loraplug plugins show NAME` what can be set.

run_name = "my-{purpose}"                # <-- names the folders under outputs/
seed = 42

{data}
[validation]                       # rows held out before training, whole groups on one side
fraction = 0.05                    # or rows = 200, or path = "held-out.jsonl"

[model]
use = "transformers"
id = "{model}"  # <-- {about}

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
use = "adapter"                    # outputs/adapters/my-{purpose}: small, needs the base beside it

[[exporter]]
use = "merged"                     # outputs/merged/my-{purpose}: base and adapter in one
"""


def starter(purpose: str, file: str) -> str:
    """A commented recipe for `swe`, `chat` or `text`, as it will stand in `file`."""
    model, about = _MODEL[purpose]
    quantizer = _QUANTIZER if purpose == "swe" else "# no [quantizer]: the base stays in full precision\n"
    return _RECIPE.format(
        head=_HEAD[purpose],
        file="recipe.toml" if file == "-" else file,
        purpose=purpose,
        data=_DATA[purpose],
        model=model,
        about=about,
        quantizer=quantizer,
    )
