"""Processor, memory, disk and graphics card, asked without loading torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loraplug import Finding, Run

_SMALL_MEMORY = 4e9  # bytes; quickstart's run takes 2.8 GB
_SMALL_DISK = 5e9
_SECONDS = 20


def processor(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Cores this process may use, and what they multiply fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _cpu_flags()
    text = f"{platform.machine()}, {cores} {'core' if cores == 1 else 'cores'}"
    if "amx_bf16" in flags:
        text += '; AMX: bfloat16 is fast; dtype = "auto" uses it'
    elif flags:
        text += '; no AMX: bfloat16 is slow; dtype = "auto" uses float32'
    yield Finding("processor", text)


def memory(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Memory in all and free now, within the limit of a container where there is one."""
    import psutil

    found = psutil.virtual_memory()
    total, free = found.total, found.available
    if (limit := _container_limit()) and limit < total:
        total, free = limit, min(free, limit)
    text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
    if free < _SMALL_MEMORY:
        todo = (
            "close other programs, or use a smaller base or `bits = 4`; `loraplug plan` estimates what a recipe needs"
        )
        yield Finding("memory", text, "warning", todo)
    else:
        yield Finding("memory", text)


def disk(run: Run) -> Iterator[Finding]:
    """Room where outputs and the cache lie."""
    places = {"outputs": run.outputs, "cache": run.cache}
    for name, place in places.items():
        there = _existing(place.absolute())
        free = shutil.disk_usage(there).free
        text = f"{free / 1e9:.1f} GB free for {name} ({place})"
        if not os.access(there, os.W_OK):
            yield Finding("disk", f"{there} is not writable, and {name} would be stored there", "error",
                          "start in a folder of your own, or set LORAPLUG_CACHE" if name == "cache"
                          else "start in a folder of your own")  # fmt: skip
        elif free < _SMALL_DISK:
            todo = "free some space: a merged model is as large as its base; `LORAPLUG_CACHE` moves the cache"
            yield Finding("disk", text, "warning", todo)
        else:
            yield Finding("disk", text)


def gpu(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Graphics cards, and whether the installed torch can use them."""
    build = _torch_build()
    cards = list(_cards())
    for card in cards:
        yield Finding("gpu", card)
    if sys.platform == "darwin":
        yield Finding("gpu", "macOS: training runs on the CPU; Apple GPUs are not tested", "warning")
    elif not cards:
        yield Finding("gpu", f"none found (nvidia-smi reports no GPU); torch build: {build or 'not installed'}")
    elif build and build.endswith("+cpu"):
        todo = "install torch's CUDA build: see the selector on pytorch.org"
        yield Finding("gpu", f"torch {build} is a CPU-only build and cannot use this GPU", "error", todo)


def _cpu_flags() -> set[str]:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return set()
    lines = (
        line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("flags")
    )
    return set(next(lines, "").split())


def _container_limit() -> int | None:
    """Bytes that a container's control group allows; None where nothing limits."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(name)
        if file.is_file() and (text := file.read_text(encoding="ascii").strip()).isdigit():
            return int(text)
    return None


def _existing(place: Path) -> Path:
    return place if place.exists() else _existing(place.parent)


def _cards() -> Iterator[str]:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is None:
        return
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        name, size, driver = (part.strip() for part in line.rsplit(",", 2))
        yield f"{name}, {size}, driver {driver}"


def _torch_build() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None
