"""The compiled Bessel functions: `bessel.cpp`, given its tables."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pomona.ground.kernels import NoKernel, build
from pomona.numerics import bessel_tables
from pomona.numerics.bessel_tables import tables

SOURCE = Path(__file__).with_name("bessel.cpp")
NAMES = ("debye", "slope", "log", "even", "odd", "cosh")
WANTED = {"value": 0, "ratio": 1, "gap": 2}


class _Tables(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in NAMES),
        *((name, ctypes.c_double) for name in ("step", "near", "far", "middle")),
        *((name, ctypes.c_int32) for name in ("terms", "few", "gammas", "nodes")),
    )


@cache
def library() -> tuple[ctypes.CDLL, _Tables, Any]:
    """The library, the tables that it reads, and what they point to. Raises `NoKernel`."""
    loaded = build(SOURCE, "-ffp-contract=off")
    assert loaded.pomona_layout() == ctypes.sizeof(_Tables), "bessel.cpp and bessel_native.py disagree about the tables"
    loaded.pomona_bessel.restype = None
    made = tables()
    kept = {name: (ctypes.c_double * len(getattr(made, name)))(*getattr(made, name)) for name in NAMES}
    structure = _Tables(
        **{name: ctypes.addressof(values) for name, values in kept.items()},
        step=bessel_tables.STEP,
        near=bessel_tables.NEAR,
        far=bessel_tables.FAR,
        middle=bessel_tables.MIDDLE,
        terms=bessel_tables.TERMS,
        few=bessel_tables.FEW,
        gammas=len(made.odd),
        nodes=bessel_tables.NODES,
    )
    return loaded, structure, kept


def available() -> bool:
    """Whether the compiled functions can be used on this machine."""
    try:
        library()
    except NoKernel:
        return False
    return True


def bessel(v: Tensor, x: Tensor, *, first: bool, wanted: str, threads: int | None = None) -> Tensor:
    """What `bessel_torch.bessel` computes, on contiguous float64 tensors of one shape on the CPU."""
    loaded, structure, _ = library()
    out = torch.empty_like(x)
    loaded.pomona_bessel(
        ctypes.byref(structure),
        ctypes.c_void_p(v.data_ptr()),
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(x.numel()),
        ctypes.c_int32(first),
        ctypes.c_int32(WANTED[wanted]),
        ctypes.c_int32(threads or torch.get_num_threads()),
    )
    return out
