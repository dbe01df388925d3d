"""What is fuzzed: one function a kind of input. Each may raise a LoraplugError and nothing else.

`test_fuzz.py` tries a few hundred inputs of each; `python tests/fuzz/long.py --minutes 60` goes on for as long.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from loraplug import LoraplugError, Registry, Run, load_registry

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# text as strangers write it: halves of surrogate pairs, control characters, our own marks
LETTERS = st.characters(exclude_categories=())
MARKS = ["<|im_end|>", "<|im_start|>assistant\n", "</s>", "\x00", "\ud800", "\u2028", "\r\n", "\ufeff", "🎉", " ", ""]
TEXT = st.one_of(
    st.text(LETTERS, max_size=30), st.sampled_from(MARKS), st.text(st.sampled_from("aé<|>\n \\\"'{}%"), max_size=20)
)
PLAIN = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63) - 1, 10**400, 1e308, -0.0]))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
BAD_JSON = st.sampled_from(
    [b"1" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b"NaN", b"-Infinity", b"\xff", b"{}x", b'{"a":1,"a":2}']
)


def spoilt(draw: Any, data: bytes) -> bytes:
    """`data`, perhaps cut, doubled in part, or with other bytes put in."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 40)))
        data = data[:at] + draw(st.one_of(st.binary(max_size=8), st.just(data[at:end] * 2), BAD_JSON)) + data[end:]
    return data


@cache
def registry() -> Registry:
    """Everything installed."""
    return load_registry()


