"""Corpora that need no download: documentation, code, (docstring, function) pairs, and documentation with facts planted
in it, of the installed environment.

The files are those that the installed distributions list as theirs, and the standard library's, so that the result
depends on the installed versions alone, not on caches or on what else lies in the folders. Test folders and licence
texts are left out, and so is pomona itself, whose edits must not change its own training text.
"""

from __future__ import annotations

import csv
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pomona.data.config import SourceConfig
from pomona.data.docstrings import docstring_documents, function_pairs
from pomona.data.documents import Document
from pomona.data.facts import plant

STANDARD_LIBRARY = "python"
_SELF = "pomona"

_PROSE = frozenset({".md", ".rst", ".txt"})
_CODE = frozenset({".py"})
_LEFT_OUT_FOLDERS = frozenset(
    {"test", "tests", "testing", "_test", "_tests", "idle_test", "lib2to3",
     "__pycache__", "site-packages", "dist-packages", "licenses", "license", "ensurepip", "pydoc_data"}
)  # fmt: skip
_LEFT_OUT_STEMS = re.compile(
    r"(licen[cs]e|copying|copyright|notice|authors|contributors|entry_points|top_level|sources|requirements|"
    r"cmakelists|vendor|namespace_packages|dependency_links|record|wheel|installer)",
    re.IGNORECASE,
)
_TEST_FILE = re.compile(r"(test_.*|.*_tests?|conftest|setup)\.py")


class EnvironmentFile(NamedTuple):
    """A file of an installed distribution: its distribution, its path there and on disk, its size."""

    package: str
    name: str
    path: str
    size: int


def environment_facts() -> list[str]:
    """The Python version and every installed distribution with its version: what the corpora depend on."""
    found = [f"{each.metadata['Name']}=={each.version}" for each in _distributions()]
    return [f"python=={sys.version.split()[0]}", *found]


def environment_files(source: SourceConfig) -> list[EnvironmentFile]:
    """The files that a corpus of the environment is made of, sorted by package and name."""
    from pomona.data.sources import included

    suffixes = _CODE | _PROSE if source.path == "env:docs" else _CODE
    listed = [*_standard_library(), *(file for each in _distributions() for file in _distribution_files(each))]
    files = []
    for package, name, path in listed:
        if not is_wanted(name, suffixes) or not included(source, name):
            continue
        try:
            files.append(EnvironmentFile(package, name, path, os.stat(path).st_size))  # noqa: PTH116 (many files)
        except OSError:
            continue  # listed, but not installed here
    return files


def is_wanted(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a file may hold documentation (or code): right suffix, no test, no licence, no packaging record."""
    path = PurePosixPath(name)
    if any(part.lower() in _LEFT_OUT_FOLDERS for part in path.parts[:-1]) or path.parts[0] in ("..", "/"):
        return False
    if path.name == "METADATA":
        return ".md" in suffixes
    if path.suffix not in suffixes or path.parts[0].endswith((".dist-info", ".egg-info")):
        return False
    if path.suffix in _CODE:
        return not _TEST_FILE.fullmatch(path.name)
    return not _LEFT_OUT_STEMS.match(path.stem)


def _distributions() -> list[metadata.Distribution]:
    """The distributions of this environment except pomona, by name; of two copies, the one Python imports."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=[folder for folder in folders if folder in sys.path]):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name != _SELF:
            found.setdefault(name, distribution)
    return [found[name] for name in sorted(found)]


def _distribution_files(distribution: metadata.Distribution) -> Iterator[tuple[str, str, str]]:
    package = distribution.metadata["Name"]
    root = str(distribution.locate_file(""))
    record = distribution.read_text("RECORD")  # ten times faster than `distribution.files`, which parses hashes too
    listed = (row[0] for row in csv.reader(record.splitlines())) if record else map(str, distribution.files or ())
    for name in sorted(listed):
        yield package, name, f"{root}/{name}"


def _standard_library() -> Iterator[tuple[str, str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = sorted(
            name for name in folders if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-")
        )
        for file in sorted(files):
            if file.endswith(".py"):
                name = (inside / file).as_posix()
                yield STANDARD_LIBRARY, name, f"{root}/{name}"


def read_environment(files: Sequence[Sequence[str | int]], kind: str) -> Iterator[Document]:
    """The documents of some `EnvironmentFile`s. Files that are not UTF-8 or not Python 3 are passed over."""
    for package, name, path, _ in files:
        try:
            text = Path(str(path)).read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
        module = module_name(str(name))
        known = {"source": kind, "package": str(package), "module": module}
        suffix = PurePosixPath(str(name)).suffix
        if suffix not in _CODE:
            text = description(text) if str(name).endswith("METADATA") else text
            if is_prose(text):
                yield Document(text, {**known, "module": str(name), "kind": "page"})
        elif kind == "env:code":
            yield Document(text, {**known, "kind": "code"})
        elif kind == "env:pairs":
            for pair in function_pairs(text, module):
                yield Document(pair.text, {**known, **pair.metadata})
        elif kind == "env:facts":
            for document in docstring_documents(text, module):
                yield from (Document(piece, {**known, **document.metadata}) for piece in plant(document.text))
        else:
            for document in docstring_documents(text, module):
                yield Document(document.text, {**known, **document.metadata})


def module_name(name: str) -> str:
    """`numpy/linalg/__init__.py` is `numpy.linalg`."""
    parts = list(PurePosixPath(name).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def description(text: str) -> str:
    """The long description in a METADATA file: what follows its headers."""
    return text.replace("\r\n", "\n").partition("\n\n")[2]


def is_prose(text: str) -> bool:
    """Most characters are letters or spaces, and there are words: tables of numbers and word lists are not prose."""
    if len(text) < 200:
        return False
    letters = sum(map(str.isalpha, text)) + text.count(" ")
    return letters > 0.7 * len(text) and text.count(" ") > 2 * text.count("\n")
