"""Small tokenizers of every kind that is written to GGUF, trained on a few sentences."""

from __future__ import annotations

from pathlib import Path

TEXTS = [
    "The quick brown fox jumps over the lazy dog, 1234 times in 2024.",
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(i)",
    "naïve café — 你好世界! Ω≈ç√ I'm you're WE'LL it'S",
    "   many   spaces \r\n and\n\n\nlines <b>tags</b>",
] * 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ["gpt-2", "smollm", "qwen2", "llama-bpe", "tekken", "llama"]


def save(kind: str, folder: Path, size: int = 400, bos: bool = False) -> None:
    """Train a tokenizer of `kind` with at most `size` tokens and save it with a ChatML template."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    whole = kind in ("llama-bpe", "tekken")
    pieces = kind == "llama"
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole, byte_fallback=pieces, unk_token="<unk>" if pieces else None))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    special = ["<unk>", *SPECIAL] if pieces else SPECIAL
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if pieces:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{number:02X}>" for number in range(256)]
        alphabet, size = [], size + 300
    else:
        steps = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}.get(kind)
        if steps is None:
            expression = {"qwen2": QWEN, "llama-bpe": LLAMA3, "tekken": TEKKEN}[kind]
            steps = [pre_tokenizers.Split(Regex(expression), "isolated")]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if pieces:
        _unmark_bytes(tokenizer, folder)
        tokenizer = Tokenizer.from_file(str(folder / "raw.json"))
    if bos:
        number = tokenizer.token_to_id("<|endoftext|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", number)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        unk_token="<unk>" if pieces else None,
        chat_template=CHATML,
    )
    fast.save_pretrained(folder)


def _unmark_bytes(tokenizer: object, folder: Path) -> None:
    """Byte tokens are ordinary vocabulary, not added tokens."""
    import json

    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "raw.json"))  # type: ignore[attr-defined]
    data = json.loads((folder / "raw.json").read_text())
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    (folder / "raw.json").write_text(json.dumps(data))
