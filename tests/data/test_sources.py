"""What a path stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pomona.data import SourceConfig, read_source
from pomona.data.sources import parts_of, source_files
from pomona.ground.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree."""
    for name in (
        "a.txt",
        "docs/b.md",
        "docs/c.rst",
        "src/d.py",
        "src/e.png",
        ".git/f.txt",
        "src/__pycache__/g.py",
        ".h.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


def names(folder: Path, **settings: Any) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in source_files(SourceConfig(path=str(folder), **settings))]


def test_a_folder_gives_its_readable_files_in_order(tree: Path) -> None:
    """Catches hidden folders, caches and binary files that are read as text, and an order of the file system."""
    assert names(tree) == ["a.txt", "docs/b.md", "docs/c.rst", "src/d.py"]
    assert names(tree, include=["docs/*"], exclude=["*.rst"]) == ["docs/b.md"]
    assert names(tree, include=["*.png"]) == ["src/e.png"]


def test_globs_and_single_files(tree: Path) -> None:
    """Catches patterns that are taken for names, and a named file refused for its suffix."""
    found = source_files(SourceConfig(path=f"{tree}/**/*.md"))
    assert [file.name for file in found] == ["b.md"]
    assert source_files(SourceConfig(path=str(tree / "src/e.png"))) == [tree / "src/e.png"]


def test_documents_are_whole_files(tree: Path) -> None:
    """Catches texts and names that do not belong together."""
    found = [(document.text, document.metadata["source"]) for document in read_source(SourceConfig(path=str(tree)))]
    assert found[1] == ("content of docs/b.md", str(tree / "docs/b.md"))
    assert len(found) == 4


def test_what_is_not_there_is_named(tree: Path) -> None:
    """Catches a missing file that becomes an empty corpus, and a message without a way out."""
    with pytest.raises(DataError, match=r"no such file or folder(.|\n)*did you mean 'a.txt'"):
        parts_of(SourceConfig(path=str(tree / "aa.txt")))
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist either"):
        parts_of(SourceConfig(path=str(tree / "nowhere" / "a.txt")))
    with pytest.raises(DataError, match="no file matches"):
        parts_of(SourceConfig(path=f"{tree}/*.jsonl"))
    with pytest.raises(DataError, match="holds no file to read"):
        parts_of(SourceConfig(path=str(tree), include=["*.xyz"]))


def test_parts_cover_everything_once(tmp_path: Path, write_lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches lines that are lost or read twice where a file is divided."""
    rows = [{"text": "x" * (number % 90), "n": number} for number in range(500)]
    path = write_lines(tmp_path / "lines.jsonl", rows)
    for size in (1, 7, 100, 1000, 10**9):
        monkeypatch.setattr("pomona.data.sources._PART_BYTES", size)
        if size > 1:
            source = SourceConfig(path=str(path), metadata=("n",))
            assert [int(document.metadata["n"]) for document in read_source(source)] == list(range(500))
    monkeypatch.setattr("pomona.data.sources._PART_BYTES", 100)
    assert len(parts_of(SourceConfig(path=str(path)))) > 100
