"""The catalog lists without importing, and a slug leads to a method's parameters with every problem located."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from pomona.catalog import Optimizer, Row, ScheduleMethod, card, config_class, find, parameters, rows, select
from pomona.catalog.listing import normal
from pomona.ground.config import Config, MethodConfig
from pomona.ground.errors import ConfigError


class Training(Config):
    schedule: ScheduleMethod
    """A field that holds a method."""


def test_listing_imports_no_method_and_no_torch() -> None:
    """Catches an import on the way to a list or a card."""
    code = (
        "import sys\nfrom pomona.catalog import rows, card, find\n"
        "rows(); card(find('infinite-lr'))\n"
        "assert 'torch' not in sys.modules and 'pomona.schedules' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("row", select(status="built"), ids=lambda row: row.slug)
def test_rows_lead_to_what_they_name(row: Row) -> None:
    """Catches a typo in `implements`, a slug that differs from the method's own, and a module without a card."""
    import importlib

    module, _, name = str(row.implements).partition(":")
    assert hasattr(importlib.import_module(module), name)
    model = config_class(row.kind, row.slug)
    (slug,) = get_args(model.model_fields["method"].annotation)
    assert slug == row.slug
    assert all(field.description for name, field in model.model_fields.items() if name != "method"), "undescribed"
    read = {parameter.name: parameter for parameter in parameters(row)}
    assert set(read) == set(model.model_fields) - {"method"}, "the source says what the class has"
    assert all(parameter.description for parameter in read.values())
    text = card(row)
    assert len(text.splitlines()) > 3 and (row.arxiv is None or row.arxiv in text)


def test_lookup() -> None:
    """Catches `_` and `-` being different, unknown slugs without near ones, and kinds mixed up."""
    assert find("infinite_lr").slug == find("infinite-lr", "schedule").slug == "infinite-lr"
    with pytest.raises(ConfigError, match="did you mean 'conda'"):
        find("konda", "optimizer")
    with pytest.raises(ConfigError, match="of kind schedule, not optimizer"):
        find("infinite-lr", "optimizer")
    with pytest.raises(ConfigError, match="`pomona methods --all` lists every one"):
        find("xylophone")


def test_planned_methods_are_known_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a planned method that a recipe takes, is told to be unknown, or is proposed in place of another."""
    planned = replace(find("infinite-lr"), slug="endless-lr", implements=None)
    known = (*rows(), planned)
    monkeypatch.setattr("pomona.catalog.listing.rows", lambda: known)
    refused = "'endless-lr' is planned, not built yet"
    with pytest.raises(
        ConfigError, match=rf"schedule\.method: {refused}\s+built of its kind \(schedule\): .*infinite-lr"
    ):
        Training.parse({"schedule": "endless_lr"}, "recipe")
    for look in (card, parameters):
        with pytest.raises(ConfigError, match=refused):
            look(find("endless-lr"))
    with pytest.raises(ConfigError, match="unknown schedule 'endles-lr'") as error:
        find("endles-lr", "schedule")
    assert "endless" not in str(error.value.do)
    alone = replace(planned, slug="gnomon", kind="tool")
    monkeypatch.setattr("pomona.catalog.listing.rows", lambda: (alone,))
    with pytest.raises(ConfigError, match="no tool is built yet"):
        config_class("tool", "gnomon")


def test_a_field_takes_a_name_a_mapping_or_the_method() -> None:
    """Catches a short or long form that loses parameters."""
    short = Training.parse({"schedule": "infinite_lr"}).schedule
    assert short == config_class("schedule", "infinite-lr")()
    long = Training.parse({"schedule": {"method": "infinite-lr", "min_ratio": 0.1}}).schedule
    assert long.model_dump()["min_ratio"] == 0.1
    assert Training(schedule=long).schedule is long
    dumped = Training(schedule=long).model_dump(mode="json")
    assert Training.parse(dumped).schedule == long


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"method": "infinite-lr", "min_ration": 1, "style": "round"}, r"schedule\.min_ration: unknown key"),
        ({"method": "infinite-lr", "min_ration": 1}, "did you mean 'min_ratio'"),
        ({"method": "infinite-lr", "min_ration": 1, "style": "round"}, r"schedule\.style: Input should be 'cosine'"),
        ({"method": "infinite-lr", "min_ratio": 0.9}, "must not be above"),
        ({"method": "infnite-lr"}, r"schedule\.method: unknown schedule 'infnite-lr'\s+did you mean 'infinite-lr'"),
        ("g-stack", "of kind growth, not schedule"),
        ({"min_ratio": 0.1}, r"schedule\.method: is required"),
        (3, "should be the name of a method"),
    ],
)
def test_problems_of_a_method_are_located(value: object, message: str) -> None:
    """Catches a wrong parameter reported without its path, or without a remedy."""
    with pytest.raises(ConfigError, match=message):
        Training.parse({"schedule": value}, "recipe")


def test_other_packages_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches entry points being ignored, imported for a listing, or shadowing a shipped method."""
    from importlib.metadata import EntryPoint

    from pomona.catalog import rows as listed

    package = tmp_path / "orchard_methods"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "catalog.yaml").write_text(
        "- {slug: pear, title: Pear, kind: optimizer, modality: [any], year: 2024, arxiv: null,"
        " implements: 'orchard_methods.pear:Pear', summary: s, origin: standard}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("orchard", "orchard_methods", "pomona.methods")]
    monkeypatch.setattr("pomona.catalog.listing.entry_points", lambda group: points)
    listed.cache_clear()
    try:
        assert find("pear").title == "Pear"
        text = (package / "catalog.yaml").read_text()
        (package / "catalog.yaml").write_text(text.replace("pear,", "adam_w,").replace("adam_w", "adamw", 1))
        listed.cache_clear()
        with pytest.raises(ConfigError, match="two methods are called 'adamw'"):
            listed()
        (package / "catalog.yaml").write_text(text.replace("kind: optimizer", "kind: fruit").replace("[any]", "any"))
        listed.cache_clear()
        with pytest.raises(ConfigError, match=r"2 problems\n.*yaml:1 0\.kind: 'fruit' is not(.|\n)*should be a list"):
            listed()
        points[0] = EntryPoint("orchard", "nowhere_methods", "pomona.methods")
        listed.cache_clear()
        with pytest.raises(ConfigError, match="leads nowhere"):
            listed()
    finally:
        monkeypatch.undo()
        listed.cache_clear()


def test_normal_form() -> None:
    """Catches two rows that only differ by `-` and `_`."""
    assert len({normal(row.slug) for row in rows()}) == len(rows())


def test_static_type() -> None:
    """Catches the annotation no longer being a `MethodConfig` to the reader and the type checker."""
    assert get_args(Optimizer)[0] is MethodConfig
