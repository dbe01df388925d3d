"""Total, used and peak memory, of the GPU or of the process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path


def forget_peak() -> None:
    """Reset `peak_memory`, where the system allows it: on a GPU, and on Linux."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # https://docs.kernel.org/filesystems/proc.html
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float:
    """The most memory (bytes) this process held: on the GPU where it trained there, else resident."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    with suppress(OSError):  # `ru_maxrss` would be that of the parent where a large process started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def resident_memory() -> float:
    """The memory (bytes) this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def used_memory() -> float:
    """The memory (bytes) this process holds now: on the GPU where it trains there, else resident."""
    import torch

    return float(torch.cuda.memory_reserved()) if torch.cuda.is_available() else resident_memory()


def total_memory() -> float:
    """The memory (bytes) available for training: the GPU's, else what the machine has available now."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    return float(psutil.virtual_memory().available)


def free_memory() -> float:
    """The memory (bytes) that may still be taken: of the GPU, else of the machine, a container's or process' limit."""
    import psutil
    import torch

    if torch.cuda.is_available():
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float(torch.cuda.mem_get_info()[0] + unused)
    free = [float(psutil.virtual_memory().available)]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free.append(float(most) - float(used.read_text(encoding="ascii")))
    if sys.platform != "win32":
        import resource

        most_addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most_addresses != resource.RLIM_INFINITY:
            free.append(float(most_addresses - psutil.Process().memory_info().vms))
    return max(0.0, min(free))
