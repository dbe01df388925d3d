"""Tokenizers trained on the spot, conversations, and trl's pairs of templates."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from loraplug import Conversation

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = "gpt2"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "def add(a, b):\n    return a + b\n\n\nclass Thing:\n    pass\n",
    "Hello there! How are you today? I'm fine, thanks; you're kind. It's 2024, isn't it?",
    "user assistant system tool model content function name arguments description type object properties",
    "The quick brown fox jumps over the lazy dog 0123456789 times. \t tabs and  double  spaces.",
    "naïve café — “quotes” … ümlaut 漢字 かな 😀 emoji",
    '{"name": "search", "arguments": {"query": "weather", "days": 3}}',
] * 4


def templates() -> dict[str, str]:
    """Every chat template in trl, by name."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def pairs() -> list[str]:
    """Names of trl's templates that have a training variant."""
    return [name for name in templates() if f"{name}_training" in templates()]


def control_texts(template: str) -> tuple[list[str], list[str]]:
    """Special and other added tokens that a template writes."""
    special = r"<\|[^|>'\" {}]{1,30}\|?>|<[a-z_]+\|>|<\uff5c[^\uff5c]{1,40}\uff5c>|\[/?INST\]|\[gMASK\]|<sop>|</s>"
    special += r"|<(?:start|end)_of_(?:turn|utterance)>"
    words = r"</?(?:think|tool_call|tool_response|tools)>"
    return sorted(set(re.findall(special, template))), sorted(set(re.findall(words, template)))


