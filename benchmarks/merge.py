"""Merging a 1.1-billion-parameter bf16 Llama: loraplug's streaming merge compared with peft's `merge_and_unload`.

    python benchmarks/merge.py                      # about 10 GB of disk in a temporary folder, removed at the end
    python benchmarks/merge.py --layers 4 --rounds 1

The model is random (TinyLlama's sizes, shards of 500 MB), the adapter is rank 16 on all linear layers. Both sides run
in turn, each in a process of its own, `rounds` times; the table shows the best wall time and the largest memory.
Peak memory is the process's largest resident set; "own memory" leaves out pages of mapped files, which the kernel could
take back. `bare imports` is a process that only imports torch, transformers and peft. Verification is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns import memory

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def make_model(folder: Path, layers: int) -> None:
    """Write a random base and a random adapter."""
    import torch
    from accelerate import init_empty_weights
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    config = LlamaConfig(num_hidden_layers=layers, dtype="bfloat16", **SIZES)
    with init_empty_weights():
        model = LlamaForCausalLM(config)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(base)
    shards: list[dict[str, torch.Tensor]] = [{}]
    lora = {}
    for name, parameter in model.named_parameters():
        if sum(t.nbytes for t in shards[-1].values()) > 500e6:
            shards.append({})
        norm = parameter.ndim == 1
        shards[-1][name] = (
            torch.ones(parameter.shape).bfloat16() if norm else torch.randn(parameter.shape).bfloat16() / 50
        )
        if name.endswith("_proj.weight"):
            outputs, inputs = parameter.shape
            lora[f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight"] = torch.randn(16, inputs) / 50
            lora[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"] = torch.randn(outputs, 16) / 50
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, base / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    count = sum(t.numel() for shard in shards for t in shard.values())
    index = {"metadata": {"total_size": 2 * count}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(lora, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.split(".")[-3] for name in lora})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": targets}
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))


def merge_with_peft(folder: Path, out: Path) -> None:
    """The usual way: load, wrap, merge, save."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="auto")
    PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().save_pretrained(out)


def _trained(folder: Path) -> object:
    from loraplug import ExportContext, Run

    run = Run(name="benchmark", outputs=folder / "outputs", cache=folder / "cache")
    return ExportContext(run=run, adapter=folder / "adapter", base=folder / "base", base_id="random-llama")


def merge_with_loraplug(folder: Path, out: Path) -> None:
    """The `merged` exporter without its proof."""
    from loraplug_export.merged import MergedExporter

    MergedExporter(verify=False).export(_trained(folder), out)


def verify_with_loraplug(folder: Path, out: Path) -> None:
    """The proof alone, of what `merge_with_loraplug` left at `out`."""
    from loraplug_export.lora_files import open_adapter
    from loraplug_export.plan import make_plan
    from loraplug_export.tensors import open_checkpoint
    from loraplug_export.verify import verify

    result = _trained(folder)
    plan = make_plan(open_adapter(folder / "adapter"), open_checkpoint(folder / "base"))
    verify(plan, out, [list(range(1, 65)), list(range(1000, 1064))], result.run)


def only_import(*_: Path) -> None:
    """The floor below which neither side can go."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def make(folder: Path, _: Path) -> None:
    """The model to merge; in a process of its own, as a child's peak memory is never less than its parent's."""
    make_model(folder, int(os.environ["BENCHMARK_LAYERS"]))


SIDES = {
    "bare imports": only_import,
    "peft": merge_with_peft,
    "loraplug": merge_with_loraplug,
    "loraplug verify": verify_with_loraplug,
}


def child(side: str, folder: Path, out: Path) -> None:
    """Do one side's work and print what it took as JSON."""
    began = time.perf_counter()
    (SIDES | {"make": make, "compare": compare})[side](folder, out)
    wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    taken = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": memory("VmHWM")}
    print(json.dumps(taken))


def measure(side: str, folder: Path, out: Path) -> dict[str, float]:
    """Run one side in a process of its own; adds `own`, the most memory that was not mapped files."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        own = 0
        while process.poll() is None:
            own = max(own, _own_memory(process.pid))
            time.sleep(0.01)
        text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{side} failed; run it by hand: {' '.join(command)}")
    return json.loads(text.splitlines()[-1]) | {"own": own}


def _own_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def compare(folder: Path, _: Path) -> None:
    """Stop where the two merged models differ by more than one rounding to bf16."""
    from loraplug_export.tensors import open_checkpoint

    ours, theirs = (open_checkpoint(folder / name).tensors for name in ("merged", "peft"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        one, other = tensor.read().float(), theirs[name].read().float()
        assert bool(((one - other).abs() <= 2**-7 * other.abs() + 1e-6).all()), name


def main() -> None:
    """Make the model, let every side merge it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tmp", type=Path, help="where to make the model")
    for hidden in ("--side", "--folder", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        child(given.side, Path(given.folder), Path(given.out))
        return
    with tempfile.TemporaryDirectory(dir=given.tmp) as temporary:
        folder = Path(temporary)
        os.environ["BENCHMARK_LAYERS"] = str(given.layers)
        measure("make", folder, folder)
        count = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors")) / 2
        taken: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for turn in range(given.rounds):
            for side in SIDES if turn % 2 == 0 else ("bare imports", "loraplug", "loraplug verify", "peft"):
                out = folder / ("merged" if "loraplug" in side else "peft")
                if side in ("peft", "loraplug"):
                    shutil.rmtree(out, ignore_errors=True)
                taken[side].append(measure(side, folder, out))
        print(f"{count / 1e9:.2f} billion parameters, {given.rounds} rounds, best wall time, largest memory")
        print(f"{'':16}{'wall s':>9}{'cpu s':>9}{'peak MB':>10}{'own memory MB':>15}")
        best = {}
        for side, rounds in taken.items():
            best[side] = t = {key: min(one[key] for one in rounds) for key in ("wall", "cpu")}
            t |= {key: max(one[key] for one in rounds) for key in ("peak", "own")}
            print(f"{side:16}{t['wall']:9.1f}{t['cpu']:9.1f}{t['peak'] / 1e6:10.0f}{t['own'] / 1e6:15.0f}")
        share = {key: best["loraplug"][key] / best["peft"][key] for key in ("peak", "own", "wall", "cpu")}
        print("loraplug / peft:", ", ".join(f"{key} {value:.2f}" for key, value in share.items()))
        measure("compare", folder, folder)
        print("the two merged models are the same to one rounding")


if __name__ == "__main__":
    main()
