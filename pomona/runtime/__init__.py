"""Fast generation on the CPU, from dense and from 4-bit folders."""

from __future__ import annotations

from pomona.runtime.decode import DecodeSpeed, Generation, Generator, generate, measure_decode
from pomona.runtime.folder import LoadedModel, load_model
from pomona.runtime.native import NativeStep, NoNativeStep
from pomona.runtime.packed import PackedLinear, PackedWeight
from pomona.runtime.sampling import SamplingConfig

__all__ = [
    "DecodeSpeed",
    "Generation",
    "Generator",
    "LoadedModel",
    "NativeStep",
    "NoNativeStep",
    "PackedLinear",
    "PackedWeight",
    "SamplingConfig",
    "generate",
    "load_model",
    "measure_decode",
]
