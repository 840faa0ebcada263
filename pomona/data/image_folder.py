"""Pictures that are divided and ready to be read: arrays of pixels, opened without being read.

facts = make_images(ImagesConfig(source="photos", size=64), folder)
ImageFolder.open(folder).side("train")             # `Images`, mapped from the file
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pomona.data.config import GLYPHS, ImagesConfig
from pomona.data.images import Images, picture_files, read_images, require_glyphs, require_picture
from pomona.data.permutation import derive_key
from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import content_hash, read_manifest

FORMAT = 1
Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = get_args(Side)


class ImageFolder:
    """A finished folder of pictures.

    Attributes:
        facts: see `make_images`.
        labels: in the order of their numbers; empty where the pictures have none.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.labels: tuple[str, ...] = tuple(facts["labels"])

    @classmethod
    def open(cls, folder: Path | str) -> ImageFolder:
        """Open a folder that `make_images` wrote. Raises `DamagedArtefact` where it is unfinished."""
        return cls(Path(folder), read_manifest(Path(folder)))

    def side(self, side: Side) -> Images:
        """The pictures of a side; their pixels are mapped. Raises `DamagedArtefact`."""
        shape = (self.facts[side], *self.facts["pictures"])
        pixels = self._array(f"{side}.npy", np.dtype(np.uint8), shape)
        if not self.labels:
            return Images(pixels)
        return Images(pixels, np.array(self._array(f"{side}-labels.npy", np.dtype(np.int64), shape[:1])), self.labels)

    def held_out(self) -> Side:
        """The side that is told in the end: the test side, or validation where there is none."""
        return "test" if self.facts["test"] else "validation"

    def _array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        file = self.folder / name
        try:
            found: NDArray[Any] = np.load(file, mmap_mode="r" if shape[0] else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedArtefact(f"{file} is damaged", found=str(error), do="make the pictures again") from error
        if found.dtype != dtype or found.shape != shape:
            raise DamagedArtefact(
                f"{file} holds other pictures", needs=f"{dtype} {shape}", found=f"{found.dtype} {found.shape}"
            )
        return found


def check_images(config: ImagesConfig) -> int:
    """How many pictures there are. Looks at the beginning of each file.

    Raises:
        ConfigError: glyphs cannot be drawn so.
        DataError: there is no picture, or a file is none (it is named).
    """
    if config.source == GLYPHS:
        require_glyphs(config.size, config.count)
        return int(config.count or 0)
    files = picture_files(config.source)[: config.count]
    for file in files:
        require_picture(file)
    return len(files)


def make_images(config: ImagesConfig, folder: Path, scratch: Path | None = None) -> dict[str, Any]:
    """Read, divide and write pictures into a folder; gives its facts.

    Pictures that are the same to the last pixel are there once. The side of one follows from its pixels and the seed
    alone: more pictures never move it.

    Args:
        scratch: a file for the pixels on their way, for more pictures than memory holds.

    Returns:
        `pictures` (channels, height, width), `labels`, how many are on each side, `copies` that were left out, `bytes`
        of pixels, and the share of the most common label in what is told in the end (None without labels).

    Raises:
        ConfigError, DataError: see `check_images`; nothing is left to train on, or a label has nothing.
    """
    images = read_images(config.source, size=config.size, channels=config.channels, count=config.count, into=scratch)
    labels = np.zeros(len(images), np.int64) if images.labels is None else images.labels
    sides, copies = _divided(images.pixels, labels, config)
    if empty := sorted(set(labels.tolist()) - set(labels[sides["train"]].tolist())):
        raise DataError(
            "a label has no picture to train on" if images.names else "there is no picture to train on",
            where=config.source,
            found=", ".join(images.names[label] for label in empty[:3]) if images.names else None,
            do="give more pictures, or set less aside",
        )
    for side, places in sides.items():
        _write(folder / f"{side}.npy", images.pixels, places)
        if images.names:
            np.save(folder / f"{side}-labels.npy", labels[places], allow_pickle=False)
    told = labels[sides["test"] or sides["validation"]].tolist()
    return {
        "pictures": list(images.pixels.shape[1:]),
        "labels": list(images.names),
        **{side: len(places) for side, places in sides.items()},
        "copies": copies,
        "bytes": sum(map(len, sides.values())) * images.pixels[0].nbytes,
        "most_common": max(Counter(told).values(), default=0) / max(1, len(told)) if images.names else None,
    }


def fingerprint(config: ImagesConfig) -> str:
    """A hash that changes when the configuration or a file does; it reads no file, only names, sizes and times."""
    found: Any = GLYPHS
    if config.source != GLYPHS:
        files = picture_files(config.source)[: config.count]
        found = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return content_hash([FORMAT, config.model_dump(mode="json"), found])


def _divided(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], config: ImagesConfig
) -> tuple[dict[Side, list[int]], int]:
    """The places of the pictures of each side, in the order of their hashes, and how many copies there were."""
    first: dict[str, int] = {}
    for place, picture in enumerate(pixels):
        first.setdefault(hashlib.sha256(picture.tobytes()).hexdigest(), place)
    sides: dict[Side, list[int]] = {side: [] for side in SIDES}
    taken: defaultdict[int, int] = defaultdict(int)
    for name in sorted(first, key=lambda each: derive_key(config.seed, "order", each)):
        share, label = derive_key(config.seed, "side", name) / 2**64, int(labels[first[name]])
        if share < config.test:
            sides["test"].append(first[name])
        elif share < config.test + config.validation:
            sides["validation"].append(first[name])
        elif config.shots is None or taken[label] < config.shots:
            taken[label] += 1
            sides["train"].append(first[name])
    return sides, len(pixels) - len(first)


def _write(file: Path, pixels: NDArray[np.uint8], places: Sequence[int]) -> None:
    """Write some of the pictures, a few at a time."""
    shape = (len(places), *pixels.shape[1:])
    if not places:
        np.save(file, np.empty(shape, np.uint8), allow_pickle=False)
        return
    written = open_memmap(file, "w+", np.uint8, shape)
    for begin in range(0, len(places), 1024):
        written[begin : begin + 1024] = pixels[list(places[begin : begin + 1024])]
    written.flush()
