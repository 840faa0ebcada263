"""From a source's path to parts that can be read independently, and to a fingerprint that changes with the source."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pomona.data.config import CorpusConfig, SourceConfig
from pomona.ground.errors import DataError, did_you_mean
from pomona.ground.files import content_hash

FORMAT = 2  # raised when the same sources would give other documents

PROSE = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"})
CODE = frozenset({
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".java", ".kt", ".scala", ".go",
    ".rs", ".js", ".jsx", ".mjs", ".ts", ".tsx", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".swift", ".m",
    ".mm", ".cs", ".fs", ".hs", ".ml", ".ex", ".exs", ".erl", ".clj", ".lisp", ".el", ".sh", ".bash", ".zsh",
    ".ps1", ".sql", ".toml", ".yaml", ".yml", ".cmake",
})  # fmt: skip
LINES = frozenset({".jsonl", ".ndjson"})

_PART_BYTES = 1 << 22
_HUB_ROWS = 20_000
_LEFT_OUT = frozenset({"__pycache__", "node_modules"})

Part = dict[str, Any]


def parts_of(source: SourceConfig) -> list[Part]:
    """What has to be read, as JSON-able parts of a few megabytes, in a fixed order.

    Raises:
        DataError: nothing is there to be read.
    """
    if source.path.startswith("env:"):
        from pomona.data.embedded import environment_files

        files = environment_files(source)
        sized = [(list(file), file.size) for file in files]
        parts = [{"reader": "environment", "files": group} for group in _grouped(sized)]
    elif source.path.startswith("hub:"):
        from pomona.data.readers import load_hub

        rows = len(load_hub(source))
        parts = [
            {"reader": "hub", "rows": [first, min(first + _HUB_ROWS, rows)]} for first in range(0, rows, _HUB_ROWS)
        ]
    else:
        parts = list(_file_parts(source))
    if not parts:
        raise DataError("the source is empty", where=source.path, do="check the path, `include` and `exclude`")
    return parts


def fingerprint(config: CorpusConfig) -> str:
    """A hash that changes when the configuration or a source does; it reads no file, only names, sizes and times."""
    return content_hash([FORMAT, config.model_dump(mode="json"), [_facts(source) for source in config.sources]])


def _facts(source: SourceConfig) -> Any:
    if source.path.startswith("env:"):
        from pomona.data.embedded import environment_facts

        return environment_facts()
    if source.path.startswith("hub:"):
        folder = Path(source.path.removeprefix("hub:")).expanduser()
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    else:
        files = source_files(source)
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def source_files(source: SourceConfig) -> list[Path]:
    """The files of a path, folder or glob, sorted by name, after `include` and `exclude`."""
    path = Path(source.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in _walk(path) if included(source, file.relative_to(path).as_posix())]
        if not source.include:
            found = [file for file in found if kind_of(file) != "other"]
        wanted = ", ".join(source.include) or "text, source code, JSONL or parquet"
        if not found:
            raise DataError("the folder holds no file to read", where=str(path), needs=wanted, found="none")
        return found
    if glob.has_magic(source.path):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (absolute and relative patterns alike)
        found = [Path(name) for name in names if Path(name).is_file() and included(source, name)]
        if not found:
            raise DataError("no file matches", where=source.path, do="check the pattern, `include` and `exclude`")
        return found
    parent = path.parent
    names = [each.name for each in parent.iterdir()] if parent.is_dir() else []
    remedy = did_you_mean(path.name, names) if 0 < len(names) <= 50 else "check the path"
    missing = "" if parent.is_dir() else f"; the folder {parent} does not exist either"
    raise DataError("there is no such file or folder", where=source.path, found=f"nothing{missing}", do=remedy)


def included(source: SourceConfig, name: str) -> bool:
    """Whether the globs let a relative path through."""
    wanted = not source.include or any(fnmatchcase(name, pattern) for pattern in source.include)
    return wanted and not any(fnmatchcase(name, pattern) for pattern in source.exclude)


def kind_of(file: Path) -> str:
    """How a file is read: `text`, `lines` (JSONL), `parquet`, or `other` (unknown: as text, when it is named)."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        suffix = Path(file.stem).suffix.lower()
    if suffix in LINES:
        return "lines"
    if suffix == ".parquet":
        return "parquet"
    return "text" if suffix in PROSE | CODE else "other"


def _walk(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _file_parts(source: SourceConfig) -> Iterator[Part]:
    texts: list[tuple[str, int]] = []
    for file in source_files(source):
        kind, size = kind_of(file), file.stat().st_size
        if kind not in ("lines", "parquet"):
            texts.append((str(file), size))
            continue
        yield from ({"reader": "text", "files": group} for group in _grouped(texts))
        texts = []
        if kind == "parquet":
            from pomona.data.readers import parquet_groups

            sized = list(enumerate(parquet_groups(file)))
            yield from ({"reader": "parquet", "file": str(file), "groups": group} for group in _grouped(sized))
        elif file.suffix == ".gz":
            yield {"reader": "lines", "file": str(file), "span": None}
        else:
            for first in range(0, size, _PART_BYTES):
                yield {"reader": "lines", "file": str(file), "span": [first, first + _PART_BYTES]}
    yield from ({"reader": "text", "files": group} for group in _grouped(texts))


def _grouped(sized: list[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Consecutive items of together at least a part's size."""
    group: list[Any] = []
    total = 0
    for item, size in sized:
        group.append(item)
        total += size
        if total >= _PART_BYTES:
            yield group
            group, total = [], 0
    if group:
        yield group
