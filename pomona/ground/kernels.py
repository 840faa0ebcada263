"""Small C++ kernels: built once per machine with its own compiler, kept in the user's cache, loaded through ctypes.

Each has a slower stand-in in torch for machines without a compiler. A library's name holds its source, the compiler,
the flags and the processor, so that a changed source or another machine builds its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

from pomona.ground.console import say
from pomona.ground.errors import StorageError
from pomona.ground.files import atomic_file, content_hash

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)


class NoKernel(Exception):
    """Why a kernel cannot be used here; the caller takes its stand-in."""


def cache_folder() -> Path:
    """Where built libraries are kept: $POMONA_CACHE, else pomona in the user's cache folder."""
    chosen = os.environ.get("POMONA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pomona"


def build(source: Path, *more: str) -> ctypes.CDLL:
    """The library of a C++ file, built now if it is not in the cache. Raises `NoKernel` with the reason.

    Args:
        source: one file without headers of its own.
        more: flags after `FLAGS`.
    """
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    flags = (*FLAGS, *more)
    key = content_hash([source.read_text(encoding="utf-8"), version, flags, _processor()])
    path = cache_folder() / "kernels" / f"{source.stem}-{key}.so"
    if not path.exists():
        started = time.perf_counter()
        try:
            with atomic_file(path) as part:
                built = subprocess.run(
                    [compiler, *flags, "-o", str(part), str(source)], capture_output=True, text=True, check=False
                )
                if built.returncode != 0:
                    raise NoKernel(f"{compiler} could not build {source.name}: {built.stderr.strip()[-400:]}")
        except (OSError, StorageError) as error:
            raise NoKernel(f"{source.name} could not be built into {path.parent}: {error}") from error
        say(f"[dim]built {source.name} for this processor in {time.perf_counter() - started:.1f} s[/]")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoKernel(f"{source.name} could not be loaded: {error}") from error


def _compiler() -> str:
    """A C++ compiler. Raises `NoKernel` when there is none."""
    wanted = [os.environ.get("CXX"), "g++", "c++", "clang++"]
    found = next((path for name in wanted if name and (path := shutil.which(name))), None)
    if found is None:
        raise NoKernel("no C++ compiler was found (install g++ for faster kernels)")
    return found


@cache
def _processor() -> str:
    """What the compiler's -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0].strip() in kept}))
