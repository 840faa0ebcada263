"""Reading files and datasets, and naming the line that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pomona.data import SourceConfig, read_source
from pomona.data.readers import Reading, read_part
from pomona.data.sources import parts_of
from pomona.ground.errors import DataError


def texts(path: Path | str, **settings: Any) -> list[str]:
    return [document.text for document in read_source(SourceConfig(path=str(path), **settings))]


@pytest.mark.parametrize("part_bytes", [40, 1 << 22])
@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b'{"text": "a\xff"}', "not valid UTF-8(.|\n)*byte 0xff at column 12"),
        (b'{"text": "a"', "not valid JSON(.|\n)*column 13"),
        (b'["text"]', "not a JSON object(.|\n)*a JSON list"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(
    tmp_path: Path, write_lines: Any, monkeypatch: pytest.MonkeyPatch, bad: bytes, what: str, part_bytes: int
) -> None:
    """Catches line numbers that count from the part instead of the file, and bad lines that are lost in silence."""
    monkeypatch.setattr("pomona.data.sources._PART_BYTES", part_bytes)
    rows: list[object] = [{"text": f"line {number} é"} for number in range(1, 21)]
    rows[2] = b""
    rows[12] = bad
    path = write_lines(tmp_path / "lines.jsonl", rows)
    with pytest.raises(DataError, match=f"{what}(.|\n)*on_bad_lines: skip") as caught:
        texts(path)
    assert caught.value.where == f"{path}:13"
    source = SourceConfig(path=str(path), on_bad_lines="skip")
    reading = Reading(source)
    found = [document.text for part in parts_of(source) for document in read_part(part, reading)]
    assert found == [f"line {number} é" for number in range(1, 21) if number not in (3, 13)]
    assert reading.bad_lines == 1 and reading.examples[0].startswith(f"{path}:13: ")


def test_a_missing_field_is_answered_with_those_found(tmp_path: Path, write_lines: Any) -> None:
    """Catches a KeyError, or documents without text."""
    path = write_lines(tmp_path / "lines.jsonl", [{"body": "a", "title": "b"}])
    with pytest.raises(DataError, match=r"no field 'text'(.|\n)*:1\n(.|\n)*'body', 'title'"):
        texts(path)
    with pytest.raises(DataError, match=r"no field 'author'(.|\n)*set `metadata`"):
        texts(path, text="body", metadata=("author",))
    assert texts(path, text="body") == ["a"]
    with pytest.raises(DataError, match="does not hold text"):
        texts(write_lines(tmp_path / "numbers.jsonl", [{"text": 5}]))


def test_a_text_file_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    """Catches replacement characters that slip into the training text."""
    path = tmp_path / "a.txt"
    path.write_bytes("first é\nsecond \xff\nthird\n".encode("latin-1").replace(b"\xe9", "é".encode()))
    with pytest.raises(DataError, match=r"not valid UTF-8(.|\n)*a\.txt:2(.|\n)*0xff at column 8"):
        texts(path)
    assert texts(path, on_bad_lines="skip") == ["first é\nthird\n"]


def test_compressed_files_are_read(tmp_path: Path) -> None:
    """Catches .gz files that are skipped or read as bytes, and damaged ones that are not named."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert texts(tmp_path) == ["hello", "one", "two"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello" * 99)[:-9])
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*a\.txt\.gz"):
        texts(tmp_path)


def test_parquet_reads_the_chosen_columns_of_all_row_groups(tmp_path: Path) -> None:
    """Catches lost row groups, and metadata of another row."""
    rows = {"body": [f"text {number}" for number in range(50)] + [None], "n": list(range(51)), "x": [b"\0"] * 51}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=7)
    source = SourceConfig(path=str(tmp_path / "a.parquet"), text="body", metadata=("n",))
    found = [(document.text, document.metadata["n"]) for document in read_source(source)]
    assert found == [*((f"text {number}", str(number)) for number in range(50)), ("", "50")]
    with pytest.raises(DataError, match=r"no field 'text'(.|\n)*'body', 'n', 'x'"):
        texts(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*b\.parquet"):
        texts(tmp_path / "b.parquet")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local dataset folder, and a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split, count in (("train", 30), ("test", 4)):
        rows = [json.dumps({"text": f"{split} {number}", "label": number}) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # datasets probes multiprocessing
def test_a_dataset_is_read_through_the_datasets_library(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another split, lost rows at the edge of a part, and lost metadata."""
    monkeypatch.setattr("pomona.data.sources._HUB_ROWS", 7)
    source = SourceConfig(path=f"hub:{dataset}", metadata=("label",))
    found = [(document.text, document.metadata["label"]) for document in read_source(source)]
    assert found == [(f"train {number}", str(number)) for number in range(30)]
    assert texts(f"hub:{dataset}", split="test") == [f"test {number}" for number in range(4)]
    with pytest.raises(DataError, match=r"no field 'body'(.|\n)*'text', 'label'"):
        texts(f"hub:{dataset}", text="body")
    with pytest.raises(DataError, match=r"could not be loaded(.|\n)*split 'nope'"):
        texts(f"hub:{dataset}", split="nope")
