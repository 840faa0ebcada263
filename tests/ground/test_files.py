"""Files and folders are there whole or not at all, damage is found, and one process at a time works in a folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pomona.ground.errors import DamagedArtefact, FolderBusy, StorageError
from pomona.ground.files import (
    MANIFEST,
    atomic_file,
    atomic_folder,
    clear_partial,
    content_hash,
    damage,
    folder_lock,
    is_intact,
    read_json,
    read_manifest,
    require_intact,
    storage_errors,
    write_text,
)


def test_a_hash_of_values_not_of_their_order() -> None:
    """Catches names that change when a dictionary is written in another order, and values that share a name."""
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert len({content_hash(value) for value in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [2, 1], [1, 2])}) == 7


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """Catches a half-written file in the place of a whole one, and leftovers of the attempt."""
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "new" / "b", "whole")
    assert (tmp_path / "new" / "b").read_text() == "whole"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """Catches a folder without its manifest, with half of its files, or with files of the one before it."""
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "made") as part:
        (part / "a").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "made", {"name": name}) as part:
            (part / name).write_text(name)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [MANIFEST, "b"]
    assert read_manifest(tmp_path / "made") == {"name": "b"} and is_intact(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_every_kind_of_damage_is_named(tmp_path: Path) -> None:
    """Catches a checksum that is not compared, a file that is not listed, and a manifest that is trusted blindly."""
    folder = tmp_path / "made"
    with atomic_folder(folder) as part:
        for name in ("same-size", "longer", "gone", "inner/deep", f"inner/{MANIFEST}"):
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(name)
    assert damage(folder) == [] and set(read_json(folder / MANIFEST)["files"]) == {
        "same-size", "longer", "gone", "inner/deep", f"inner/{MANIFEST}",
    }  # fmt: skip
    (folder / "same-size").write_text("emas-size")
    (folder / "longer").write_text("longer!")
    (folder / "gone").unlink()
    (folder / "inner" / MANIFEST).write_text("x")
    wrong = "; ".join(damage(folder))
    for expected in ("same-size differs from its checksum", "longer has 7 bytes, not 6", "gone is missing", "inner/M"):
        assert expected in wrong
    with pytest.raises(DamagedArtefact, match="gone is missing"):
        require_intact(folder)
    (folder / MANIFEST).write_text("{")
    assert damage(folder) == [f"{MANIFEST} is damaged"]
    (folder / MANIFEST).write_text(json.dumps({"format": 1}))
    assert damage(folder) == [f"{MANIFEST} is damaged"]
    (folder / MANIFEST).unlink()
    assert damage(folder) == [f"{MANIFEST} is missing"]
    with pytest.raises(DamagedArtefact, match="not a finished pomona folder"):
        read_manifest(folder)


HOLD = """
import sys, time
from pathlib import Path
from pomona.ground.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    """Catches two processes in one folder, an owner that is not named, and a lock that a killed process leaves."""
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    try:
        with pytest.raises(FolderBusy, match=f"pid {owner.pid} since"), folder_lock(tmp_path):
            pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    with folder_lock(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "you may write to"),
        (errno.EROFS, "writable disk"),
        (errno.ENOTDIR, "a file is in the way"),
    ],
)
def test_what_the_disk_refuses_has_a_remedy(number: int, remedy: str, tmp_path: Path) -> None:
    """Catches a bare error of the operating system where the user can do something about it."""
    with pytest.raises(StorageError, match=remedy), storage_errors(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_other_errors_are_not_dressed_up() -> None:
    """Catches every error of a block being blamed on the disk."""
    with pytest.raises(OSError, match="Interrupted") as caught, storage_errors(Path("a")):
        raise OSError(errno.EINTR, "Interrupted")
    assert not isinstance(caught.value, StorageError)


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Catches half-written folders piling up, and finished or foreign ones being removed."""
    for name in (".made.x.part", ".made.x.old", "made", ".git", "notes.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / ".file.y.part").write_text("half")
    (tmp_path / ".other.z.part").mkdir()
    clear_partial(tmp_path, "other")
    assert not (tmp_path / ".other.z.part").exists() and (tmp_path / ".made.x.part").exists()
    clear_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "made", "notes.part"]
