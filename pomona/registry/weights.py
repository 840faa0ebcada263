"""What a package's weights are, read from headers and bytes: formats, shapes, and a digest of their values.

The digest is that of the set of tensors' bytes. It does not depend on names of tensors, shards or files, nor on whether
tied weights are stored once or twice, nor on whether a safetensors file or a zipped pickle holds them: two packages
with the same digest hold the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

from pomona.examination.size import header_of
from pomona.ground.errors import DamagedArtefact
from pomona.ground.files import content_hash
from pomona.registry.contents import Contents, as_zip, pieces, sha256_of

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".torchscript")
"""How files of weights end."""
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth")
"""Files that end so and are the state of a training run."""
POINTER = b"version https://git-lfs.github.com/spec/"
ONNX, TORCHSCRIPT, PICKLE, SAFETENSORS = "onnx", "torchscript", "pickle", "safetensors"


@dataclass
class Weights:
    """What the files of weights say.

    Attributes:
        formats: of the files, in order of names.
        parameters: numbers in the tensors of safetensors; None where there are none.
        dtypes: tensors by number format.
        shapes: name -> (format, shape) of the tensors of safetensors.
        digest: of all values; None where a file is only a pointer, damaged, or there is none.
        damaged: names of files that could not be read, and why.
    """

    formats: tuple[str, ...] = ()
    parameters: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    digest: str | None = None
    damaged: tuple[str, ...] = ()

    @property
    def shapes_digest(self) -> str | None:
        return content_hash(sorted(self.shapes.items())) if self.shapes else None


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights, judged by its name."""
    last = name.rsplit("/", 1)[-1]
    return last.endswith(WEIGHTS) and last not in NOT_WEIGHTS and not last.startswith("rng_state")


def pointer_of(contents: Contents, name: str) -> str | None:
    """The SHA-256 that a pointer of Git LFS names; None where the file is the file itself."""
    if contents.sizes[name] > 1024:
        return None
    with contents.open(name) as file:
        text = file.read(1024)
    if not text.startswith(POINTER):
        return None
    lines = dict(line.partition(" ")[::2] for line in text.decode("utf-8", errors="replace").splitlines())
    return lines.get("oid", "").removeprefix("sha256:")


def read_weights(contents: Contents, names: Iterable[str]) -> Weights:
    """Read the named files of weights, none of which is a pointer."""
    tensors: set[str] = set()
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    formats, damaged = [], []
    for name in sorted(names):
        if name.endswith(".safetensors"):
            formats.append(SAFETENSORS)
            try:
                shapes |= _safetensors(contents, name, tensors)
            except (DamagedArtefact, KeyError, TypeError, ValueError) as error:
                found = (
                    (error.found or error.what) if isinstance(error, DamagedArtefact) else "no header of safetensors"
                )
                damaged.append(f"{name}: {found}")
        else:
            try:
                formats.append(_other(contents, name, tensors))
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                formats.append(PICKLE)
                damaged.append(f"{name}: {error}")
    whole = bool(tensors) and not damaged
    return Weights(
        formats=tuple(dict.fromkeys(formats)),
        parameters=sum(math.prod(shape) for _, shape in shapes.values()) if shapes else None,
        dtypes=dict(sorted(Counter(dtype for dtype, _ in shapes.values()).items())),
        shapes=shapes,
        digest=content_hash(sorted(tensors)) if whole else None,
        damaged=tuple(damaged),
    )


def _safetensors(contents: Contents, name: str, tensors: set[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, formats and shapes of a file's tensors; the digest of each tensor's bytes joins `tensors`."""
    with contents.open(name) as file:
        header, begin = header_of(file, contents.sizes[name], name)
        for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"][0]):
            start, end = entry["data_offsets"]
            file.seek(begin + start)
            tensors.add(_digest(file, end - start))
    return {key: (str(entry["dtype"]), tuple(entry["shape"])) for key, entry in header.items()}


def _other(contents: Contents, name: str, tensors: set[str]) -> str:
    """The format of a file that is no safetensors; digests of its tensors, or of the whole file, join `tensors`."""
    if name.endswith(".onnx"):
        tensors.add(sha256_of(contents, name))
        return ONNX
    with as_zip(contents, name) as archive:
        if archive is None:
            tensors.add(sha256_of(contents, name))
            return PICKLE
        entries = archive.infolist()
        stored = [entry for entry in entries if "/data/" in entry.filename or "/constants/" in entry.filename]
        for entry in stored:
            with archive.open(entry) as file:
                tensors.add(_digest(file, entry.file_size))
        return TORCHSCRIPT if any("/code/" in entry.filename for entry in entries) else PICKLE


def _digest(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    for piece in pieces(file, size):
        digest.update(piece)
    return digest.hexdigest()
