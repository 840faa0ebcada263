"""From one part of a source to documents: text files, JSONL, parquet and hub datasets."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from pomona.data.config import SourceConfig
from pomona.data.documents import Document
from pomona.ground.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Reading:
    """What reading counted beside the documents it gave."""

    source: SourceConfig
    bad_lines: int = 0
    examples: list[str] = field(default_factory=list)

    def bad_line(self, what: str, where: str, found: str) -> None:
        """Stop at a line that cannot be read, or count it, as the source wants it."""
        if self.source.on_bad_lines == "error":
            raise DataError(
                what, where=where, found=found, do="mend the line, or set on_bad_lines: skip to leave such lines out"
            )
        self.bad_lines += 1
        if len(self.examples) < 3:
            self.examples.append(f"{where}: {found}")


def read_source(source: SourceConfig) -> Iterator[Document]:
    """All documents of a source as they are, in order, read in this process."""
    from pomona.data.sources import parts_of

    reading = Reading(source)
    for part in parts_of(source):
        yield from read_part(part, reading)


def read_part(part: Mapping[str, Any], reading: Reading) -> Iterator[Document]:
    """The documents of one part, in order."""
    reader = part["reader"]
    if reader == "text":
        for file in part["files"]:
            yield from read_text(Path(file), reading)
    elif reader == "lines":
        yield from read_lines(Path(part["file"]), part["span"], reading)
    elif reader == "parquet":
        yield from read_parquet(Path(part["file"]), part["groups"], reading)
    elif reader == "hub":
        yield from read_hub(part["rows"], reading)
    else:
        from pomona.data.embedded import read_environment

        yield from read_environment(part["files"], reading.source.path)


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return file.open("rb")


def read_text(file: Path, reading: Reading) -> Iterator[Document]:
    """A file is one document. With `on_bad_lines: skip` its lines that are not UTF-8 are left out."""
    with _readable(file), _open(file) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        good = []
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            try:
                good.append(line.decode())
            except UnicodeDecodeError as error:
                reading.bad_line("a line is not valid UTF-8", f"{file}:{number}", _byte_found(error))
        text = "".join(good)
    yield Document(text, {"source": str(file)})


def read_lines(file: Path, span: Sequence[int] | None, reading: Reading) -> Iterator[Document]:
    """JSONL: the objects whose lines begin within `span` (bytes), or all of them."""
    with _readable(file), _open(file) as stream:
        first, end = span or (0, None)
        if first:
            stream.seek(first - 1)
            stream.readline()  # the line that the part before begins belongs to that part
        position, counted = stream.tell(), 0
        while end is None or position < end:
            line = stream.readline()
            if not line:
                return
            counted += 1
            here = (file, first, counted)
            position += len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig").rstrip())
            except UnicodeDecodeError as error:
                reading.bad_line("a line is not valid UTF-8", _line(*here), _byte_found(error))
                continue
            except json.JSONDecodeError as error:
                found = f"{error.msg} at column {error.colno}"
                reading.bad_line("a line is not valid JSON", _line(*here), found)
                continue
            if not isinstance(record, dict):
                found = f"a JSON {type(record).__name__}"
                reading.bad_line("a line is not a JSON object", _line(*here), found)
                continue
            if reading.source.text not in record:
                raise _no_field(reading.source.text, record, _line(*here), "text")
            for name in reading.source.metadata:
                if name not in record:
                    raise _no_field(name, record, _line(*here), "metadata")
            yield _document(record, reading.source, str(file))


def _line(file: Path, first: int, counted: int) -> str:
    """`file:line` of the `counted`-th line of the part that begins at byte `first`; counted only when asked for."""
    before = 0
    if first:
        with file.open("rb") as stream:
            while stream.tell() < first and stream.readline():
                before += 1
    return f"{file}:{before + counted}"


def parquet_groups(file: Path) -> list[int]:
    """Uncompressed bytes of each row group."""
    from pyarrow import parquet

    with _readable(file):
        metadata = parquet.read_metadata(file)
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def read_parquet(file: Path, groups: Sequence[int], reading: Reading) -> Iterator[Document]:
    """The rows of some row groups; only the columns that are needed are read."""
    from pyarrow import parquet

    source = reading.source
    with _readable(file), parquet.ParquetFile(file) as table:
        names = table.schema_arrow.names
        _require_columns(names, source, str(file))
        for batch in table.iter_batches(1024, row_groups=list(groups), columns=[source.text, *source.metadata]):
            for record in batch.to_pylist():
                yield _document(record, source, str(file))


def read_hub(rows: Sequence[int], reading: Reading) -> Iterator[Document]:
    """Rows of a hub dataset."""
    dataset = load_hub(reading.source)
    wanted = dataset.select(range(*rows)).select_columns([reading.source.text, *reading.source.metadata])
    for record in wanted:
        yield _document(record, reading.source, reading.source.path)


@lru_cache(maxsize=2)
def load_hub(source: SourceConfig) -> Dataset:
    """The dataset of `hub:NAME`, `hub:OWNER/NAME`, `hub:OWNER/NAME/CONFIG` or `hub:/a/local/folder`.

    Raises:
        DataError: it cannot be loaded, or has no such split or column.
    """
    import datasets

    name = source.path.removeprefix("hub:")
    local = Path(name).expanduser()
    words = name.split("/")
    where, config = (str(local), None) if local.is_dir() else ("/".join(words[:2]), "/".join(words[2:]) or None)
    try:
        dataset = datasets.load_dataset(where, config, split=source.split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            "the dataset could not be loaded",
            where=f"{source.path}, split {source.split!r}",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            do="check its name, configuration, split and the network, or give a local folder",
        ) from error
    _require_columns(dataset.column_names, source, source.path)
    return dataset


def _require_columns(names: Sequence[str], source: SourceConfig, where: str) -> None:
    for name, role in [(source.text, "text"), *((name, "metadata") for name in source.metadata)]:
        if name not in names:
            raise _no_field(name, names, where, role)


def _no_field(name: str, names: Sequence[str] | Mapping[str, Any], where: str, role: str) -> DataError:
    return DataError(
        f"there is no field {name!r}",
        where=where,
        found=", ".join(map(repr, names)) or "no fields",
        do=f"set `{role}` of the source to one of these",
    )


def _document(record: Mapping[str, Any], source: SourceConfig, where: str) -> Document:
    text = record[source.text]
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise DataError(
            f"the field {source.text!r} does not hold text", where=where, found=f"a {type(text).__name__}: {text!r:.60}"
        )
    metadata = {name: str(record[name]) for name in source.metadata if record[name] is not None}
    return Document(text, {"source": where, **metadata})


def _byte_found(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn the errors of a file that cannot be read into a `DataError` that names it."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, EOFError, zlib.error, ArrowException) as error:
        found = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError("the file cannot be read", where=str(file), found=found[0], do="mend or remove it") from error
