"""Pictures in a folder of arrays: how they are divided, found again, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pomona.data import ImageBatches, ImageFolder, ImagesConfig, make_images, read_images
from pomona.data.image_folder import SIDES, check_images, fingerprint
from pomona.ground.errors import ConfigError, DamagedArtefact, DataError
from pomona.ground.files import write_manifest


def orchard(folder: Path, count: int, labels: tuple[str, ...] = ("apples", "pears")) -> Path:
    """Pictures of noise in sub-folders."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 9, 3), dtype=np.uint8)
        file = folder / labels[number % len(labels)] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def made(config: ImagesConfig, folder: Path) -> ImageFolder:
    folder.mkdir()
    write_manifest(folder, make_images(config, folder, folder.parent / "scratch.npy"))
    return ImageFolder.open(folder)


def seen(pictures: ImageFolder, side: str) -> set[bytes]:
    return {picture.tobytes() for picture in pictures.side(side).pixels}  # type: ignore[arg-type]


def test_sides(tmp_path: Path) -> None:
    """Catches a picture on two sides, copies that are kept, labels of other pictures, and pictures that change sides
    when there are more of them or fewer are learnt from."""
    source = orchard(tmp_path / "orchard", 60)
    (source / "pears" / "copy.png").write_bytes((source / "apples" / "0.png").read_bytes())
    config = ImagesConfig(source=str(source), size=8, validation=0.2, test=0.3)
    whole = made(config, tmp_path / "whole")
    facts = whole.facts
    assert facts["copies"] == 1 and sum(facts[side] for side in SIDES) == 60 and facts["pictures"] == [3, 8, 8]
    assert facts["bytes"] == 60 * 3 * 64 and whole.labels == ("apples", "pears") and whole.held_out() == "test"
    assert len(set.union(*(seen(whole, side) for side in SIDES))) == 60
    train = whole.side("train")
    assert isinstance(train.pixels, np.memmap) and train.labels is not None
    for number in (0, 5):
        alone = read_images(source / whole.labels[train.labels[number]], size=8)
        assert any(np.array_equal(train.pixels[number], each) for each in alone.pixels)
    few = made(config.model_copy(update={"shots": 5}), tmp_path / "few")
    labels = few.side("train").labels
    assert labels is not None and np.bincount(labels).tolist() == [5, 5]
    assert seen(few, "train") < seen(whole, "train") and seen(few, "test") == seen(whole, "test")
    orchard(source, 90)
    more = made(config, tmp_path / "more")
    assert all(seen(whole, side) < seen(more, side) for side in SIDES)
    other = made(config.model_copy(update={"seed": 1}), tmp_path / "other")
    assert seen(other, "test") != seen(more, "test")


def test_batches_in_order(tmp_path: Path) -> None:
    """Catches a held-out picture that is scored twice or not at all."""
    pictures = made(ImagesConfig(source="env:glyphs", size=16, channels=1, count=180), tmp_path / "glyphs").side("test")
    batches = ImageBatches(pictures, batch_size=4)
    labels = [int(label) for batch in batches for label in batch["classes"]]
    assert pictures.labels is not None and labels == pictures.labels.tolist()
    limited = ImageBatches(pictures, batch_size=4, limit=6)
    assert [len(batch["classes"]) for batch in limited] == [4, 2] and len(limited[-1]["classes"]) == 2
    assert len(limited[:1]) == 1


def test_fingerprint(tmp_path: Path) -> None:
    """Catches a folder that has changed and is not read again."""
    source = orchard(tmp_path / "orchard", 4)
    config = ImagesConfig(source=str(source), size=8)
    before = fingerprint(config)
    assert before == fingerprint(config) != fingerprint(config.model_copy(update={"size": 4}))
    orchard(source, 5)
    assert fingerprint(config) != before


def test_refusals(tmp_path: Path) -> None:
    """Catches a late or nameless error about a picture, nothing left to train on, and a file of other arrays."""
    source = orchard(tmp_path / "orchard", 6)
    config = ImagesConfig(source=str(source), size=8, validation=0.0, test=0.9)
    with pytest.raises(DataError, match="no picture to train on"):
        made(config, tmp_path / "none")
    (source / "apples" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"(?s)is no picture.*broken\.png"):
        check_images(config)
    with pytest.raises(DataError, match="there is no picture"):
        check_images(ImagesConfig(source=str(tmp_path / "absent"), size=8))
    with pytest.raises(ConfigError, match="count"):
        check_images(ImagesConfig(source="env:glyphs", size=32))
    with pytest.raises(ValueError, match="leave nothing"):
        ImagesConfig(source="x", size=8, validation=0.5, test=0.5)
    with pytest.raises(ValueError, match="env:glyphs"):
        ImagesConfig(source="env:glyph", size=8)
    glyphs = made(ImagesConfig(source="env:glyphs", size=16, count=180), tmp_path / "glyphs")
    np.save(glyphs.folder / "train.npy", np.zeros(3))
    with pytest.raises(DamagedArtefact, match="holds other pictures"):
        glyphs.side("train")
    (glyphs.folder / "train.npy").write_bytes(b"\x80\x04")
    with pytest.raises(DamagedArtefact, match="is damaged"):
        glyphs.side("train")
