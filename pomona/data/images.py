"""Images as arrays: read once from a folder or drawn, then batches as a pure function of (seed, step, rank).

images = read_images("photos", size=64)            # sub-folders are labels
stream = ImageStream(images, batch_size=32)
stream.batch(0)[0]["pixel_values"]                 # (32, 3, 64, 64) in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from pomona.data.config import GLYPHS
from pomona.data.permutation import Permutation, derive_key
from pomona.ground.errors import ConfigError, DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Images:
    """Pictures of one size.

    Attributes:
        pixels: (n, channels, height, width) uint8.
        labels: (n,) int64 number of each picture's name, or None where they have none.
        names: of the labels.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def some(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """The pictures at these places."""
        index = np.asarray(indices)
        return Images(self.pixels[index], None if self.labels is None else self.labels[index], self.names)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """`pixel_values` (B, channels, height, width) float32 in [-1, 1], and `classes` (B,) where there are labels."""
        made = {"pixel_values": torch.from_numpy(self.pixels[indices]).float() / 127.5 - 1.0}
        if self.labels is not None:
            made["classes"] = torch.from_numpy(self.labels[indices])
        return made


def read_images(
    path: str | Path, *, size: int, channels: int = 3, count: int | None = None, into: Path | None = None
) -> Images:
    """Read a folder of pictures, or draw `env:glyphs`.

    Each picture is scaled until its shorter edge fits, and its middle square taken (`data.processor` tells others how).
    In a folder whose pictures lie in sub-folders, these are the labels.

    Args:
        size: pixels of an edge.
        channels: 3 for colours, 1 for grey.
        count: at most so many; glyphs need it.
        into: a file that the pixels are written to and mapped from, for more pictures than memory holds.

    Raises:
        ConfigError: another number of channels; glyphs without a number, or of another size.
        DataError: there is no picture, or a file is none (it is named).
    """
    if channels not in (1, 3):
        raise ConfigError("pictures have 1 or 3 channels", found=str(channels))
    if str(path) == GLYPHS:
        return _glyphs(size, channels, count)
    files = picture_files(path)[:count]
    shape = (len(files), channels, size, size)
    pixels = np.empty(shape, np.uint8) if into is None else open_memmap(into, "w+", np.uint8, shape)
    for number, file in enumerate(files):
        pixels[number] = _read(file, size, channels)
    parents = [file.parent for file in files]
    names = tuple(sorted({parent.name for parent in parents}))
    if Path(path).expanduser() in parents:
        return Images(pixels)
    return Images(pixels, np.array([names.index(parent.name) for parent in parents], dtype=np.int64), names)


def picture_files(path: str | Path) -> list[Path]:
    """The pictures in a folder and its sub-folders, by name. Raises `DataError` where there is none."""
    files = sorted(file for file in Path(path).expanduser().rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError("there is no picture", where=str(path), needs=", ".join(sorted(SUFFIXES)), do="check the path")
    return files


def require_picture(file: Path) -> None:
    """Raise `DataError` unless a file begins as a picture does; its pixels are not read."""
    from PIL import Image

    with _as_picture(file), Image.open(file):
        pass


def require_glyphs(size: int, count: int | None) -> None:
    """Raise `ConfigError` unless glyphs can be drawn so."""
    from pomona.data.glyphs import EDGE

    if count is None:
        raise ConfigError(
            f"{GLYPHS} has no end", where="count", needs="count", found="none", do="say how many pictures are drawn"
        )
    if size not in (EDGE, EDGE // 2):
        raise ConfigError(
            f"{GLYPHS} has pictures of {EDGE} or {EDGE // 2} pixels", where="size", found=str(size), do=f"size: {EDGE}"
        )


def _glyphs(size: int, channels: int, count: int | None) -> Images:
    from pomona.data.glyphs import EDGE, SIGNS, draw_glyphs

    require_glyphs(size, count)
    assert count is not None
    pixels, labels = draw_glyphs(count)
    if size != EDGE:
        pixels = pixels.reshape(count, 1, size, 2, size, 2).mean((3, 5)).astype(np.uint8)
    return Images(np.repeat(pixels, channels, axis=1), labels, tuple(SIGNS))


def _read(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """(channels, size, size) of one file."""
    from PIL import Image

    with _as_picture(file), Image.open(file) as image:
        plain = image.convert("RGB" if channels == 3 else "L")
    shorter = min(plain.size)
    width, height = (int(size * edge / shorter) for edge in plain.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = plain.resize((width, height), Image.Resampling.BICUBIC)
    square = scaled.crop((left, top, left + size, top + size))
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


@contextmanager
def _as_picture(file: Path) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(
            "this file is no picture", where=str(file), found=str(error), do="repair or remove it"
        ) from error


class ImageStream:
    """Training batches of images; it can be asked for any step, in any order, from any process.

    Every epoch visits each picture once, in an order of its own; what is left of an epoch begins the next batch.

    Args:
        images: what is read.
        batch_size: pictures per step over all ranks.
        seed: another seed, another order.
        world_size: processes that share a batch.
        first: pictures that were visited before, by whoever read the same ones.

    Raises:
        ConfigError: fewer pictures than a batch, or fewer pictures in a batch than processes.
    """

    def __init__(self, images: Images, *, batch_size: int, seed: int = 0, world_size: int = 1, first: int = 0) -> None:
        if not world_size <= batch_size <= len(images):
            raise ConfigError(
                "the batch does not fit the images",
                needs=f"{world_size} to {len(images)} pictures in a batch",
                found=str(batch_size),
                do="give more pictures, or another batch_size",
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.world_size, self.first = world_size, first

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        """The pictures of one step for one process, in `micro_batches` parts."""
        begin = self.first + step * self.batch_size
        visits = np.arange(begin, begin + self.batch_size)[rank :: self.world_size]
        epochs, places = np.divmod(visits, len(self.images))
        indices = np.empty_like(visits)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = Permutation(len(self.images), derive_key(self.seed, "images", int(epoch)))
            indices[here] = order(places[here])
        return [self.images.batch(part) for part in np.array_split(indices, micro_batches) if len(part)]


class ImageBatches(Sequence[Batch]):
    """Pictures in their order, to be scored: batches that are made when they are asked for.

    Args:
        images: what is read.
        batch_size: pictures of a batch.
        limit: at most so many pictures. Default: all.
    """

    def __init__(self, images: Images, *, batch_size: int, limit: int | None = None) -> None:
        self.images, self.batch_size = images, batch_size
        self.total = len(images) if limit is None else min(limit, len(images))

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        begin = range(len(self))[index] * self.batch_size
        return self.images.batch(np.arange(begin, min(begin + self.batch_size, self.total)))
