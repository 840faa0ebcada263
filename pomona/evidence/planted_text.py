"""Text without worth: what selectors are measured on, beside documentation and code.

Every file is drawn from a seed and named by what it holds; it is written where it is not there yet.
"""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Literal

from pomona.ground.files import write_text

FOLDER = Path("runs/evidence/planted-text")
LINES = (
    "# " + "-" * 68,
    "#" * 70,
    "=" * 70,
    "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "All rights reserved. Redistribution and use in source and binary forms are",
    "THE SOFTWARE IS PROVIDED AS IS, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR",
    "| --- | --- | --- | --- | --- | --- |",
    "Back to top",
    "Click here to subscribe to our newsletter",
    "Home > Products > Support > Contact",
)
"""What is repeated."""

Junk = Literal["repetitive", "random"]


def place_of(kind: Junk, kilobytes: int, seed: int = 0) -> Path:
    """The folder in which `plant` writes."""
    return FOLDER / f"{kind}-{kilobytes}k-{seed}"


def plant(kind: Junk, kilobytes: int, seed: int = 0) -> None:
    """Write documents of 512 bytes: the same few lines again and again, or random characters."""
    folder, draw = place_of(kind, kilobytes, seed), random.Random(f"{kind}/{seed}")
    for number in range(2 * kilobytes):
        file, text = folder / f"{number:05d}.txt", _document(kind, draw)
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(file, text)


def _document(kind: Junk, draw: random.Random) -> str:
    if kind == "random":
        characters = string.ascii_letters + string.digits + string.punctuation + " "
        return "\n".join("".join(draw.choices(characters, k=63)) for _ in range(8))
    chosen = draw.sample(LINES, 2)
    return "\n".join(draw.choice(chosen) for _ in range(8))


def looks(text: str) -> Literal["repetitive", "random", "text"]:
    """Which kind a piece of text is, with its beginning and end cut off anywhere."""
    lines = [line for line in text.split("\n") if line]
    known = sum(any(line in whole for whole in LINES) for line in lines)
    if known > len(lines) / 2:
        return "repetitive"
    plain = sum(character in string.ascii_letters + " \n" for character in text)
    spaced = sum(character in " \n" for character in text)
    return "random" if plain < 0.68 * len(text) and spaced < 0.06 * len(text) else "text"
