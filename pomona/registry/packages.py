"""Where packages lie: folders in Hugging Face's form, the cache of the hub, clones, pomona's runs, torch's hub, single
files of weights, wheels. Each is found once, whatever leads to it; what has no weights is no package."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import MANIFEST, read_json
from pomona.registry import commits
from pomona.registry.contents import HIDDEN, Contents, Folder, Single, Wheel
from pomona.registry.readme import HUB
from pomona.registry.weights import is_weight_file

HUGGING_FACE = ("Hugging Face", HUB)
PYPI = ("PyPI", "https://pypi.org")
TORCH_HUB = ("PyTorch Hub", "https://pytorch.org/hub")
MODELS = ("model", "export")
"""What pomona's stages make that are models."""


@dataclass(frozen=True)
class Found:
    """A package: what it is, where it lies, and what its place says about it.

    Attributes:
        kind: folder, cache, clone, pomona, torch-hub, onnx, file or wheel.
        path: its folder or file.
        contents: its files.
        hub: name and address of where it is from.
        name, owner: without an owner the hub is named in its place.
        url, owner_url: addresses. sha: of the version at hand, where that is known.
        facts: what pomona wrote down when it made the model; of a wheel, its licence.
    """

    kind: str
    path: Path
    contents: Contents
    hub: tuple[str, str]
    name: str
    owner: str | None
    url: str
    owner_url: str | None = None
    sha: str | None = None
    signed: bool | None = None
    facts: dict[str, Any] | None = None


def find_packages(roots: Iterable[Path]) -> list[Found]:
    """Every package below the roots, in order of their places.

    Raises:
        DataError: a root is not there.
    """
    found: dict[Path, Found] = {}
    for root in roots:
        if not root.exists():
            raise DataError(f"{root} is not there", do="name folders or files that hold models")
        for package in _below(root.resolve()):
            found.setdefault(package.path, package)
    return [found[path] for path in sorted(found)]


def _below(root: Path) -> Iterator[Found]:
    if root.is_file():
        yield from _files(root.parent, [root.name], root.parent)
        return
    for at, folders, files in os.walk(root):
        path = Path(at)
        whole = _folder(path, root, folders, files)
        if whole is None:
            folders[:] = sorted(name for name in folders if name not in HIDDEN and not name.endswith(".part"))
            yield from _files(path, sorted(files), root)
        else:
            folders.clear()
            yield from whole


def _folder(path: Path, root: Path, folders: list[str], files: list[str]) -> list[Found] | None:
    """The packages that a folder is (none, or one), or None where it is worth looking into it."""
    if path.name.startswith("models--") and "snapshots" in folders:
        return list(_cached(path))
    if MANIFEST in files:
        return list(_made_by_pomona(path, root))
    contents = Folder(path)
    if "hubconf.py" in files:
        return [_torch_hub(path, contents)]
    described = "config.json" in files or "adapter_config.json" in files
    if described and any(map(is_weight_file, contents.sizes)):
        return [_clone(path, contents, root) if ".git" in folders else _plain("folder", path, contents, root)]
    return None


def _files(path: Path, files: list[str], root: Path) -> Iterator[Found]:
    """Packages that are single files."""
    for name in files:
        file = path / name
        if name.endswith(".whl"):
            yield from _wheel(file)
        elif is_weight_file(name) and path.name == "checkpoints" and path.parent.name == "hub":
            yield Found("torch-hub", file, Single(file), TORCH_HUB, file.stem, None, file.as_uri())
        elif is_weight_file(name):
            yield _plain("onnx" if name.endswith(".onnx") else "file", file, Single(file), root)


def _plain(kind: str, path: Path, contents: Contents, root: Path) -> Found:
    name = path.name if path.is_dir() else path.stem
    return Found(kind, path, contents, ("local files", root.as_uri()), name, None, path.as_uri())


