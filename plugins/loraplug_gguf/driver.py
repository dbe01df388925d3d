"""Drives llama.cpp's converter; a program of its own, run by `converter.py` with the converter first on its path.

The job comes as JSON on standard input, the answer goes as JSON into the file that is the one argument. Where the
converter's vocabulary is silently other than the model's (unknown tokenizers of known kinds, scores that are all equal,
first and last tokens), what the tokenizer itself says is written in its place.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any


def main() -> int:
    """Do the job; a refusal of the converter is an answer, too."""
    job: dict[str, Any] = json.loads(sys.stdin.read())
    sys.path[:0] = job["path"]
    logging.basicConfig(level=logging.WARNING)
    _forbid_remote_code()
    try:
        answer = {"convert": convert, "layout": layout}[job["task"]](job)
    except (NotImplementedError, ValueError, KeyError, TypeError, AssertionError, FileNotFoundError) as error:
        logging.exception("the converter")
        answer = {"refused": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


def convert(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file `out` of the type `type`, with `metadata` in its header, split where it is over `split` bytes."""
    import torch

    with torch.inference_mode():
        model = _open(job)
        model.write()
    return {"tensors": sum(len(tensors) for tensors in model.gguf_writer.tensors)}


def layout(job: Mapping[str, Any]) -> dict[str, Any]:
    """Where weights go: of each of `shapes` its name in GGUF and, where they change places, the order of its rows.

    Found by sending a weight through whose values are its rows' numbers, and one whose values are its columns'.
    A weight that does not go to one place row by row has none.
    """
    import torch

    found: dict[str, Any] = {}
    with torch.inference_mode():
        model = _open(job)
        for name, (rows, columns) in job["shapes"].items():
            by_row = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, columns).contiguous()
            by_column = torch.arange(columns, dtype=torch.float32).expand(rows, columns).contiguous()
            (first, order), (second, same) = _sent(model, name, by_row), _sent(model, name, by_column)
            if first is None or first != second or order.shape != by_row.shape or not torch.equal(same, by_column):
                continue
            numbers = order[:, 0].long()
            if torch.equal(order, numbers[:, None].expand(order.shape)) and numbers.unique().numel() == rows:
                moved = not torch.equal(numbers, torch.arange(rows))
                found[name] = {"name": first, "rows": numbers.tolist() if moved else None}
    return {"arch": model.gguf_writer.arch, "places": found}


def _sent(model: Any, name: str, values: Any) -> tuple[str | None, Any]:
    kept = type(model).filter_tensors((name, lambda: values))
    if kept is None:
        return None, None
    block = next((int(part) for part in kept[0].split(".") if part.isdecimal()), None)
    try:
        made = list(model.modify_tensors(values, kept[0], block))
    except ValueError:  # the family has no such tensor
        return None, None
    return made[0] if len(made) == 1 else (None, None)


def _open(job: Mapping[str, Any]) -> Any:
    import conversion  # type: ignore[import-not-found]
    import gguf

    folder = Path(job["folder"])
    from loraplug_gguf import corrections
    from loraplug_gguf.vocabulary import write_pieces

    settings = corrections.complete_settings(conversion.ModelBase.load_hparams(folder, False))
    corrections.name_absent_tensors(gguf)
    made = conversion.get_model_class(conversion.get_model_architecture(settings, conversion.ModelType.TEXT))
    corrections.leave_out_drafts(made, folder)
    _name_splitting(conversion, folder)
    # the converter would guess at names from the folder's, and tell what paths a config holds
    header = gguf.Metadata(**_named(job.get("metadata") or {}, folder), **_sampling(folder))
    gguf.Metadata.load = staticmethod(lambda *_: header)
    kinds = {"f32": "ALL_F32"}
    kind = job.get("type", "f16")
    model = made(
        folder, gguf.LlamaFileType[kinds.get(kind, f"MOSTLY_{kind.upper()}")], Path(job.get("out", "none.gguf")),
        split_max_size=job.get("split", 0), hparams=settings,
    )  # fmt: skip
    if (folder / "tokenizer.json").is_file():
        if _in_pieces(folder):
            model.set_vocab = partial(write_pieces, model.gguf_writer, folder, model.hparams["vocab_size"])
        elif corrections.is_byte_level(folder):
            model.set_vocab = partial(corrections.set_byte_level, model)
        model.set_vocab = partial(_with_ends, model.set_vocab, model.gguf_writer, folder)
    model.set_gguf_parameters = partial(_with_rope, model.set_gguf_parameters, model.gguf_writer, settings)
    return model


