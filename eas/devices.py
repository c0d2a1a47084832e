"""Where work runs, and what the machine has."""

from __future__ import annotations

import ctypes
import os

import torch

MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4  # of malloc.h


def device() -> torch.device:
    """The GPU where there is one, else the CPU; the environment variable EAS_DEVICE overrules.

    Raises:
        ValueError: EAS_DEVICE names no device of this machine; one line.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = (["cuda"] if gpus else []) + ["cpu"] + [f"cuda:{index}" for index in range(gpus)]
    name = os.environ.get("EAS_DEVICE") or known[0]
    if name not in known:
        raise ValueError(
            f"EAS_DEVICE={name!r}: this machine has {', '.join(known)}; name one of these, or leave it out"
        )
    return torch.device(name)


def cpu_count() -> int:
    """Processors that this process may use; where the system cannot tell (macOS), all that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reading_workers() -> int:
    """Processes that read images while a GPU trains; none where the processors train themselves."""
    return cpu_count() if device().type == "cuda" else 0


def has_amx() -> bool:
    """Whether the processor has matrix units for bfloat16: without them it is slower than float32."""
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def keep_memory() -> None:
    """Have glibc keep the large blocks that tensors free, for the next ones.

    By default it gives each back to the system, and the page faults of getting it again take longer than the
    arithmetic: calibration on 2,000 images of CIFAR-100 takes a third of the time without them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries, as macOS has, know no such option
        for option, value in ((MALLOC_MMAP_MAX, 0), (MALLOC_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)
