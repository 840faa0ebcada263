"""How large a model is: bytes on disk, parameters, bits per weight. Read from the files' headers, without torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pomona.ground.errors import DamagedArtefact, DataError

BESIDE = frozenset({"MANIFEST.json", "README.md", "ledger.json", "metrics.jsonl", "training_args.json"})
"""Files of a model folder that say how it was made and are not needed to run it."""

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


@dataclass(frozen=True)
class Size:
    """The size of a model folder.

    Args:
        bytes: every file needed to run the model: weights, configuration, tokenizer.
        weight_bytes: the tensors alone.
        parameters: numbers that the model computes with; a packed weight counts as what it unpacks to, and its
            scales and zero points do not count.
        packed_parameters: those of them that are stored in fewer bits than a number of their own.
        bits_per_weight: 8 * weight_bytes / parameters.
        packed_bits_per_weight: the same for the packed weights alone, scales and zero points included; None when
            nothing is packed.
    """

    bytes: int
    weight_bytes: int
    parameters: int
    packed_parameters: int
    bits_per_weight: float
    packed_bits_per_weight: float | None


def size_of(folder: Path) -> Size:
    """Measure a model folder, dense or packed by compressed-tensors.

    Raises:
        DataError: there are no safetensors in it.
        DamagedArtefact: a header is cut off, or promises more than the file holds.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no weights", needs="*.safetensors", found="none")
    dense = weight_bytes = packed = packed_bytes = 0
    for file in files:
        tensors = read_header(file)
        packs = {name.removesuffix("weight_packed") for name in tensors if name.endswith("weight_packed")}
        for name, tensor in tensors.items():
            size = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            weight_bytes += size
            owner, part = _split(name)
            if owner not in packs or part not in _PACKED_PARTS:
                dense += math.prod(tensor["shape"])
                continue
            packed_bytes += size
            if part == "weight_shape":
                packed += math.prod(_read_shape(file, tensor))
    parameters = dense + packed
    if not parameters:
        raise DataError(f"{folder} holds no weights", found=f"{len(files)} files of safetensors without a tensor")
    everything = sum(
        file.stat().st_size
        for file in folder.iterdir()
        if file.is_file() and file.name not in BESIDE and not file.name.startswith(".")
    )
    return Size(
        bytes=everything,
        weight_bytes=weight_bytes,
        parameters=parameters,
        packed_parameters=packed,
        bits_per_weight=8 * weight_bytes / parameters,
        packed_bits_per_weight=8 * packed_bytes / packed if packed else None,
    )


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, data_offsets} of every tensor of a safetensors file; offsets count from its data."""
    with file.open("rb") as stream:
        return header_of(stream, file.stat().st_size, str(file))[0]


def header_of(stream: IO[bytes], length: int, name: str) -> tuple[dict[str, dict[str, Any]], int]:
    """The tensors of a safetensors file as `read_header` gives them, and where its data begin.

    Args:
        stream: the file, at its beginning. length: its bytes. name: for errors.
    """
    prefix = stream.read(8)
    size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LARGEST_HEADER
    if size > min(LARGEST_HEADER, length - 8):
        raise DamagedArtefact(
            f"{name} is damaged", needs="a complete header", found=f"{length} bytes", do="fetch or make it again"
        )
    try:
        header = json.loads(stream.read(size))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedArtefact(f"{name} is damaged", found=str(error), do="fetch or make it again") from error
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
    end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if 8 + size + end > length:
        raise DamagedArtefact(
            f"{name} is cut off", needs=f"{8 + size + end} bytes", found=f"{length} bytes", do="fetch or make it again"
        )
    return tensors, 8 + size


_PACKED_PARTS = frozenset({"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"})


def _split(name: str) -> tuple[str, str]:
    """The owner (with its dot) and the last part of a tensor's name."""
    at = name.rfind(".") + 1
    return name[:at], name[at:]


def _read_shape(file: Path, tensor: dict[str, Any]) -> tuple[int, ...]:
    """The numbers of a `weight_shape` tensor."""
    code = {"I64": "q", "I32": "i"}[tensor["dtype"]]
    count = math.prod(tensor["shape"])
    begin, end = tensor["data_offsets"]
    with file.open("rb") as stream:
        stream.seek(8 + struct.unpack("<Q", stream.read(8))[0] + begin)
        return struct.unpack(f"<{count}{code}", stream.read(end - begin))
