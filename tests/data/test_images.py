"""Images: what is read from folders and drawn, and batches that depend on (seed, step, rank) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pomona.data import ImageStream, read_images
from pomona.data.glyphs import SIGNS, draw_glyphs, fonts
from pomona.ground.errors import ConfigError, DataError


def paint(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def test_a_folder(tmp_path: Path) -> None:
    """Catches channels in the wrong place, labels that depend on the order of files, and pictures that are squeezed."""
    paint(tmp_path / "pears" / "b.png", (0, 255, 0))
    paint(tmp_path / "apples" / "a.png", (255, 0, 0), (20, 40))
    images = read_images(tmp_path, size=8)
    assert images.pixels.shape == (2, 3, 8, 8) and images.names == ("apples", "pears")
    assert images.labels is not None and images.labels.tolist() == [0, 1]
    assert images.pixels[0, :, 3, 3].tolist() == [255, 0, 0]
    assert read_images(tmp_path, size=8, channels=1).pixels.shape == (2, 1, 8, 8)
    half = np.zeros((20, 40, 3), dtype=np.uint8)
    half[:, :10] = 255
    Image.fromarray(half).save(tmp_path / "wide.png")
    alone = read_images(tmp_path, size=8, count=3)
    assert alone.labels is None and not alone.pixels[2, :, :, 1:].any()  # the middle of the wide one is black


def test_batches() -> None:
    """Catches pictures that an epoch visits twice, another order after a resume, and ranks that get the same."""
    images = read_images("env:glyphs", size=16, channels=1, count=36)
    stream = ImageStream(images, batch_size=12, seed=3)
    first = stream.batch(0)[0]
    assert first["pixel_values"].shape == (12, 1, 16, 16) and -1 <= first["pixel_values"].min() < 0
    assert float(first["pixel_values"].max()) <= 1
    assert sorted(int(each) for step in range(3) for each in stream.batch(step)[0]["classes"]) == list(range(36))
    assert stream.batch(7)[0]["classes"].equal(ImageStream(images, batch_size=12, seed=3).batch(7)[0]["classes"])
    assert not stream.batch(0)[0]["classes"].equal(stream.batch(3)[0]["classes"])
    ranks = [ImageStream(images, batch_size=12, seed=3, world_size=2).batch(0, rank)[0] for rank in (0, 1)]
    together = sorted(int(label) for part in ranks for label in part["classes"])
    assert together == sorted(first["classes"].tolist())
    later = ImageStream(images, batch_size=12, seed=3, first=24)
    assert later.batch(0)[0]["pixel_values"].equal(stream.batch(2)[0]["pixel_values"])
    parts = stream.batch(0, micro_batches=5)
    assert sum(len(part["classes"]) for part in parts) == 12 and len(parts) == 5


def test_glyphs() -> None:
    """Catches pictures that differ from call to call, an uneven choice of signs, and fonts without letters."""
    pixels, labels = draw_glyphs(72)
    assert np.array_equal(pixels[:10], draw_glyphs(10)[0]) and np.bincount(labels).tolist() == [2] * len(SIGNS)
    assert len(fonts()) > 12 and all(picture.max() > 110 and picture.mean() < 128 for picture in pixels)
    assert not np.array_equal(pixels[0], pixels[36])  # the same sign


def test_refusals(tmp_path: Path) -> None:
    """Catches a late traceback: no picture, a broken one, and sizes that do not go."""
    with pytest.raises(DataError, match="there is no picture"):
        read_images(tmp_path, size=8)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no picture") as caught:
        read_images(tmp_path, size=8)
    assert "broken.png" in str(caught.value)
    with pytest.raises(ConfigError, match="count"):
        read_images("env:glyphs", size=16)
    with pytest.raises(ConfigError, match="32 or 16 pixels"):
        read_images("env:glyphs", size=20, count=3)
    with pytest.raises(ConfigError, match="channels"):
        read_images(tmp_path, size=8, channels=4)
    with pytest.raises(ConfigError, match="1 to 4 pictures"):
        ImageStream(read_images("env:glyphs", size=16, count=4), batch_size=5)
