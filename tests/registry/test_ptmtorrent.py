"""The scan: every package once, every planted fact, nothing invented, no network, nothing unpickled, the same twice."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  to forbid it
import socket
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from pomona.evidence.cards.ptmtorrent import field_f1, read_records
from pomona.evidence.planted import Gardener, Planted, plant, write
from pomona.ground.errors import DataError
from pomona.registry import duplicates, problems_in, scan
from pomona.registry.ptmtorrent import RECORDS, PtmtorrentConfig


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Planted]]:
    root = tmp_path_factory.mktemp("models")
    return root, plant(root, seed=3)


def test_what_was_planted_is_found(planted: tuple[Path, list[Planted]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a fact that is lost, invented or taken from the wrong place, a decoy that is counted, a link that is
    followed twice; and a scan that opens a connection or unpickles."""

    def forbidden(*given: object, **more: object) -> None:
        raise AssertionError("the scan must not do this")

    for module, name in (
        (socket, "socket"),
        (pickle, "Unpickler"),
        (pickle, "loads"),
        (pickle, "load"),
        (os, "system"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    root, truth = planted
    found = read_records(scan([root, root / "folders"]))
    assert found.keys() == {str(one.path) for one in truth}
    for one in truth:
        assert found[str(one.path)] == (one.truth, one.defects), one.path
    assert field_f1({str(one.path): one for one in truth}, found) == 1.0


def test_records_are_valid_or_say_what_is_missing(planted: tuple[Path, list[Planted]]) -> None:
    """Catches a record of another form, and a required field that was made up where nothing says it."""
    root, truth = planted
    shas = {str(one.path): one.truth.get("sha") for one in truth}
    for number, record in enumerate(scan([root])):
        assert record["id"] == number
        known = shas[record["Pomona"]["path"]]
        wrong = [problem.where for problem in problems_in(record)]
        assert wrong == ([] if known else ["LatestGitCommitSHA"]) == list(record["Pomona"].get("missing", []))
        if "owner" not in next(one.truth for one in truth if str(one.path) == record["Pomona"]["path"]):
            assert record["ModelOwner"] == record["ModelHub"]["ModelHubURL"]


def test_the_same_twice_and_only_what_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches times in the output, a cache that is not used, and one that hides a change."""
    garden = Gardener(tmp_path / "models", 0)
    one, other = garden.folder(), garden.folder()
    scan([tmp_path / "models"], tmp_path / "out")
    first = (tmp_path / "out" / RECORDS).read_bytes()
    read: list[str] = []
    from pomona.registry import ptmtorrent

    original = ptmtorrent.record_of
    monkeypatch.setattr(
        ptmtorrent, "record_of", lambda found, config: read.append(found.name) or original(found, config)
    )
    scan([tmp_path / "models"], tmp_path / "out")
    assert (tmp_path / "out" / RECORDS).read_bytes() == first and read == []
    file = one.path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    changed = scan([tmp_path / "models"], tmp_path / "out")
    assert read == [one.path.name] and (tmp_path / "out" / RECORDS).read_bytes() != first
    assert [record["ModelName"] for record in changed] == sorted([one.path.name, other.path.name])
    scan([tmp_path / "models"], tmp_path / "out", PtmtorrentConfig(digests=False))
    assert len(read) == 3, "other settings, other records"


def test_equal_weights_under_two_names(tmp_path: Path) -> None:
    """Catches duplicates that are not seen, and packages without weights that count as equal."""
    garden = Gardener(tmp_path, 0)
    one = garden.folder()
    copy = garden.copy_of(one)
    garden.folder("pointer"), garden.folder("pointer")
    (group,) = duplicates(scan([tmp_path]))
    assert {record["Pomona"]["path"] for record in group} == {str(one.path), str(copy.path)}
    assert duplicates(scan([tmp_path], config=PtmtorrentConfig(digests=False))) == []


def test_code_is_named(tmp_path: Path) -> None:
    """Catches a repository that wants its own code to be imported, and says so only in its configuration."""
    one = Gardener(tmp_path, 0).folder()
    write(
        one.path, {"modeling_x.py": b"raise SystemExit", "config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}'}
    )
    (record,) = scan([tmp_path])
    assert record["Pomona"]["code"] == ["modeling_x.py", "auto_map: modeling_x.X"]


def test_refusals(tmp_path: Path) -> None:
    """Catches an empty registry of a folder that is misspelt."""
    with pytest.raises(DataError, match="is not there"):
        scan([tmp_path / "nowhere"])
