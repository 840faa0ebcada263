"""Recipes are read strictly: values as in YAML 1.2, every key with its line, nothing that could run or explode."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.ground import yaml as ground_yaml
from pomona.ground.errors import ConfigError
from pomona.ground.yaml import MAX_BYTES, parse_scalar, parse_yaml, read_yaml


def value(text: str) -> object:
    return parse_yaml(text, "r.yaml").value


def test_scalars_are_those_of_yaml_1_2() -> None:
    """Catches PyYAML's YAML 1.1 surprises: 1e-3 as a word, `no` as False, 010 as eight, dates as objects."""
    text = "[1e-3, 1_000, no, on, 2020-01-01, 010, .5, '1', true, ~, 3.5e2, -2, 1:30]"
    assert value(text) == [0.001, 1000, "no", "on", "2020-01-01", 10, 0.5, "1", True, None, 350.0, -2, "1:30"]


def test_lines_of_keys_and_items() -> None:
    """Catches a problem being reported on the wrong line, or with no line at all."""
    document = parse_yaml("a: 1\nb:\n  - x\n  - y: 2\n    z: 3\n", "r.yaml")
    assert document.where(("a",)) == "r.yaml:1 a"
    assert document.where(("b", 1, "z")) == "r.yaml:5 b.1.z"
    assert document.where(("b", 1, "missing")) == "r.yaml:4 b.1.missing", "the nearest line above"


def test_merge_keys_keep_own_values() -> None:
    """Catches `<<` overriding what the mapping itself says, or being dropped."""
    text = "base: &base {x: 1, y: 2}\nc:\n  <<: *base\n  y: 3\n"
    document = parse_yaml(text, "r.yaml")
    assert document.value["c"] == {"x": 1, "y": 3}
    assert document.line(("c", "y")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"r\.yaml:3 a: the key 'a' appears twice"),
        ("a: !!python/object/apply:os.system [ls]", "tag .* is not allowed"),
        ("a: !thing {b: 1}", "tag .* is not allowed"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 100, "nested deeper"),
        ("a: @x", "character '@'"),
        ("a: [1", r"r\.yaml:1, column 6"),
        ("x: !!int abc", "not a valid int"),
        ("a: 1\n---\nb: 2", "another document"),
        ("\x00", "not valid YAML"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    """Catches unsafe or ambiguous YAML being accepted, or refused without its place."""
    with pytest.raises(ConfigError, match=message):
        value(text)


def test_both_parsers_agree() -> None:
    """Catches libyaml reading a value or placing a line in another way than PyYAML's own parser does."""
    text = (
        "a: &x {b: [1e-3, 'it''s', ~], c: http://x:80/y}\nd: >-\n  folded\n  text\n\ne: |\n  é 😀\nf: {<<: *x, b: no}\n"
    )
    slow, fast = (
        ground_yaml._parse(text, "r.yaml", parser) for parser in (ground_yaml._Loader, ground_yaml._FastLoader)
    )
    assert slow == fast and slow.value["d"] == "folded text" and slow.value["f"]["b"] == "no"


def test_alias_bombs_are_refused() -> None:
    """Catches exponential expansion ("billion laughs"), also through merge keys."""
    levels = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30)]
    with pytest.raises(ConfigError, match="expands to more than"):
        value("\n".join(levels))
    merges = ["m0: &m0 {k: 1}"] + [f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, 30)]
    with pytest.raises(ConfigError, match="expands to more than"):
        value("\n".join(merges))


def test_files(tmp_path: Path) -> None:
    """Catches a traceback instead of a remedy for a missing, huge or wrongly encoded file."""
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "big.yaml").write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        read_yaml(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_command_line_values() -> None:
    """Catches `--set` giving words where a recipe would give numbers, or failing on plain text."""
    assert [parse_scalar(word) for word in ("3", "1e-3", "true", "[1, 2]", "text", "a: [", "")] == [
        3, 0.001, True, [1, 2], "text", "a: [", None,
    ]  # fmt: skip
