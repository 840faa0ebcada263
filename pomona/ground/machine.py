"""Facts about the machine and the few switches that make it fast."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache

import psutil

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the kernel at every step.

    Blocks of 32 MB and more are otherwise mapped anew for each activation, and the page faults cost more than
    the arithmetic (measured: 1.3x to 2x per training step, for 11-20 % more peak memory). Returns whether the
    switch exists here. Set POMONA_KEEP_FREED_MEMORY=0 to leave the allocator alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("POMONA_KEEP_FREED_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@cache
def has_fast_bfloat16() -> bool:
    """True where bf16 matrix products run in hardware (GPU, AVX512-BF16, AMX, ARM BF16)."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return True
    return bool(torch.backends.mkldnn.enabled) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class Machine:
    """What a measurement needs to say about where it was made."""

    processor: str
    cores: int
    memory_gb: float
    accelerator: str | None
    fast_bfloat16: bool
    python: str
    torch: str

    def asdict(self) -> dict[str, object]:
        return asdict(self)


@cache
def machine() -> Machine:
    """Describe this machine."""
    import torch

    return Machine(
        processor=_processor_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        fast_bfloat16=has_fast_bfloat16(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


@cache
def matmul_rate(seconds: float = 0.4) -> float:
    """Matrix-product FLOPs per second of this machine in its training precision, measured on 2048 x 2048."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    left = torch.randn(2048, 2048, device=device).to(dtype)
    out = left @ left
    if device == "cuda":
        torch.cuda.synchronize()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        torch.mm(left, left, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far (on a GPU: of its allocator), in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (a kernel file)
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