@cache
def tokenizer() -> Any:
    """Bytes as tokens, three special ones, a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def run_in(folder: Path) -> Run:
    """A run whose outputs and cache lie in `folder`."""
    return Run("fuzz", outputs=folder / "outputs", cache=folder / "cache")


# recipes

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
TOML_VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(
        [
            "",
            "..",
            "../../x",
            "/dev/null",
            "a/b",
            "nul",
            "${HOME}",
            "package:x/y",
            "hub:a/b",
            "~nobody/x",
            "x" * 5000,
            "swe",
            "jsonl",
        ]
    ),
    st.lists(st.integers() | st.text("ab/."), max_size=3),
    st.dictionaries(st.sampled_from(["use", "r", "a"]), st.integers() | st.text("ab"), max_size=2),
)


@st.composite
def recipes(draw: Any) -> tuple[bytes, list[str], dict[str, str]]:
    """A shipped recipe with values changed, `--set` words, and a `.env`."""
    import tomli_w

    table = tomllib.loads(draw(st.sampled_from(RECIPES)).read_text(encoding="utf-8"))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        place = table
        while True:
            key = draw(st.sampled_from([*place, draw(st.text(max_size=6)), "extends", "lock"]))
            if not isinstance(place.get(key), dict) or draw(st.booleans()):
                break
            place = place[key]
        place[key] = draw(TOML_VALUES)
        if draw(st.booleans()):
            place.pop(draw(st.sampled_from([*place])))
    text = tomli_w.dumps(table).encode("utf-8", "replace")
    if draw(st.booleans()):
        text = text.replace(b"\n", b"\r\n")
    words = st.builds(
        "{}={}".format,
        st.sampled_from(["trainer.epochs", "exporter.0.out", "run_name", "a", "", "exporter.²", '""', "dataset.path"])
        | TEXT,
        TEXT | st.sampled_from(["1\n[x]", "[" * 2000, "1" * 5000, "nan", "{a=1}"]),
    )
    env = st.dictionaries(st.sampled_from(["RUN_NAME", "MODEL_ID", "ADAPTER_OUTPUT_DIR"]), st.text(max_size=12))
    return spoilt(draw, text), draw(st.just([]) | st.lists(words, max_size=2)), draw(st.just({}) | env)


def try_recipe(given: tuple[bytes, list[str], dict[str, str]], folder: Path) -> None:
    """Read, build, write as a lock and read that again."""
    from loraplug.recipe.building import build
    from loraplug.recipe.layers import read_layers
    from loraplug.recipe.lock import as_table, lock_text

    text, settings, env = given
    file = folder / "recipe.toml"
    file.write_bytes(text)
    recipe = build(read_layers(file, settings, env, environ=False), registry())
    lock = folder / "recipe.lock.toml"
    lock.write_text(lock_text(recipe, registry(), {"data": {"sha256": "a"}, "base": {"sha256": "b"}}), encoding="utf-8")
    again = build(read_layers(lock, environ=False), registry())
    assert as_table(again, registry()) == as_table(recipe, registry())
    assert Path(recipe.run_name).name == recipe.run_name, "a run name that leads elsewhere"


# rows

MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "from", "value", "tool_calls", "name"]), TEXT | JSON, max_size=3
)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]) | TEXT, "content": TEXT})
PAIR = st.tuples(PLAIN, PLAIN).map(
    lambda two: [{"role": "user", "content": two[0]}, {"role": "assistant", "content": two[1]}]
)
TALK = st.one_of(PAIR, PAIR, st.lists(TURN, max_size=4), st.lists(MESSAGE | TURN, max_size=3))
COLUMNS = {
    "messages": TALK,
    "conversations": TALK,
    "instruction": PLAIN | TEXT,
    "input": PLAIN | TEXT,
    "response": PLAIN | TEXT,
    "output": PLAIN | TEXT,
    "prompt": PLAIN | TALK,
    "completion": PLAIN | TALK,
    "text": PLAIN | TEXT,
    "system": PLAIN | TEXT,
    "tools": JSON,
    "task_id": JSON,
    "group": JSON,
}
SHAPES = [["messages"], ["conversations"], ["instruction", "response"], ["prompt", "completion"], ["text"], []]


@st.composite
def row_files(draw: Any) -> tuple[str, bytes, str]:
    """A .jsonl or .json file of rows in some shape, and the formatter for it."""
    wanted = draw(st.sampled_from(SHAPES))
    more = draw(st.lists(st.sampled_from([*COLUMNS]), max_size=2))
    rows = [
        {key: draw(COLUMNS[key] if draw(st.integers(0, 20)) else JSON) for key in dict.fromkeys([*wanted, *more])}
        for _ in range(draw(st.integers(0, 3)))
    ]
    kind = draw(st.sampled_from(["jsonl", "json"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(map(json.dumps, rows)) + end if kind == "jsonl" else json.dumps(rows)
    data = text.encode()
    return (
        kind,
        spoilt(draw, data) if draw(st.integers(0, 2)) == 0 else data,
        draw(st.sampled_from(["chat-template", "text"])),
    )


def try_rows(given: tuple[str, bytes, str], folder: Path) -> None:
    """Read and encode; labels are the ids or -100, and nothing is trained twice."""
    kind, data, formatter = given
    path = folder / f"rows.{kind}"
    path.write_bytes(data)
    run = run_in(folder)
    rows = registry().find("dataset", kind)(path=path).load(run)
    encoded = registry().find("formatter", formatter)(max_length=64).encode(rows, tokenizer(), run).dataset
    for row in encoded:
        assert len(row["input_ids"]) == len(row["labels"])
        assert all(label in (-100, number) for label, number in zip(row["labels"], row["input_ids"], strict=True))


# tasks and patches


@cache
def tasks_known() -> list[dict[str, Any]]:
    """The sample tasks."""
    files = sorted((ROOT / "data/sample_tasks").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


PATHS = st.sampled_from(
    [
        "../out.txt",
        "/tmp/out.txt",
        ".git/config",
        "a/../../x",
        "C:x",
        "a\\b",
        "file.py",
        "new.py",
        "sub/file.py",
        "é.py",
        "a b",
        "",
    ]
)
LINES = st.one_of(
    st.sampled_from(
        ["--- a/file.py", "+++ b/file.py", "@@ -1,3 +1,3 @@", "@@ -1 +1 @@", "@@ -0,0 +1 @@", "-one", "+uno", " two",
         "\\ No newline at end of file", "deleted file mode 100644", "new file mode 120000", "rename from file.py",
         "", "GIT binary patch", "literal 3", "index 0000000..e69de29", "+++ /dev/null", "--- /dev/null",
         "@@ -" + "9" * 5000 + " +1 @@", "@@ -1,99999999999999999999 +1 @@"]
    ),
    st.builds("diff --git a/{} b/{}".format, PATHS, PATHS),
    st.builds("+++ b/{}".format, PATHS),
    st.builds("rename to {}".format, PATHS),
    st.builds('diff --git "a/{}" b/x'.format, TEXT),
    TEXT,
)  # fmt: skip
PATCHES = st.lists(LINES, max_size=10).map("\n".join)


@st.composite
def changed_patches(draw: Any) -> str:
    """A sample task's patch with lines left out, put in or doubled; or lines in any order."""
    if draw(st.booleans()):
        return str(draw(PATCHES))
    known = draw(st.sampled_from(tasks_known()))
    lines = str(draw(st.sampled_from([known["bug"]["patch"], known["original"]["gold_patch"]]))).split("\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 2))] = draw(st.lists(LINES, max_size=2))
    return "\n".join(lines)


def try_patch(text: str, folder: Path) -> None:
    """Read, check its paths, and take back, twice. Halves of pairs go out when tasks are read."""
    text = text.encode("utf-8", "ignore").decode()
    from loraplug_swe.patches.reverse import reverse_patch
    from loraplug_swe.patches.unified import check_path, parse_patch, quote_path, unquote_path
    from loraplug_swe.tasks.rejects import Reject

    try:
        sections = parse_patch(text)
        for section in sections:
            check_path(section.path)
            quoted = quote_path(section.path)
            assert not quoted.startswith('"') or unquote_path(quoted) == (section.path, "")
        back = reverse_patch(text)
        parse_patch(reverse_patch(back))
    except Reject:
        return


@st.composite
def task_files(draw: Any) -> tuple[bytes, str]:
    """Tasks of either shape with anything in their fields, as .json or .jsonl."""
    tasks = []
    for _ in range(draw(st.integers(1, 3))):
        task = json.loads(json.dumps(draw(st.sampled_from(tasks_known()))))
        for _ in range(draw(st.integers(0, 3))):
            place = draw(st.sampled_from([task, *(value for value in task.values() if isinstance(value, dict))]))
            key = draw(st.sampled_from([*place, "task_id", "instance_id", "patch", "repo", "base_commit"]))
            place[key] = draw(JSON | PATCHES | st.sampled_from(["[" * 3000, "{" * 3000, '{"a":' * 3000, "1" * 5000]))
        tasks.append(task)
    kind = draw(st.sampled_from(["json", "jsonl"]))
    text = json.dumps(tasks) if kind == "json" else "\n".join(map(json.dumps, tasks))
    return spoilt(draw, text.encode()) if draw(st.integers(0, 2)) == 0 else text.encode(), kind


def try_tasks(given: tuple[bytes, str], folder: Path) -> None:
    """Rows, or tasks left out with their reasons."""
    data, kind = given
    path = folder / f"tasks.{kind}"
    path.write_bytes(data)
    for name in ("swe-synth", "swe"):
        rows = registry().find("dataset", name)(tasks=str(path)).load(run_in(folder))
        assert len(rows) > 0


@cache
def repository() -> tuple[Path, str]:
    """A small repository `ada/lib` and its one commit."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="fuzz-repo-")) / "ada/lib"
    folder.mkdir(parents=True)
    (folder / "file.py").write_text("one\ntwo\nthree\n")
    (folder / "sub").mkdir()
    (folder / "sub/file.py").write_text("x = 1\n")
    (folder / "link").symlink_to("/tmp")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *words], cwd=folder, env=env, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return folder.parents[1], head.stdout.strip()


GOOD = "--- a/file.py\n+++ b/file.py\n@@ -1,3 +1,3 @@\n-one\n+uno\n two\n three\n"


@st.composite
def git_tasks(draw: Any) -> list[str]:
    """Patches for real git, most of them nearly right."""
    patches = []
    for _ in range(draw(st.integers(1, 6))):
        lines = GOOD.split("\n")
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(lines)))
            lines[at : at + draw(st.integers(0, 2))] = draw(st.lists(LINES, max_size=2))
        patches.append("\n".join(lines))
    return patches


def try_git(given: list[str], folder: Path) -> None:
    """Conversations with the real tree; whatever a patch names, nothing outside is touched."""
    root, commit = repository()
    rows = [
        {
            "instance_id": f"i-{number}",
            "repo": "ada/lib",
            "base_commit": commit,
            "problem_statement": "x",
            "patch": patch,
        }
        for number, patch in enumerate(given)
    ]
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    url = f"{root}/{{repo}}"
    registry().find("dataset", "swe")(tasks=str(path), mode="code-context", clone_url=url).load(run_in(folder))


# weights

INFO = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I64", "F8_E4M3", "Q4", ""]) | JSON,
        "shape": st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**62]), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-4, 80), min_size=2, max_size=2) | JSON,
    },
)
NAMES = st.sampled_from(
    ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
     "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
     "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "model.embed_tokens.weight",
     "__metadata__", "a"]
) | TEXT  # fmt: skip


@st.composite
def weight_files(draw: Any) -> tuple[bytes, bytes, bytes]:
    """A safetensors file with a senseless, or nearly right, header; an adapter config; an index."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        if draw(st.integers(0, 3)) == 0:
            header[name] = draw(INFO | JSON)
            continue
        shape = draw(st.lists(st.integers(0, 4), min_size=0, max_size=2))
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    length = draw(st.sampled_from([len(text)] * 6 + [0, len(text) + 1, 2**32, 2**63]))
    body = draw(st.sampled_from([b"\0" * end] * 4 + [b"", b"\0" * (end + 1), b"\xff" * end]))
    weights = (
        spoilt(draw, struct.pack("<Q", length) + text + body)
        if draw(st.booleans())
        else struct.pack("<Q", length) + text + body
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | draw(
        st.dictionaries(
            st.sampled_from(["peft_type", "r", "lora_alpha", "alpha_pattern", "use_rslora", "modules_to_save"]),
            JSON,
            max_size=2,
        )
    )
    index = {
        "weight_map": draw(JSON | st.dictionaries(TEXT, st.sampled_from(["model.safetensors", "../x", 3]), max_size=2))
    }
    return weights, spoilt(draw, json.dumps(config).encode()), spoilt(draw, json.dumps(index).encode())


def try_weights(given: tuple[bytes, bytes, bytes], folder: Path) -> None:
    """Open as a model, as a sharded one, and as an adapter; read all of it."""
    from loraplug_export.lora_files import open_adapter, read_edits
    from loraplug_export.tensors import FLOATS, open_checkpoint

    weights, config, index = given
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_bytes(config)
    for sharded in (False, True):
        if sharded:
            (folder / "model.safetensors.index.json").write_bytes(index)
        try:
            for tensor in open_checkpoint(folder).tensors.values():
                if tensor.dtype in FLOATS:
                    assert tuple(tensor.read().shape) == tensor.shape
                    tensor.is_finite()
        except LoraplugError:
            pass
    adapter = open_adapter(folder)
    for edit in read_edits(adapter, set()).values():
        edit.load()


TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], None]]] = {
    "recipes": (recipes(), try_recipe),
    "rows": (row_files(), try_rows),
    "tasks": (task_files(), try_tasks),
    "patches": (changed_patches(), try_patch),
    "git": (git_tasks(), try_git),
    "weights": (weight_files(), try_weights),
}


def try_one(name: str, given: Any, folder: Path) -> bool:
    """Try one input in a folder of its own, which is removed; whether it was taken.

    Raises:
        Exception: whatever is not an error of ours; AssertionError where files appeared outside.
    """
    place = folder / "inside"
    place.mkdir()
    try:
        TARGETS[name][1](given, place)
    except LoraplugError as error:
        str(error).encode("utf-8", "backslashreplace")
        return False
    finally:
        shutil.rmtree(place)
        outside = sorted(path.name for path in folder.iterdir())
        assert not outside, f"files outside: {outside}"
    return True
