"""The files of a package, read in one way wherever they lie: in a folder, as one file, or inside a wheel.

Nothing is unpacked to disk, imported or executed, and links are followed only to files (the cache of the hub is made of
them), never out into other folders.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

LARGEST_TEXT = 16 << 20
"""Bytes of the longest text that is read."""
HIDDEN = (".git", ".cache", "__pycache__")


class Contents(Protocol):
    """What a package holds. `path`: the folder or file that it lies in."""

    path: Path

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path below the package, in order of names."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file, seekable."""


class Folder:
    """The files below a folder, those of version control and caches left out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        found = {}
        for at, folders, files in os.walk(self.path):
            folders[:] = sorted(name for name in folders if name not in HIDDEN)
            for name in files:
                file = Path(at, name)
                if file.is_file():
                    found[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return dict(sorted(found.items()))

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return (self.path / name).open("rb")


class Single:
    """A package that is one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def sizes(self) -> Mapping[str, int]:
        return {self.path.name: self.path.stat().st_size}

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return self.path.open("rb")


class Wheel:
    """The files in a wheel (or any zip), read where they are."""

    def __init__(self, path: Path, below: str = "") -> None:
        self.path, self.below = path, below

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        with zipfile.ZipFile(self.path) as archive:
            entries = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        inside = {name: size for name, size in entries.items() if name.startswith(self.below)}
        return {name.removeprefix(self.below): inside[name] for name in sorted(inside)}

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.below + name) as file:
            yield file


def read_text(contents: Contents, name: str) -> str | None:
    """A text file; None where there is none. What is not UTF-8 is replaced, what is too long is cut."""
    if name not in contents.sizes:
        return None
    with contents.open(name) as file:
        return file.read(LARGEST_TEXT).decode("utf-8", errors="replace")


def sha256_of(contents: Contents, name: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with contents.open(name) as file:
        for piece in pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def pieces(file: IO[bytes], size: int | None = None) -> Iterator[bytes]:
    """The next `size` bytes of a file (all that follow where it is None), a megabyte at a time."""
    left = size
    while left is None or left > 0:
        piece = file.read(1 << 20 if left is None else min(1 << 20, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


@contextmanager
def as_zip(contents: Contents, name: str) -> Iterator[zipfile.ZipFile | None]:
    """A file as a zip; None where it is not one."""
    with contents.open(name) as file:
        if not zipfile.is_zipfile(file):
            yield None
            return
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            yield archive
