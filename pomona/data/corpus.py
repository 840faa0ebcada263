"""A corpus: documents from all sources without copies, divided into train and validation, in one folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pomona.data.config import CorpusConfig
from pomona.data.dedup import PLACES, families, near_copies, similar_pairs
from pomona.data.documents import Document
from pomona.data.permutation import derive_key, mix64
from pomona.data.sources import fingerprint, parts_of
from pomona.data.workers import run_tasks
from pomona.ground.console import progress_bar, warn
from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import MANIFEST, atomic_folder, content_hash, read_json, read_manifest, storage_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

SPLITS = ("train", "validation")
TRAIN, VALIDATION, COPY, NEAR_COPY = range(4)
_GROUP_BYTES = 1 << 21


class Corpus:
    """A finished folder with `train.parquet` and `validation.parquet`. Opening reads the manifest only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, read_manifest(folder)
        for split in SPLITS:
            if not self._path(split).is_file():
                raise DamagedArtefact(f"{self._path(split)} is missing", do="make the corpus again")

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Open a folder that `make_corpus` wrote. Raises `DamagedArtefact` when it is not complete."""
        return cls(Path(folder))

    @cached_property
    def content(self) -> str:
        """A hash of the documents themselves: two corpora with the same one are the same."""
        files = read_json(self.folder / MANIFEST)["files"]
        return content_hash([files[self._path(split).name]["sha256"] for split in SPLITS])

    def count(self, split: str) -> int:
        """Documents of a split."""
        return int(self.facts["splits"][split]["documents"])

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of the text of a split."""
        return int(self.facts["splits"][split]["bytes"])

    def documents(self, split: str = "train") -> Iterator[Document]:
        """The documents in order: train as the sources have them, validation in the order of their hashes."""
        with self._table(split) as table:
            for group in range(table.num_row_groups):
                columns = table.read_row_group(group)
                pairs = zip(columns["text"].to_pylist(), columns["metadata"].to_pylist(), strict=True)
                yield from (Document(text, dict(metadata)) for text, metadata in pairs)

    def texts(self, split: str, group: int) -> list[str]:
        """The texts of one row group."""
        with self._table(split) as table:
            texts: list[str] = table.read_row_group(group, columns=["text"], use_threads=False)["text"].to_pylist()
        return texts

    def metadata(self, split: str) -> pa.Table:
        """What is known about each document, in order: one column `metadata` of names and values."""
        from pyarrow import parquet

        return parquet.read_table(self._path(split), columns=["metadata"])

    def group_bytes(self, split: str) -> list[int]:
        """About how many bytes of text each row group holds."""
        with self._table(split) as table:
            groups = range(table.num_row_groups)
            return [table.metadata.row_group(group).column(0).total_uncompressed_size for group in groups]

    def _path(self, split: str) -> Path:
        return self.folder / f"{split}.parquet"

    def _table(self, split: str) -> parquet.ParquetFile:
        from pyarrow import ArrowInvalid, parquet

        try:
            return parquet.ParquetFile(self._path(split))
        except (ArrowInvalid, OSError) as error:
            raise DamagedArtefact(
                f"{self._path(split)} is damaged", found=str(error), do="remove the folder and make the corpus again"
            ) from error


class _Spooled(NamedTuple):
    """What is known of every document after extraction, in the order of the sources."""

    sizes: NDArray[np.int64]
    digests: NDArray[np.uint64]
    signatures: NDArray[np.uint32]
    sources: NDArray[np.int64]
    files: list[Path]
    counts: list[dict[str, Any]]


def make_corpus(config: CorpusConfig, folder: Path | str, *, workers: int | None = None) -> Corpus:
    """Read all sources, leave out copies, set documents aside for validation and write the folder atomically.

    The result depends on the configuration and the sources alone, not on the number of workers. Documents that are
    related (similarity of 0.5 or more, directly or through others) are set aside together or not at all, so that no
    near copy of a validation document is trained on.

    Raises:
        DataError: a source is missing, unreadable or has no such field, a line is bad, or no document is left.
    """
    folder = Path(folder)
    facts: dict[str, Any] = {"fingerprint": fingerprint(config), "config": config.model_dump(mode="json")}
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as spool:
            spooled = _extract(config, Path(spool), workers)
            if len(spooled.sizes) == 0:
                raise _empty(config, spooled)
            fate = _fate(spooled, config)
            facts |= _describe(config, spooled, fate)
            with atomic_folder(folder, facts) as part:
                _write(part, spooled, fate, config.seed)
    for source in facts["sources"]:
        if source["bad_lines"]:
            warn(f"{source['path']}: skipped {source['bad_lines']} bad lines, as {source['bad_line_examples'][0]}")
    return Corpus.open(folder)


