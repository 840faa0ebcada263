"""The latest commit of a clone, read from the files of Git. The program is not started: a repository can tell it what
to run."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def latest_commit(repository: Path) -> str | None:
    """The commit that a clone is at; None where there is none."""
    folder = _git_folder(repository)
    head = _read(folder / "HEAD") if folder else None
    if folder is None or head is None:
        return None
    if not head.startswith("ref: "):
        return head if SHA.fullmatch(head) else None
    name = head.removeprefix("ref: ").strip()
    if not re.fullmatch(r"refs/[\w./-]+", name) or ".." in name:
        return None
    found = _read(folder / name)
    if found is None:
        packed = _read(folder / "packed-refs") or ""
        match = re.search(rf"(?m)^([0-9a-f]+) {re.escape(name)}$", packed)
        found = match[1] if match else None
    return found if found and SHA.fullmatch(found) else None


def is_signed(repository: Path, sha: str) -> bool | None:
    """Whether a commit carries a signature; None where it lies in a pack, which is not read."""
    folder = _git_folder(repository)
    file = folder / "objects" / sha[:2] / sha[2:] if folder else None
    if file is None or not file.is_file():
        return None
    try:
        header, _, _ = zlib.decompressobj().decompress(file.read_bytes(), 1 << 20).partition(b"\n\n")
    except zlib.error:
        return None
    return b"\ngpgsig" in header


def origin(repository: Path) -> str | None:
    """Where a clone came from: the address of its remote `origin`, without anything secret in it."""
    folder = _git_folder(repository)
    text = _read(folder / "config") if folder else None
    match = re.search(r'(?s)\[remote "origin"\](?:(?!\n\[).)*?\n\s*url\s*=\s*(\S+)', text or "")
    return re.sub(r"//[^/@]*@", "//", match[1]).removesuffix(".git") if match else None


def _git_folder(repository: Path) -> Path | None:
    folder = repository / ".git"
    return folder if folder.is_dir() else None


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None
