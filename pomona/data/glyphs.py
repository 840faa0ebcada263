"""Pictures of letters and digits that need no download: the glyphs of the fonts that come with matplotlib.

Every picture has a place, a size, a turn and a noise of its own, drawn from its number alone.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIGNS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FAMILIES = frozenset({"DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "cmr10", "cmb10", "cmss10", "cmtt10"})
"""Fonts, by the first part of their file names, that have all signs in their usual form."""
EDGE = 32
"""Pixels of an edge."""


def fonts() -> list[Path]:
    """Font files, sorted by name."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [file for file in sorted(folder.glob("*.ttf")) if file.stem.partition("-")[0] in FAMILIES]


def draw_glyphs(count: int, signs: str = SIGNS) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(pictures (count, 1, EDGE, EDGE), places of their signs in `signs` (count,)); the same ones at every call.

    Every sign comes equally often; the first pictures are the same for every `count`.
    """
    from PIL import Image, ImageDraw, ImageFont

    sizes, files = (18, 22, 26), fonts()
    made = {(file, size): ImageFont.truetype(str(file), size) for file in files for size in sizes}
    pictures = np.empty((count, 1, EDGE, EDGE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % len(signs)
    for number in range(count):
        choice = random.Random(number)
        canvas = Image.new("L", (EDGE, EDGE), 0)
        font = made[choice.choice(files), choice.choice(sizes)]
        middle = (EDGE / 2 + choice.uniform(-3, 3), EDGE / 2 + choice.uniform(-3, 3))
        ImageDraw.Draw(canvas).text(middle, signs[labels[number]], fill=255, font=font, anchor="mm")
        turned = canvas.rotate(choice.uniform(-12, 12), resample=Image.Resampling.BILINEAR)
        noise = np.random.default_rng(number).normal(0, 20, (EDGE, EDGE))
        pictures[number, 0] = np.clip(np.asarray(turned, dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    return pictures, labels
