"""Model folders as tensors that are read and written one at a time, in the safetensors format.

A folder's weights lie in one file or in several, which an index lists. Reading maps the files and copies a tensor when
it is asked for. Writing lays down the header first, since sizes are known before values are.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import read_json, write_json
from pomona.ground.weights import refuse_without_weights

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of dtypes in the format."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Weights(Mapping[str, Tensor]):
    """The tensors of a model folder by name; each is read when it is asked for.

    Attributes:
        folder: of the model.
        layout: the names in each file, in the order of the files.
        shapes, dtypes: of every tensor, from the headers.

    Args:
        ties: groups of names of which a folder needs to hold only one. Any of them finds what is there; only the first
            that is there is listed.

    Raises:
        DataError: there are no weights, or in a dtype that is not known. UnsafeFile: they are a pickle.
        DamagedArtefact: a file is missing or cut off.
    """

    def __init__(self, folder: Path, ties: Sequence[Sequence[str]] = ()) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self.layout: dict[str, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for file in self._list():
            self._open(file)
        self._where = {name: file for file, names in self.layout.items() for name in names}
        self._same: dict[str, str] = {}
        self.repeated: list[tuple[str, str]] = []
        """Tensors that are there under two names: the first, and another that is not listed."""
        for group in ties:
            there = [name for name in group if name in self._where]
            self._same.update({name: there[0] for name in group if there})
            self.repeated += [(there[0], name) for name in there[1:]]
        for _, name in self.repeated:
            self.layout[self._where[name]].remove(name)

    def __getitem__(self, name: str) -> Tensor:
        return self.stored(self.first(name))

    def __iter__(self) -> Iterator[str]:
        return (name for names in self.layout.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, self.layout.values()))

    def stored(self, name: str) -> Tensor:
        """The tensor that is stored under exactly this name."""
        file = self._where[name]
        try:
            tensor: Tensor = self._files[file].get_tensor(name)
        except SafetensorError as error:
            raise _damaged(self.folder / file, str(error)) from error
        return tensor

    def first(self, name: str) -> str:
        """The name under which a tensor is listed, from any of its names."""
        return self._same.get(name, name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, under any of its names."""
        return self.shapes[self.first(name)]

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights."""
        return [self.folder / file for file in self.layout]

    def _list(self) -> list[str]:
        """Names of the files; those of the index where there is one, since others may lie beside them."""
        if (self.folder / INDEX).is_file():
            files = sorted({*read_json(self.folder / INDEX)["weight_map"].values()})
        elif (self.folder / SINGLE).is_file():
            files = [SINGLE]
        else:
            refuse_without_weights(self.folder, f"{SINGLE}, or {INDEX}")
        for file in files:
            if not (self.folder / file).is_file():
                raise _damaged(self.folder / file, "missing, though the index lists it")
        return files

    def _open(self, file: str) -> None:
        """Map one file and read its header."""
        try:
            opened: Any = safe_open(self.folder / file, framework="pt")
        except SafetensorError as error:
            raise _damaged(self.folder / file, str(error)) from error
        self._files[file] = opened
        self.layout[file] = []
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            part = opened.get_slice(name)
            if (dtype := DTYPES.get(part.get_dtype())) is None:
                raise DataError(
                    f"{name} of {self.folder} cannot be merged",
                    needs="weights in 16 or 32 bits",
                    found=part.get_dtype(),
                    do="export the model with dense weights first",
                )
            self.layout[file].append(name)
            self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), dtype


def _damaged(file: Path, found: str) -> DamagedArtefact:
    return DamagedArtefact(f"{file} is damaged", found=found, do="make it or copy it again")


def write_weights(
    folder: Path,
    layout: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    tensor: Callable[[str], Tensor],
) -> None:
    """Write a model's weights into `folder`, one tensor after another.

    Args:
        layout: the names in each file.
        shapes, dtypes: of every tensor.
        tensor: gives a tensor when its turn comes, which may compute it.
    """
    for file, names in layout.items():
        # Larger numbers first, as the format's own writer does it: so every tensor lies at a multiple of its item size.
        order = sorted(names, key=lambda name: (-dtypes[name].itemsize, name))
        with (folder / file).open("wb") as stream:
            _write_header(stream, order, shapes, dtypes)
            for name in order:
                values = tensor(name).contiguous().flatten()
                assert values.dtype == dtypes[name], f"{name} is {values.dtype}, not {dtypes[name]}"
                stream.write(values.view(torch.uint8).numpy().data)
    if [*layout] != [SINGLE]:
        total = sum(_bytes(shapes[name], dtypes[name]) for names in layout.values() for name in names)
        where = {name: file for file, names in layout.items() for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def _write_header(
    stream: BinaryIO,
    order: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in order:
        end = begin + _bytes(shapes[name], dtypes[name])
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
