"""Documents computed together are kept apart, in whatever way a model does it; on tiny models of each kind."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sft_rows import encoded

from families import build
from loraplug import Encoded, Run
from loraplug_train.engine.separation import length_limit, separation
from loraplug_train.trainer import Sft

KINDS = {
    "llama": "end-to-end",
    "gemma2": "end-to-end",
    "gpt2": "end-to-end",
    "mixtral": "end-to-end",
    "opt": "padded",
    "gpt_oss": "padded",
    "mamba": "padded",
    "lfm2": "padded",
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_told(name: str, dtype: str) -> None:
    """Masks by position_ids, masks and states without them, states that refuse; in coarse number formats, too."""
    import torch

    model = build(name).to(getattr(torch, dtype)).eval()
    found = separation(model)
    assert found.way == KINDS[name]
    assert not model.training
    assert ("do not influence each other" in found.sentence()) == (found.way == "end-to-end")


def test_a_model_that_pads_wrongly_computes_one_at_a_time() -> None:
    """Where padded rows, too, change a document, nothing is computed together."""
    model = build("opt")
    forward = model.forward

    def mixing(input_ids: Any, **inputs: Any) -> Any:
        out = forward(input_ids, **inputs)
        out.logits = out.logits + 0.1 * out.logits.mean((0, 1))
        return out

    model.forward = mixing
    assert separation(model).way == "one-by-one"


def test_the_length_from_which_all_tokens_change_is_read_from_the_config() -> None:
    """Longrope and attention in chunks; per kind of layer, too."""
    from transformers import Gemma3TextConfig

    assert length_limit(build("phi3_longrope").config) == 32
    assert length_limit(build("llama4").config) == 8
    assert length_limit(build("llama").config) is None
    ropes = {
        "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert length_limit(Gemma3TextConfig(rope_parameters=ropes, max_position_embeddings=64)) == 64


def _losses(name: str, folder: Path, rows: Any, **options: Any) -> tuple[list[float], list[float], Any]:
    from loraplug.testing import tiny_tokenizer

    run = Run(f"{name}-{len(list(folder.iterdir()))}", outputs=folder)
    run.folder.mkdir(parents=True)
    (folder / run.name).mkdir()
    held = rows.select(range(len(rows)))
    settings = {"samples": 0, "learning_rate": 5e-3, "epochs": 2.0, **options}
    result = Sft(**settings).train(run, lambda _: build(name), tiny_tokenizer(), Encoded(rows), Encoded(held))
    lines = (result.path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    validation = [result.figures["validation_loss_before"], result.figures["validation_loss_after"]]
    return [json.loads(line)["loss"] for line in lines[:-1]], validation, run.reporter


@pytest.mark.parametrize("name", ["opt", "lfm2", "phi3_longrope", "llama"])
def test_rows_together_and_packed_are_rows_alone(name: str, tmp_path: Path) -> None:
    """Losses of steps and of validation are those of a row at a time, with several rows at once and packed by fours."""
    from datasets import Dataset

    rows = encoded(8, longest=48)  # above and below the 32 tokens at which the longrope model changes
    fours = [list(range(at, at + 4)) for at in (0, 4)]
    packed = Dataset.from_dict(
        {
            "input_ids": [list(chain(*rows[four]["input_ids"])) for four in fours],
            "labels": [list(chain(*rows[four]["labels"])) for four in fours],
            "row": [list(chain(*rows[four]["row"])) for four in fours],
            "seq_lengths": [list(map(len, rows[four]["input_ids"])) for four in fours],
        }
    )
    kernel = "auto" if name == "llama" else "plain"
    alone, validated, _ = _losses(name, tmp_path, rows, batch_size=8, micro_batch=1, kernel="plain")
    for given, options in ((rows, {"batch_size": 8, "micro_batch": 8}), (packed, {"batch_size": 2})):
        together, validation, reporter = _losses(name, tmp_path, given, kernel=kernel, **options)
        assert together == pytest.approx(alone, rel=2e-5)
        assert validation == pytest.approx(validated, rel=2e-5)
        said = "\n".join(reporter.lines)
        assert ("documents are not packed" in said) == (name in ("opt", "lfm2"))
        assert ("up to 32 tokens at once" in said) == (name == "phi3_longrope")
