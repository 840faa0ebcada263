"""Images as arrays: read once from a folder or drawn, then batches as a pure function of (seed, step, rank).

images = read_images("photos", size=64)            # sub-folders are labels
stream = ImageStream(images, batch_size=32)
stream.batch(0)[0]["pixel_values"]                 # (32, 3, 64, 64) in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pomona.data.permutation import Permutation, derive_key
from pomona.ground.errors import ConfigError, DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
GLYPHS = "env:glyphs"
"""The name of the pictures that need no download."""

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


def read_images(path: str | Path, *, size: int, channels: int = 3, count: int | None = None) -> Images:
    """Read a folder of pictures, or draw `env:glyphs`.

    Each picture is cut to its middle square and scaled. In a folder whose pictures lie in sub-folders, these are the
    labels.

    Args:
        size: pixels of an edge.
        channels: 3 for colours, 1 for grey.
        count: at most so many; glyphs need it.

    Raises:
        ConfigError: another number of channels; glyphs without a number.
        DataError: there is no picture, or a file is none (it is named).
    """
    if channels not in (1, 3):
        raise ConfigError("pictures have 1 or 3 channels", found=str(channels))
    if str(path) == GLYPHS:
        return _glyphs(size, channels, count)
    folder = Path(path).expanduser()
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:count]
    if not files:
        raise DataError("there is no picture", where=str(path), needs=", ".join(sorted(SUFFIXES)), do="check the path")
    pixels = np.stack([_read(file, size, channels) for file in files])
    parents = [file.parent for file in files]
    names = tuple(sorted({parent.name for parent in parents}))
    if folder in parents:
        return Images(pixels)
    return Images(pixels, np.array([names.index(parent.name) for parent in parents], dtype=np.int64), names)


def _glyphs(size: int, channels: int, count: int | None) -> Images:
    from pomona.data.glyphs import EDGE, SIGNS, draw_glyphs

    if count is None:
        raise ConfigError(f"{GLYPHS} has no end", needs="count", do="say how many pictures are drawn")
    if size not in (EDGE, EDGE // 2):
        raise ConfigError(f"{GLYPHS} has pictures of {EDGE} or {EDGE // 2} pixels", found=str(size))
    pixels, labels = draw_glyphs(count)
    if size != EDGE:
        pixels = pixels.reshape(count, 1, size, 2, size, 2).mean((3, 5)).astype(np.uint8)
    return Images(np.repeat(pixels, channels, axis=1), labels, tuple(SIGNS))


def _read(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """(channels, size, size) of one file."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), (size, size))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(
            "this file is no picture", where=str(file), found=str(error), do="repair or remove it"
        ) from error
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


class ImageStream:
    """Training batches of images; it can be asked for any step, in any order, from any process.

    Every epoch visits each picture once, in an order of its own; what is left of an epoch begins the next batch.

    Args:
        images: what is read.
        batch_size: pictures per step over all ranks.
        seed: another seed, another order.
        world_size: processes that share a batch.

    Raises:
        ConfigError: fewer pictures than a batch, or fewer pictures in a batch than processes.
    """

    def __init__(self, images: Images, *, batch_size: int, seed: int = 0, world_size: int = 1) -> None:
        if not world_size <= batch_size <= len(images):
            raise ConfigError(
                "the batch does not fit the images",
                needs=f"{world_size} to {len(images)} pictures in a batch",
                found=str(batch_size),
            )
        self.images, self.batch_size, self.seed, self.world_size = images, batch_size, seed, world_size

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        """The pictures of one step for one process, in `micro_batches` parts."""
        visits = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[rank :: self.world_size]
        epochs, places = np.divmod(visits, len(self.images))
        indices = np.empty_like(visits)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = Permutation(len(self.images), derive_key(self.seed, "images", int(epoch)))
            indices[here] = order(places[here])
        return [self.images.batch(part) for part in np.array_split(indices, micro_batches) if len(part)]
