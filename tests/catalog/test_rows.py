"""The catalog's rows, the files they name, their cards and their tests agree, in both directions."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

import pomona
from pomona.catalog import KINDS, MODALITIES, Row, rows, select, source_file
from pomona.catalog.listing import OWN, normal
from pomona.ground.yaml import read_yaml

PACKAGE = Path(pomona.__file__).parent
TESTS = Path(__file__).parent.parent


def own_rows() -> list[Row]:
    """Rows of pomona's own catalog: other packages' methods may be installed beside it."""
    own = {values["slug"] for values in read_yaml(OWN).value}
    return [row for row in rows() if row.slug in own]


def defined() -> list[tuple[str, str]]:
    """(slug, module) of every configuration of a method in pomona's source: its field `method` has one value."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("pomona", *file.relative_to(PACKAGE).with_suffix("").parts))
        pattern = r'^    method: Literal\["[\w-]+"\] = "([\w-]+)"'
        slugs = re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(slug, module) for slug in slugs]
    return found


def test_rows_and_source_name_each_other() -> None:
    """Catches a method without a row, a row left at null after its method was built, and two homes of one method."""
    listed = [(normal(row.slug), row.module) for row in own_rows() if row.module]
    assert sorted(listed) == sorted((normal(slug), module) for slug, module in defined())


@pytest.mark.parametrize("row", [row for row in own_rows() if row.module], ids=lambda row: row.slug)
def test_a_built_row_has_its_files(row: Row) -> None:
    """Catches a typo in `implements`, which would turn a method back into a plan, and a method without a test."""
    assert row.status == "built" and row.module
    file = source_file(row.module)
    assert file is not None
    inside = file.relative_to(PACKAGE)
    own_test = TESTS / inside.parent / f"test_{inside.name}"
    shared = row.origin == "standard" and own_test.with_name("test_conformance.py").is_file()
    assert own_test.is_file() or shared, "plain blocks may do with the suite of their kind"


def test_standard_blocks_are_listed_when_they_are_there() -> None:
    """Catches plans for building blocks: what is planned is the published systems."""
    assert {row.origin for row in select(status="planned")} <= {"published"}


def test_order() -> None:
    """Catches a row in the wrong place: by kind, then by year, then by slug."""
    keys = [(KINDS.index(row.kind), row.year or 0, row.slug) for row in own_rows()]
    wrong = [after[-1] for before, after in pairwise(keys) if before > after]
    assert not wrong


def test_one_row_for_each_paper() -> None:
    """Catches one system under two names, and an identifier whose year the row contradicts."""
    counts = Counter(row.arxiv for row in own_rows() if row.arxiv)
    assert not [paper for paper, count in counts.items() if count > 1]
    assert not [row.slug for row in own_rows() if row.arxiv and row.year != 2000 + int(row.arxiv[:2])]


def test_summaries() -> None:
    """Catches a summary that was copied from another row, or that is a headline and not a sentence."""
    counts = Counter(row.summary for row in own_rows())
    assert not [summary for summary, count in counts.items() if count > 1]
    assert not [row.slug for row in own_rows() if not row.summary.endswith(".") or not row.summary[0].isupper()]


def test_modalities_are_used_and_any_stands_alone() -> None:
    """Catches words that no method has, doubled words, and `any` beside another."""
    assert {word for row in own_rows() for word in row.modality} == set(MODALITIES)
    assert all(len(set(row.modality)) == len(row.modality) for row in own_rows())
    assert all(row.modality == ("any",) or "any" not in row.modality for row in own_rows())
