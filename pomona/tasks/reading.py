"""From a labelled source to examples: columns of a table, sub-folders of a folder, packages of the environment."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pomona.data import Document, read_source, split_pair
from pomona.data.config import SourceConfig
from pomona.data.sources import kind_of, source_files
from pomona.ground.errors import DataError, did_you_mean
from pomona.tasks.config import LabelledSource

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Example(NamedTuple):
    """A text, its label, and what it must not be divided from (empty: nothing)."""

    text: str
    label: str
    group: str = ""


def read_examples(source: LabelledSource) -> Iterator[Example]:
    """All examples of a source as they are, in order.

    Raises:
        DataError: the source is not there, a column is absent, or a row has no label; says where.
    """
    if source.path.startswith("env:"):
        yield from _from_environment(source)
    elif source.path.startswith("hub:"):
        yield from _from_columns(source, source.path)
    else:
        for file in source_files(source):
            if file.suffix.lower() in SEPARATORS:
                yield from _from_csv(file, source)
            elif kind_of(file) in ("lines", "parquet"):
                yield from _from_columns(source, str(file))
            else:
                yield from _from_folder(file, source)


def _from_environment(source: LabelledSource) -> Iterator[Example]:
    label, group = source.label or "package", source.group or "module"
    for document in read_source(plain(source)):
        if source.path == "env:pairs":
            text = split_pair(document)[0]
        else:
            text = document.text.removeprefix(document.metadata["module"]).lstrip()
        yield _example(document, text, label, group, source.path)


def _from_columns(source: LabelledSource, path: str) -> Iterator[Example]:
    label = source.label or "label"
    columns = (label, *filter(None, (source.group,)))
    wanted = plain(source).model_copy(update={"path": path, "metadata": columns})
    for document in read_source(wanted):
        yield _example(document, document.text, label, source.group, path)


def _from_csv(file: Path, source: LabelledSource) -> Iterator[Example]:
    label, separator = source.label or "label", SEPARATORS[file.suffix.lower()]
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter=separator, strict=True)
            names = rows.fieldnames or []
            for column in (source.text, label, *filter(None, (source.group,))):
                if column not in names:
                    raise DataError(f"there is no column {column!r}", where=f"{file}:1", do=did_you_mean(column, names))
            for row in rows:
                if row[source.text] is None or not row[label]:
                    raise DataError("a row lacks its text or its label", where=f"{file}:{rows.line_num}")
                yield Example(row[source.text], row[label], row[source.group] or "" if source.group else "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("the table cannot be read", where=str(file), found=str(error), needs="UTF-8, quoted") from error


def _from_folder(file: Path, source: LabelledSource) -> Iterator[Example]:
    root = Path(source.path).expanduser()
    inside = file.relative_to(root).parts if root.is_dir() else ()
    if len(inside) < 2:
        raise DataError(
            "a text file has no label",
            where=str(file),
            needs="a folder with one sub-folder for each label, or a table with columns",
            do="move the file into a sub-folder named by its label, or leave it out with `exclude`",
        )
    for document in read_source(plain(source).model_copy(update={"path": str(file), "include": (), "exclude": ()})):
        yield Example(document.text, inside[0], "")


def plain(source: LabelledSource) -> SourceConfig:
    """The source as the data room knows it."""
    return SourceConfig.model_validate(source.model_dump(include=set(SourceConfig.model_fields)))


def _example(document: Document, text: str, label: str, group: str | None, where: str) -> Example:
    found = document.metadata.get(label)
    if not found:
        known = ", ".join(sorted(document.metadata))
        raise DataError(
            "an example has no label", where=where, found=f"nothing under {label!r} at {text[:40]!r}; there is: {known}"
        )
    return Example(text, found, document.metadata.get(group, "") if group else "")