def _extract(config: CorpusConfig, spool: Path, workers: int | None) -> _Spooled:
    tasks = [
        {
            "source": source.model_dump(mode="json"),
            "part": part,
            "out": str(spool / f"{number}-{index}.arrow"),
            "min_bytes": config.min_bytes,
            "max_bytes": config.max_bytes,
        }
        for number, source in enumerate(config.sources)
        for index, part in enumerate(parts_of(source))
    ]
    counts = []
    with progress_bar() as bar:
        progress = bar.add_task("reading documents", total=len(tasks))
        for count in run_tasks("pomona.data.extract:extract", tasks, workers):
            counts.append(count)
            bar.advance(progress)
    sizes, digests, signatures = [np.empty(0, "i8")], [np.empty((0, 2), "u8")], [np.empty((0, PLACES), "u4")]
    sources: list[int] = []
    files = [Path(str(task["out"])) for task in tasks]
    for file in files:
        for batch in _spooled_batches(file):
            sizes.append(batch["bytes"].to_numpy())
            digests.append(np.frombuffer(b"".join(batch["digest"].to_pylist()), dtype="u8").reshape(-1, 2))
            signatures.append(batch["signature"].flatten().to_numpy().reshape(-1, PLACES))
            sources += [int(file.stem.partition("-")[0])] * len(batch)
    return _Spooled(
        np.concatenate(sizes),
        np.concatenate(digests),
        np.concatenate(signatures),
        np.array(sources, dtype=np.int64),
        files,
        counts,
    )