def _named(metadata: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from loraplug_gguf.stripping import file_name

    path = folder / "tokenizer.json"
    if not path.is_file() or "name" not in metadata:
        return dict(metadata)
    return {**metadata, "name": file_name(metadata["name"], json.loads(path.read_text(encoding="utf-8")))}


def _sampling(folder: Path) -> dict[str, Any]:
    """What the generation config says of sampling, for engines that begin with it."""
    path = folder / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    found = {f"sampling_{theirs}": said.get(ours) for ours, theirs in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _with_rope(set_parameters: Callable[[], None], writer: Any, settings: Mapping[str, Any]) -> None:
    from loraplug_gguf.corrections import rope_settings
    from loraplug_gguf.rope import attention_scale
    from loraplug_gguf.settings import FAMILIES

    set_parameters()
    rope = rope_settings(settings)
    if settings.get("model_type") == "gpt_neox" and "rope_theta" in rope:
        writer.add_rope_freq_base(float(rope["rope_theta"]))
    if settings.get("model_type") in FAMILIES:
        scale = attention_scale(rope, settings["max_position_embeddings"])
        if scale is not None:
            writer.add_rope_scaling_attn_factors(scale)


def _name_splitting(conversion: Any, folder: Path) -> None:
    """Know tokenizers of a known kind whose vocabulary the converter has not seen."""
    from loraplug import InputError
    from loraplug_gguf.vocabulary import splitting

    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    by_hash: Callable[[Any, Any], str] = conversion.TextModel.get_vocab_base_pre

    def name_of(self: Any, tokenizer: Any) -> str:
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:
            try:
                return splitting(data, path)
            except InputError as error:
                raise NotImplementedError(error.what) from None

    conversion.TextModel.get_vocab_base_pre = name_of


def _in_pieces(folder: Path) -> bool:
    """BPE with byte fallback that tokenizer.json alone tells of; the converter gives all its pieces one score."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return bool((data.get("model") or {}).get("byte_fallback")) and not (folder / "tokenizer.model").is_file()


def _with_ends(set_vocab: Callable[[], None], writer: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    from loraplug_gguf.vocabulary import begins, space_prefix, special_tokens

    set_vocab()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    said = writer.kv_data[0]

    def say(name: str, value: Any) -> None:
        key = f"tokenizer.ggml.{name}"
        said.pop(key, None)
        getattr(writer, f"add_{name}")(value)

    first, last = begins(tokenizer)
    say("add_bos_token", first)
    say("add_eos_token", last)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if said["tokenizer.ggml.model"].value == "llama":
        say("add_space_prefix", space_prefix(data))
    for name, number in special_tokens(tokenizer, folder).items():
        key = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot"}[name]
        said.pop(f"tokenizer.ggml.{key}_token_id", None)
        getattr(writer, f"add_{name}_token_id")(number)


def _forbid_remote_code() -> None:
    """Some of the converter's classes ask for it."""
    import transformers

    for kind in (transformers.AutoTokenizer, transformers.AutoConfig):
        load = kind.from_pretrained

        def load_safely(*given: Any, load: Any = load, **more: Any) -> Any:
            return load(*given, **more | {"trust_remote_code": False, "local_files_only": True})

        kind.from_pretrained = load_safely


if __name__ == "__main__":
    raise SystemExit(main())