def _cached(path: Path) -> Iterator[Found]:
    """What the cache of the hub holds of one repository: the version that `main` means, else the only one."""
    owner, _, name = path.name.removeprefix("models--").rpartition("--")
    if "--" in owner:  # names may hold dashes, owners do not hold two of them
        owner, _, name = path.name.removeprefix("models--").partition("--")
    main = path / "refs/main"
    versions = sorted(each.name for each in (path / "snapshots").iterdir() if each.is_dir())
    sha = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    if sha not in versions:
        sha = versions[0] if len(versions) == 1 else ""
    if not sha:
        return
    contents = Folder(path / "snapshots" / sha)
    if any(map(is_weight_file, contents.sizes)):
        full = f"{owner}/{name}" if owner else name
        owner_url = f"{HUB}/{owner}" if owner else None
        yield Found("cache", path, contents, HUGGING_FACE, name, owner or None, f"{HUB}/{full}", owner_url, sha)


def _clone(path: Path, contents: Contents, root: Path) -> Found:
    sha, address = commits.latest_commit(path), commits.origin(path)
    signed = commits.is_signed(path, sha) if sha else None
    match = re.fullmatch(r"https?://([^/]+)/(.+)/([^/]+)", address or "")
    if match is None:
        hub = ("local files", root.as_uri())
        return Found("clone", path, contents, hub, path.name, None, path.as_uri(), None, sha, signed)
    host, owner, name = match.groups()
    hub = HUGGING_FACE if host == "huggingface.co" else (host, f"https://{host}")
    return Found(
        "clone",
        path,
        contents,
        hub,
        name,
        owner,
        f"https://{host}/{owner}/{name}",
        f"https://{host}/{owner}",
        sha,
        signed,
    )


def _made_by_pomona(path: Path, root: Path) -> Iterator[Found]:
    try:
        facts = read_json(path / MANIFEST)["facts"]
        kind = facts["stage"]["kind"]
    except (DamagedArtefact, KeyError, TypeError):
        facts, kind = None, "unknown"
    contents = Folder(path)
    if kind in MODELS and any(map(is_weight_file, contents.sizes)):
        hub = ("pomona", root.as_uri())
        run = path.parent
        yield Found("pomona", path, contents, hub, path.name, run.name, path.as_uri(), run.as_uri(), facts=facts)
    elif facts is None and any(map(is_weight_file, contents.sizes)):
        yield _plain("folder", path, contents, root)


def _torch_hub(path: Path, contents: Contents) -> Found:
    """A repository in torch's hub, whose cache calls it owner_name_branch."""
    sha = commits.latest_commit(path)
    match = re.fullmatch(r"([^_]+)_(.+)_[^_]+", path.name)
    if match is None:
        return Found("torch-hub", path, contents, TORCH_HUB, path.name, None, path.as_uri(), None, sha)
    owner, name = match.groups()
    github = f"https://github.com/{owner}"
    return Found("torch-hub", path, contents, TORCH_HUB, name, owner, f"{github}/{name}", github, sha)


def _wheel(file: Path) -> Iterator[Found]:
    """The model in a wheel: the part of it that lies around the first weights."""
    if not zipfile.is_zipfile(file):
        return
    whole = Wheel(file)
    weights = [name for name in whole.sizes if is_weight_file(name)]
    described = next((name for name in whole.sizes if name.endswith(".dist-info/METADATA")), None)
    if not weights or described is None:
        return
    with whole.open(described) as stream:
        metadata = HeaderParser().parsestr(stream.read().decode("utf-8", errors="replace"))
    name, version = metadata.get("Name", file.stem), metadata.get("Version", "")
    below = _around(weights[0], set(whole.sizes))
    licence = metadata.get("License-Expression") or metadata.get("License")
    url = f"{PYPI[1]}/project/{name}/{version}".rstrip("/")
    facts = {"licence": licence} if licence else {}
    yield Found("wheel", file, Wheel(file, below), PYPI, name, None, url, facts=facts)


def _around(name: str, every: set[str]) -> str:
    """The nearest folder above a file that holds a configuration; the file's own where none does."""
    folder = own = name.rpartition("/")[0]
    while folder:
        if f"{folder}/config.json" in every:
            return f"{folder}/"
        folder = folder.rpartition("/")[0]
    return f"{own}/" if own else ""
