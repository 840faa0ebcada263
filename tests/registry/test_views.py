"""Questions to a registry, tables for others, and figures that add up."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow.parquet
import pytest

from pomona.evidence.planted import plant
from pomona.ground.errors import ConfigError, DataError
from pomona.registry import Record, export, query, read_registry, report, scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    plant(root / "models", seed=5)
    scan([root / "models"], root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    return read_registry(folder)


def test_conditions(records: list[Record]) -> None:
    """Catches a condition that is not applied, applied as another, or that takes the unknown for a number."""
    clones = query(records, ["kind=CLONE"])
    assert len(clones) == 7 and query(records, ["kind=clone", "kind=folder"]) == []
    assert {record["Pomona"]["path"] for record in query(records, ["path~clones/"])} >= {
        record["Pomona"]["path"] for record in clones
    }
    small, large = query(records, ["parameters<30"]), query(records, ["parameters>29"])
    known = [record for record in records if "parameters" in record["Pomona"]]
    assert len(small) + len(large) == len(known) < len(records)
    assert all("licence" not in record["Pomona"] for record in query(records, ["licence="]))


@pytest.mark.parametrize(
    ("condition", "message"), [("nme=x", "did you mean 'name'"), ("bytes", "no condition"), ("bytes<big", "no number")]
)
def test_wrong_conditions(records: list[Record], condition: str, message: str) -> None:
    """Catches a misspelt condition that everything meets."""
    with pytest.raises(ConfigError, match=message):
        query(records, [condition])


def test_tables(records: list[Record], tmp_path: Path) -> None:
    """Catches a form that loses packages or fields."""
    for ending in ("ndjson", "parquet", "sqlite", "csv"):
        export(records, tmp_path / f"out.{ending}")
    assert [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()] == records
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert [json.loads(text) for text in table["record"]] == records
    base = sqlite3.connect(tmp_path / "out.sqlite")
    assert base.execute("select count(*), max(parameters) from packages").fetchone() == (
        len(records),
        max(record["Pomona"].get("parameters", 0) for record in records),
    )
    base.close()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(records) + 1
    with pytest.raises(ConfigError, match=r"\.sqlite"):
        export(records, tmp_path / "out.xlsx")


def test_figures_add_up(records: list[Record]) -> None:
    """Catches a package that is counted twice or not at all."""
    figures = report(records)
    assert figures["packages"] == len(records) == sum(figures["dangers"].values()) == sum(figures["signed"].values())
    assert all(sum(counts.values()) == len(records) for counts in figures["by"].values())
    assert len(figures["duplicates"]) == 3 and figures["complete"]["ModelName"] == 1.0
    assert 0 < figures["valid"] == figures["complete"]["LatestGitCommitSHA"] < 1
    assert report(records) == figures


def test_a_folder_that_is_no_registry(tmp_path: Path) -> None:
    """Catches an empty answer from the wrong place."""
    with pytest.raises(DataError, match="is not a registry"):
        read_registry(tmp_path)
