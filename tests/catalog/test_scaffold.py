"""`pomona new` writes three files and a row, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from pomona.catalog import config_class, rows
from pomona.catalog.listing import OWN
from pomona.catalog.scaffold import MOULDS, place_of, scaffold, with_row
from pomona.ground.errors import ConfigError
from pomona.ground.yaml import read_yaml


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the catalog."""
    (tmp_path / "pomona").mkdir()
    (tmp_path / "pomona/catalog.yaml").write_bytes(OWN.read_bytes())
    return tmp_path


@pytest.mark.parametrize("kind", list(MOULDS))
def test_a_new_method_of_every_kind(kind: str, checkout: Path) -> None:
    """Catches a mould that is no Python, files in the wrong room, and a row out of order."""
    files = scaffold(kind, "quince-graft", checkout, title="Quince Graft", year=2031, arxiv="3101.00001")
    method, test, card, catalog = (file.relative_to(checkout).as_posix() for file in files)
    room = MOULDS[kind].room  # type: ignore[index]
    assert (method, test) == (f"pomona/{room}/quince_graft.py", f"tests/{room}/test_quince_graft.py")
    assert card == "pomona/evidence/cards/quince_graft.py" and catalog == "pomona/catalog.yaml"
    for file in files[:-1]:
        ast.parse(file.read_text())
        assert "Quince Graft" in file.read_text() and max(map(len, file.read_text().splitlines())) <= 120
    listed = read_yaml(files[-1]).value
    (row,) = [row for row in listed if row["slug"] == "quince-graft"]
    assert row["implements"] == f"pomona.{room}.quince_graft:quince_graft" and row["arxiv"] == "3101.00001"
    assert len(listed) == len(read_yaml(OWN).value) + 1
    keys = [place_of(f"- slug: {row['slug']}\n  kind: {row['kind']}\n  year: {row['year']}\n") for row in listed]
    assert keys == sorted(keys)


def signatures(file: Path) -> dict[str, list[str]]:
    """The methods of the configuration in a file, with the names of their arguments."""
    (config,) = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef))
    methods = [node for node in config.body if isinstance(node, ast.FunctionDef)]
    return {node.name: [each.arg for each in (*node.args.args, *node.args.kwonlyargs)] for node in methods}


@pytest.mark.parametrize("kind", list(MOULDS))
def test_moulds_are_those_of_the_rooms(kind: Any, checkout: Path) -> None:
    """Catches a mould that imports what is not there, or asks for other methods than those that the stages call."""
    built = [row for row in rows() if row.kind == kind and row.status == "built"]
    if not built:
        pytest.skip(f"no {kind} is built yet")
    file = scaffold(kind, "quince-graft", checkout)[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    for row in built:
        config = config_class(kind, row.slug)
        if hasattr(config, "start_") and not hasattr(config, "apply_"):
            continue  # what trains sparse from the start, and prunes nothing, is not what the mould is for
        for name, arguments in signatures(file).items():
            assert list(inspect.signature(getattr(config, name)).parameters) == arguments, (row.slug, name)


def test_a_planned_row_is_completed(checkout: Path) -> None:
    """Catches a second row for a method that is planned, and a row that keeps its null."""
    planned = next(row for row in rows() if row.status == "planned" and row.kind in MOULDS)
    before = OWN.read_text()
    scaffold(planned.kind, planned.slug, checkout)
    after = (checkout / "pomona/catalog.yaml").read_text()
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    stem = planned.slug.replace("-", "_")
    module = f"pomona.{MOULDS[planned.kind].room}.{stem}"
    assert changed == [("  implements: null", f"  implements: {module}:{stem}")]
    assert planned.title in (checkout / f"{module.replace('.', '/')}.py").read_text()


def test_refusals(checkout: Path, tmp_path: Path) -> None:
    """Catches files that are overwritten, and half of them written before a refusal."""
    scaffold("optimizer", "quince", checkout)
    for kind, slug, root, message in [
        ("optimizer", "quince", checkout, "is there already"),
        ("optimiser", "pear", checkout, "did you mean 'optimizer'"),
        ("recipe", "pear", checkout, "is not a method with parameters"),
        ("optimizer", "Pear Tree", checkout, "is not a slug"),
        ("growth", "conda", checkout, "is listed as a optimizer"),
        ("optimizer", "pear", tmp_path / "elsewhere", "is not a checkout"),
    ]:
        with pytest.raises(ConfigError, match=message):
            scaffold(kind, slug, root)
    assert not list(checkout.rglob("*pear*"))


def test_rows_keep_their_text() -> None:
    """Catches comments and rows that change when another row is added."""
    text = "# head\n\n- slug: a\n  kind: optimizer\n  year: 2020\n\n- slug: c\n  kind: growth\n  year: 2020\n"
    row = "- slug: b\n  kind: optimizer\n  year: 2021\n"
    assert with_row(text, "b", row, "m:f").split("- slug: ")[1:] == [
        "a\n  kind: optimizer\n  year: 2020\n\n",
        "b\n  kind: optimizer\n  year: 2021\n\n",
        "c\n  kind: growth\n  year: 2020\n",
    ]