@cache
def _trained(kind: str) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if kind in ("byte-qwen", "byte-gpt2", "byte-digits"):
        tokenizer = Tokenizer(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if kind == "byte-qwen":
            steps = [
                pre_tokenizers.Split(Regex(QWEN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        else:
            steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
            if kind == "byte-digits":
                steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    else:
        scheme = kind.removeprefix("metaspace-").removeprefix("unigram-")
        unigram = kind.startswith("unigram")
        tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=unigram)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=unigram)
        letters = sorted({letter for text in CORPUS for letter in text} | set("<|>[]/▁\n_"))
        options: dict[str, Any] = {"vocab_size": 700, "special_tokens": ["<unk>", "<s>", "</s>"]}
        options |= {"initial_alphabet": letters}
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options) if unigram else trainers.BpeTrainer(**options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


KINDS = ("byte-qwen", "byte-gpt2", "byte-digits", "metaspace-always", "metaspace-first", "unigram-first")


def tokenizer_for(template: str = CHATML, kind: str = "byte-qwen", **special: Any) -> Any:
    """A fast tokenizer trained here, with the control tokens the template writes, and the template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    controls, words = control_texts(template)
    special = {"eos_token": "<|im_end|>", "bos_token": "<bos>", "pad_token": "<|im_end|>", **special}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained(kind)), **special)
    made.add_special_tokens({"additional_special_tokens": [*controls, "<|im_start|>"]})
    made.add_tokens(words)
    made.chat_template = template
    return made


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the web",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "what for"}},
                "required": ["query"],
            },
        },
    }
]
CALL = {"type": "function", "id": "abc123def", "function": {"name": "search", "arguments": {"query": "two  words"}}}


def user(text: Any = "Hi there") -> dict[str, Any]:
    """A user turn."""
    return {"role": "user", "content": text}


def answer(text: Any = "Hello, how are you?", **more: Any) -> dict[str, Any]:
    """An assistant turn."""
    return {"role": "assistant", "content": text, **more}


def system(text: str = "You are kind.") -> dict[str, Any]:
    """A system turn."""
    return {"role": "system", "content": text}


TALKS: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {
    "one turn": ([user(), answer()], None),
    "two turns": ([user(), answer(), user("And?"), answer("Fine.\nThanks")], None),
    "six turns": ([message for n in range(6) for message in (user(f"q {n}"), answer(f"answer {n}"))], None),
    "system": ([system(), user(), answer(), user("go"), answer("ok")], None),
    "reasoning": ([user(), answer("42", reasoning_content="let me see")], None),
    "reasoning in history": (
        [user(), answer("42", reasoning_content="hm"), user("why"), answer("so", reasoning_content="ah")],
        None,
    ),
    "thought in content": ([user(), answer("<think>\nhm\n</think>\n\n42"), user("why"), answer("because")], None),
    "tools": (
        [
            user("search it"),
            answer("", tool_calls=[CALL]),
            {"role": "tool", "name": "search", "tool_call_id": "abc123def", "content": "found: 3"},
            answer("There are 3."),
            user("thanks"),
            answer("Welcome"),
        ],
        TOOLS,
    ),
    "tools and words": (
        [
            system(),
            user("search it"),
            answer("I will.", tool_calls=[CALL]),
            {"role": "tool", "name": "search", "tool_call_id": "abc123def", "content": "found: 3"},
            answer("There are 3."),
        ],
        TOOLS,
    ),
    "empty": ([user(""), answer("")], None),
    "empty in the middle": ([user("a"), answer(""), user(""), answer("b")], None),
    "spaces": ([user("  a \n"), answer("\n\n b  \n")], None),
    "same role": ([user("a"), user("b"), answer("c"), answer("d"), user("e"), answer("f")], None),
    "assistant first": ([answer("Welcome!"), user("hi"), answer("hello")], None),
    "ends with a user": ([user("a"), answer("b"), user("c")], None),
    "repeats": ([user("x"), answer("x"), user("x"), answer("x")], None),
    "looks like a template": ([user("assistant\n"), answer("user\nassistant\n{{ messages }}{% if %}")], None),
}


def talk(name: str) -> Conversation:
    """A conversation of `TALKS`."""
    messages, tools = TALKS[name]
    return Conversation(name, messages, tools)


def parts(conversation: Conversation) -> Conversation:
    """The same with list-typed content."""
    messages = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if isinstance(m["content"], str) else m
        for m in conversation.messages
    ]
    return Conversation(conversation.id, messages, conversation.tools)


def inference(tokenizer: Any, conversation: Conversation, upto: int | None = None, prompt: bool = False) -> list[int]:
    """What `apply_chat_template` gives for the first messages."""
    messages = [{k: v for k, v in m.items() if k not in ("train", "weight")} for m in conversation.messages[:upto]]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tools=conversation.tools, add_generation_prompt=prompt, return_dict=False
    )
    return ids


def said(tokenizer: Any, encoded: Any) -> list[str]:
    """The trained stretches as text."""
    stretches: list[list[int]] = [[]]
    for token, on in zip(encoded.ids, encoded.trained, strict=True):
        if on:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(ids) for ids in stretches if ids]


# merges of template text with what is beside it: ".\n\n", "\n<", ">\n", "?\n<|"
_MERGED = ["ok.\n\n", ".\n<|", ".\n\n<|im_end|>\n<|im_start|>", ">\n", ".</s>\n\n", "?\n\n### "]
_MERGED += ["\n</", "\n</think>\n\n"]


@cache
def _merging() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 700, "initial_alphabet": alphabet, "special_tokens": ["<eos>"], "show_progress": False}
    made.train_from_iterator(_MERGED * 50 + CORPUS, trainers.BpeTrainer(**options))
    return made.to_str()


def merging_tokenizer(template: str, control: bool = True) -> Any:
    """A byte-level BPE without words, whose tokens reach across line breaks and brackets.

    Args:
        template: its chat template.
        control: whether it has the control tokens that the template writes.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = dict.fromkeys(("eos_token", "bos_token", "pad_token"), "<eos>")
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_merging()), **special)
    if control:
        controls, words = control_texts(template)
        made.add_special_tokens({"additional_special_tokens": controls})
        made.add_tokens(words)
    made.chat_template = template
    return made
