"""Labelled sources: columns, folders, the environment, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import Table, parquet

from pomona.ground.errors import DataError
from pomona.tasks import Example, LabelledSource, read_examples


def examples(**values: object) -> list[Example]:
    return list(read_examples(LabelledSource.model_validate(values)))


def test_tables_give_the_same_examples(tmp_path: Path) -> None:
    """Catches columns taken for one another, and labels that stay numbers in one format and not in another."""
    rows = [("a red apple", 3, "x"), ('say "plum", twice', 1, "y")]
    (tmp_path / "a.jsonl").write_text(
        '{"t": "a red apple", "y": 3, "g": "x"}\n{"t": "say \\"plum\\", twice", "y": 1, "g": "y"}\n'
    )
    (tmp_path / "a.csv").write_text('t,y,g\na red apple,3,x\n"say ""plum"", twice",1,y\n')
    (tmp_path / "a.tsv").write_text('t\ty\tg\na red apple\t3\tx\n"say ""plum"", twice"\t1\ty\n')
    columns = list(zip(*rows, strict=True))
    parquet.write_table(Table.from_pydict(dict(zip("tyg", map(list, columns), strict=True))), tmp_path / "a.parquet")
    expected = [Example("a red apple", "3", "x"), Example('say "plum", twice', "1", "y")]
    for suffix in ("jsonl", "csv", "tsv", "parquet"):
        assert examples(path=str(tmp_path / f"a.{suffix}"), text="t", label="y", group="g") == expected


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    """Catches the label taken from the file's own name, or from the innermost of several folders."""
    for place in ("apple/1.txt", "plum/deep/2.md"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(f"text of {place}")
    found = examples(path=str(tmp_path))
    assert [(each.label, each.text) for each in found] == [
        ("apple", "text of apple/1.txt"),
        ("plum", "text of plum/deep/2.md"),
    ]


def test_the_environment_is_labelled_by_package() -> None:
    """Catches texts that name their module in the first line, which would give the label away."""
    found = examples(path="env:docs", include=["yaml/*.py", "click/*.py"])
    assert {each.label for each in found} >= {"PyYAML"}
    assert all(not each.text.startswith(each.group) and each.group for each in found)
    pairs = examples(path="env:pairs", include=["yaml/*.py", "click/*.py"])
    assert pairs and not any("def " in each.text[:4] for each in pairs)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.csv", "text,lable\nplum,1\n", "did you mean 'lable'"),
        ("a.csv", "text,label\nplum,\n", "a.csv:2"),
        ("a.jsonl", '{"text": "plum", "lable": "1"}\n', "there is no field 'label'"),
        ("a.jsonl", '{"text": "plum", "label": null}\n', "an example has no label"),
        ("a.txt", "plum", "one sub-folder for each label"),
    ],
)
def test_refusals_say_where(tmp_path: Path, name: str, content: str, remedy: str) -> None:
    """Catches rows that silently get an empty label."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=remedy):
        examples(path=str(tmp_path / name))
