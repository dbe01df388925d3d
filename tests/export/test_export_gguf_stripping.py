"""White space beside special tokens: llama.cpp goes by the name in a file, so the name follows from the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loraplug import InputError, Run
from loraplug_gguf.converter import run_converter
from loraplug_gguf.preflight import check_folder
from loraplug_gguf.stripping import file_name

TEXT = "<|end|>\n one <|endoftext|> two<|user|>  three</s> four"
KEPT, DROPPED = ("<unk>", "<s>"), ("</s>", "<|end|>", "<|user|>")  # with <|endoftext|>, which the tokenizer has already


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("phi3-mine", outputs=tmp_path / "outputs")


def folder_with(tiny_model: Path, folder: Path, dropped: tuple[str, ...]) -> Path:
    """The tiny model with Phi-3's special tokens, of which some drop the white space behind them."""
    import torch
    from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    added = [AddedToken(one, special=True, normalized=False, rstrip=one in dropped) for one in (*KEPT, *DROPPED)]
    others = [one for one in tokenizer.added_tokens_decoder.values() if one.content != "<|endoftext|>"]
    marks = [AddedToken(one.content, special=True, normalized=False, rstrip=bool(dropped)) for one in others]
    tokenizer.add_tokens([*added, *marks], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dropped", "name"), [(DROPPED, "mine"), (DROPPED, "phi3-mine"), ((), "PHI-3 mine")])
def test_llama_cpp_reads_a_text_as_the_tokenizer_does(
    dropped: tuple[str, ...], name: str, tiny_model: Path, tmp_path: Path, run: Run
) -> None:
    """Whatever the run is called."""
    pytest.importorskip("xllamacpp", reason="real llama.cpp: pip install xllamacpp")
    from export_llama import LlamaCpp
    from transformers import AutoTokenizer

    folder = folder_with(tiny_model, tmp_path / "model", dropped)
    check_folder(folder, run)
    file = tmp_path / "model.gguf"
    run_converter(run, "convert", folder, out=str(file), type="f32", metadata={"name": name}, split=0)
    wanted = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    assert LlamaCpp(file).tokens(TEXT) == wanted


def test_a_tokenizer_that_drops_other_white_space_needs_a_certificate(
    tiny_model: Path, tmp_path: Path, run: Run
) -> None:
    """llama.cpp can do what Phi-3's tokenizer does, and nothing between that and nothing."""
    folder = folder_with(tiny_model, tmp_path / "model", DROPPED[:1])
    with pytest.raises(InputError, match=r"drops white space beside .* and llama.cpp keeps it") as raised:
        check_folder(folder, run)
    assert raised.value.where == str(folder / "tokenizer.json") and 'prove = "always"' in raised.value.what
    check_folder(folder, run, proved=True)


def test_names_without_need_stay(tiny_model: Path) -> None:
    """A file is called by another name only where llama.cpp would take it for Phi-3, or would not."""
    plain = json.loads((tiny_model / "tokenizer.json").read_text())
    assert file_name("fix-v3", plain) == "fix-v3" and file_name("my-phi3", plain) == "my-Phi 3"