def _spooled_batches(file: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
        yield from reader


def _fate(spooled: _Spooled, config: CorpusConfig) -> NDArray[np.int8]:
    """(documents,) what becomes of each: TRAIN, VALIDATION, COPY or NEAR_COPY."""
    fate = np.full(len(spooled.sizes), COPY, dtype=np.int8)
    first = np.sort(np.unique(spooled.digests, axis=0, return_index=True)[1])
    fate[first] = TRAIN
    threshold = config.near_duplicates or 2.0
    pairs, similarity = similar_pairs(spooled.signatures[first], threshold)
    copies = near_copies(pairs, similarity, len(first), threshold)
    fate[first[copies]] = NEAR_COPY
    fate[first[~copies & _set_aside(families(pairs, len(first)), ~copies, spooled.digests[first], config)]] = VALIDATION
    return fate


def _set_aside(
    family: NDArray[np.int64], kept: NDArray[np.bool_], digests: NDArray[np.uint64], config: CorpusConfig
) -> NDArray[np.bool_]:
    """(documents,) which documents belong to a family that is set aside: chosen by a hash of its smallest hash.

    A family that would be more than a tenth of the validation split is always trained on, so that the split is varied
    and its size is near what was asked for. At least one family is set aside if two are left.
    """
    hashes, rank = _hashes(digests, config.seed), np.full(len(family), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(rank, family[kept], hashes[kept])
    size = np.bincount(family[kept], minlength=len(family))
    heads = np.flatnonzero(size)
    limit = max(int(size[heads].min()), int(config.validation * kept.sum() / 10))
    allowed = heads[size[heads] <= limit]
    chance = mix64(rank)
    chosen = allowed[chance[allowed] < np.uint64(int(config.validation * 2**64))]
    if len(chosen) == 0 and config.validation > 0 and len(heads) > 1:
        chosen = allowed[[chance[allowed].argmin()]]
    return np.isin(family, chosen)


def _hashes(digests: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """(documents,) a uniform hash of each document's content."""
    hashed: NDArray[np.uint64] = mix64(mix64(digests[:, 0] ^ np.uint64(derive_key(seed, "split"))) ^ digests[:, 1])
    return hashed


def _describe(config: CorpusConfig, spooled: _Spooled, fate: NDArray[np.int8]) -> dict[str, Any]:
    def totals(chosen: NDArray[np.bool_]) -> dict[str, int]:
        return {"documents": int(chosen.sum()), "bytes": int(spooled.sizes[chosen].sum())}

    sources = [
        {
            "path": source.path,
            **totals((spooled.sources == number) & (fate <= VALIDATION)),
            "exact_copies": int(((spooled.sources == number) & (fate == COPY)).sum()),
            "near_copies": int(((spooled.sources == number) & (fate == NEAR_COPY)).sum()),
            **_counted(spooled, number),
        }
        for number, source in enumerate(config.sources)
    ]
    return {
        **totals(fate <= VALIDATION),
        "exact_copies": int((fate == COPY).sum()),
        "near_copies": int((fate == NEAR_COPY).sum()),
        "bad_lines": sum(source["bad_lines"] for source in sources),
        "splits": {"train": totals(fate == TRAIN), "validation": totals(fate == VALIDATION)},
        "sources": sources,
    }


def _counted(spooled: _Spooled, number: int) -> dict[str, Any]:
    """What reading one source left out."""
    own = [
        count for file, count in zip(spooled.files, spooled.counts, strict=True) if file.stem.startswith(f"{number}-")
    ]
    return {
        "short": sum(count["short"] for count in own),
        "bad_lines": sum(count["bad_lines"] for count in own),
        "bad_line_examples": [example for count in own for example in count["bad_examples"]][:3],
    }


def _empty(config: CorpusConfig, spooled: _Spooled) -> DataError:
    short = sum(count["short"] for count in spooled.counts)
    bad = sum(count["bad_lines"] for count in spooled.counts)
    return DataError(
        "the corpus is empty",
        where=", ".join(source.path for source in config.sources),
        needs=f"at least one document of {config.min_bytes} bytes",
        found=f"{short} shorter documents, {bad} bad lines",
        do="add text, or lower min_bytes",
    )


def _write(folder: Path, spooled: _Spooled, fate: NDArray[np.int8], seed: int) -> None:
    """Write train in the order of the sources and validation in the order of the hashes, so that any part of its
    beginning is a fair sample."""
    import pyarrow as pa

    aside = []
    first = 0
    with _SplitWriter(folder / "train.parquet") as train:
        for file in spooled.files:
            for batch in _spooled_batches(file):
                here = fate[first : first + len(batch)]
                first += len(batch)
                rows = batch.select(["text", "bytes", "metadata"])
                train.add(rows.filter(pa.array(here == TRAIN)))
                aside.append(rows.filter(pa.array(here == VALIDATION)))
    with _SplitWriter(folder / "validation.parquet") as validation:
        if aside:
            order = np.argsort(_hashes(spooled.digests[fate == VALIDATION], seed), kind="stable")
            table = pa.Table.from_batches(aside).take(pa.array(order))
            for batch in table.combine_chunks().to_batches():
                validation.add(batch)


class _SplitWriter:
    """A parquet file of row groups of about two megabytes of text each."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        from pomona.data.extract import SPOOL

        self._schema = SPOOL.empty_table().select(["text", "metadata"]).schema
        facts = ["metadata.key_value.key", "metadata.key_value.value"]
        self._file = parquet.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=facts)
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows of text, bytes and metadata."""
        ends = np.cumsum(batch["bytes"].to_numpy())
        rows = batch.select(["text", "metadata"])
        begin = 0
        while begin < len(batch):
            room = _GROUP_BYTES - self._bytes + (int(ends[begin - 1]) if begin else 0)
            end = min(len(batch), int(np.searchsorted(ends, room)) + 1)
            self._waiting.append(rows.slice(begin, end - begin))
            self._bytes += int(ends[end - 1]) - (int(ends[begin - 1]) if begin else 0)
            begin = end
            if self._bytes >= _GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._file.write_table(table, row_group_size=len(table))
            self._waiting, self._bytes = [], 0
