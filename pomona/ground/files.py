"""Files that are never half written: atomic replacement, manifests with checksums, locks and content hashes."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pomona.ground.errors import DamagedArtefact, FolderBusy, StorageError

MANIFEST = "MANIFEST.json"
LOCK = ".lock"
"""Holds the name of the process that works in a folder, and the kernel's lock."""


def content_hash(value: Any) -> str:
    """SHA-256 (first 16 hexadecimal digits) of the canonical JSON of `value`: the same values, the same name."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "free space on that disk and repeat the command: what was finished is kept",
            errno.EFBIG: "raise the file-size limit (ulimit -f) and repeat the command",
            errno.EDQUOT: "free space within the quota and repeat the command",
            errno.EACCES: "choose a folder you may write to, or change its permissions",
            errno.EPERM: "choose a folder you may write to, or change its permissions",
            errno.EROFS: "choose a folder on a writable disk",
            errno.ENOTDIR: "choose another folder: a file is in the way",
        }
        if error.errno not in remedies:
            raise
        raise StorageError(
            f"could not write {path}", found=error.strerror or str(error), do=remedies[error.errno]
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; it replaces `path` only when the block succeeds."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            _sync(part)
            part.chmod(0o644)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that pomona wrote; a damaged one is a `DamagedArtefact`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedArtefact(f"{path} is damaged", found=str(error), do="remove it and repeat the command") from error


@contextmanager
def atomic_folder(path: Path, facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path`, with a manifest, only when the block succeeds.

    Args:
        path: the final folder. If it exists already it is replaced in the same instant.
        facts: kept in the manifest beside every file's size and SHA-256.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        part.chmod(0o755)
        try:
            yield part
            write_manifest(part, facts)
            for file in part.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                old = part.with_suffix(".old")
                path.rename(old)
                part.rename(path)
                shutil.rmtree(old)
            else:
                part.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_manifest(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """List every file below `folder` with its size and SHA-256."""
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_hash(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"format": 1, "files": files, "facts": dict(facts or {})})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The `facts` of a finished folder. Raises `DamagedArtefact` when there is no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedArtefact(f"{folder} is not a finished pomona folder", needs=f"a file {MANIFEST}", found="none")
    facts: dict[str, Any] = read_json(path)["facts"]
    return facts


def damage(folder: Path) -> list[str]:
    """What is wrong with a finished folder, one line per file; empty when every checksum holds."""
    if not (folder / MANIFEST).is_file():
        return [f"{MANIFEST} is missing"]
    try:
        files = read_json(folder / MANIFEST)["files"]
    except (DamagedArtefact, KeyError, TypeError):
        return [f"{MANIFEST} is damaged"]
    lines = []
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            lines.append(f"{name} is missing")
        elif file.stat().st_size != expected["bytes"]:
            lines.append(f"{name} has {file.stat().st_size} bytes, not {expected['bytes']}")
        elif file_hash(file) != expected["sha256"]:
            lines.append(f"{name} differs from its checksum")
    return lines


def is_intact(folder: Path) -> bool:
    """True when the folder is finished and every file matches its checksum."""
    return folder.is_dir() and not damage(folder)


def require_intact(folder: Path) -> None:
    """Raise `DamagedArtefact` naming each damaged file of a finished folder."""
    wrong = damage(folder)
    if wrong:
        raise DamagedArtefact(f"{folder} is damaged", found="; ".join(wrong), do="remove the folder and repeat")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line; none where it is absent, and no incomplete last line."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second one is refused with the owner's host, pid and age.

    The lock is the kernel's, so it is gone when its owner is, however it died.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "an unknown process"
            raise FolderBusy(
                f"{folder} is in use", found=owner, do="wait for that process, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield


def clear_partial(folder: Path, name: str | None = None) -> None:
    """Remove what a killed process left half written in `folder`. Call it while holding the lock.

    Args:
        name: only what was to become the file or folder of this name.
    """
    prefix = ".*" if name is None else f".{glob.escape(name)}.*"
    for leftover in folder.glob(f"{prefix}.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    for leftover in folder.glob(f"{prefix}.old"):
        shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
