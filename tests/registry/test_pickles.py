"""What a pickle would call is read off it, and nothing is ever unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pomona.registry.contents import Single
from pomona.registry.pickles import dangers_of, fetched, is_pickle, level_of

OLD = b"cposix\nsystem\n(S'true'\ntR."
"""A pickle in the oldest form: fetch posix.system, call it."""
NEW = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
"""The same with STACK_GLOBAL."""
REMEMBERED = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94000h\x01h\x00\x93\x8c\x04true\x85R."
"""The same with both names fetched from the memo."""
HIDDEN = b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93\x8c\x04true\x85R."
"""The same behind harmless names that are pushed and popped again."""


def dangers(path: Path) -> dict[str, str]:
    return {danger.what: danger.level for danger in dangers_of(Single(path), path.name)}


@pytest.mark.parametrize(("data", "name"), [(OLD, ("posix", "system")), (NEW, ("os", "system"))])
def test_what_is_fetched(data: bytes, name: tuple[str, str]) -> None:
    """Catches an opcode that fetches and is not seen, and a second pickle behind a harmless one."""
    assert list(fetched(io.BytesIO(data))) == [name]
    assert list(fetched(io.BytesIO(b"\x80\x04K\x01." + data))) == [name]


@pytest.mark.parametrize("data", [REMEMBERED, HIDDEN])
def test_names_cannot_be_hidden(data: bytes) -> None:
    """Catches a scan that is led astray by the memo, or by names that are pushed and popped."""
    (found,) = fetched(io.BytesIO(data))
    assert level_of(*found) != "harmless"


def test_levels() -> None:
    """Catches a list of harmless names that holds one that calls what it is given."""
    assert level_of("torch._utils", "_rebuild_tensor_v2") == "harmless"
    assert level_of("builtins", "eval") == level_of("builtins", "getattr") == level_of("os.path", "join") == "dangerous"
    assert level_of("torch", "load") == level_of("torch._utils", "import_module") == level_of("mine", "A") == "unknown"
    assert level_of("?", "?") == "unknown"


@pytest.mark.parametrize("legacy", [False, True])
def test_saved_tensors_are_harmless(tmp_path: Path, legacy: bool) -> None:
    """Catches false alarms on what torch writes, in both of its forms."""
    file = tmp_path / "a.pt"
    state = {"a": torch.randn(64), "b": torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))}
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    assert is_pickle(Single(file), file.name) and dangers(file) == {}


def test_files_with_a_payload(tmp_path: Path) -> None:
    """Catches a payload in another entry of a zip, before a zip, in an array of objects, or under another name."""
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "a") as archive:
        archive.writestr("else/x.pkl", NEW)
    torch.save({"a": torch.ones(2)}, tmp_path / "after.pt")
    (tmp_path / "before.pt").write_bytes(NEW + (tmp_path / "after.pt").read_bytes())
    np.save(tmp_path / "array.npy", np.array([1, "a"], dtype=object))
    header = (tmp_path / "array.npy").read_bytes().partition(b"\n")[0] + b"\n"
    (tmp_path / "array.npy").write_bytes(header + OLD)
    (tmp_path / "model.dat").write_bytes(NEW)
    for name in ("zip.pt", "before.pt", "array.npy", "model.dat"):
        assert "dangerous" in dangers(tmp_path / name).values(), name
        assert is_pickle(Single(tmp_path / name), name)


def test_what_is_no_pickle(tmp_path: Path) -> None:
    """Catches alarms on plain arrays and other files, and silence on a pickle that breaks off."""
    np.save(tmp_path / "plain.npy", np.arange(200))
    (tmp_path / "other.bin").write_bytes(b"\x00\x01weights")
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.pt")
    data = (tmp_path / "zip.pt").read_bytes()
    (tmp_path / "zip.pt").write_bytes(data.replace(b"FloatStorage", b"FloatStorige"))
    assert "unknown" in dangers(tmp_path / "zip.pt").values(), "a checksum that does not hold"
    (tmp_path / "broken.pkl").write_bytes(NEW[:-3])
    assert dangers(tmp_path / "plain.npy") == dangers(tmp_path / "other.bin") == {}
    assert dangers(tmp_path / "broken.pkl")["calls os.system"] == "dangerous"
