"""Folders from elsewhere as inputs of a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.ground.files import atomic_folder
from pomona.stages.base import ArtefactKind
from pomona.stages.graph import Outside, Problem, outside


def made(folder: Path, kind: ArtefactKind) -> Path:
    """A folder as a stage writes it."""
    with atomic_folder(
        folder, {"stage": {"verb": "sow", "kind": kind, "name": "seedling", "hash": "0123abcd"}}
    ) as part:
        (part / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("kind", "wanted"), [("model", "model"), ("export", "model"), ("report", "report")])
def test_what_a_stage_made_keeps_its_name_and_hash(kind: ArtefactKind, wanted: ArtefactKind, tmp_path: Path) -> None:
    """Catches exports that cannot be trained further, and stages made again because an input lies elsewhere."""
    folder = made(tmp_path / "it", kind)
    assert outside(folder, wanted) == Outside(folder, wanted, "seedling", "0123abcd")


@pytest.mark.parametrize(("kind", "wanted"), [("model", "export"), ("report", "model"), ("export", "report")])
def test_another_kind_is_a_problem(kind: ArtefactKind, wanted: ArtefactKind, tmp_path: Path) -> None:
    """Catches a report that is taken for a model."""
    problem = outside(made(tmp_path / "it", kind), wanted)
    assert isinstance(problem, Problem) and f"holds a {kind}, not a {wanted}" in problem.what


def test_foreign_models_are_known_by_their_content(tmp_path: Path) -> None:
    """Catches a result kept for another model of the same name, and a folder without configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    problem = outside(folder, "model")
    assert isinstance(problem, Problem) and "is not a model" in problem.what and "config.json" in problem.do
    (folder / "config.json").write_text("{}")
    first = outside(folder, "model")
    assert isinstance(first, Outside) and first.name == "model" and first == outside(folder, "model")
    (folder / "model.safetensors").write_bytes(b"others")
    changed = outside(folder, "model")
    assert isinstance(changed, Outside) and changed.hash != first.hash
    assert isinstance(outside(tmp_path / "nothing", "model"), Problem)
