"""The tokens of a corpus as two long sequences, train and validation, that are opened without being read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pomona.data.shards import Shard, ShardFacts, damaged, token_type
from pomona.ground.errors import ConfigError, DataError, did_you_mean
from pomona.ground.files import read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("train", "validation")


def metadata_file(split: str) -> str:
    """Where a folder of tokens keeps what is known about the documents of a split."""
    return f"{split}-metadata.parquet"


class TokenArray:
    """Shards seen as one array: `len`, an index or a slice, and `read` over the ring."""

    def __init__(self, pieces: Sequence[NDArray[Any] | Shard], dtype: np.dtype[Any]) -> None:
        self._pieces, self.dtype = list(pieces), dtype
        sizes = [piece.facts.tokens if isinstance(piece, Shard) else len(piece) for piece in self._pieces]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._span(start, max(start, stop))[::step] if step > 0 else np.asarray(self)[index]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"token {index} of {len(self)}")
        return self._span(position, position + 1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._span(0, len(self)).astype(dtype or self.dtype)

    def read(self, start: int, count: int) -> NDArray[Any]:
        """`count` tokens from `start` on; after the last token follows the first one."""
        parts = []
        while count > 0:
            part = self._span(start, min(start + count, len(self)))
            parts.append(part)
            start, count = 0, count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _span(self, start: int, stop: int) -> NDArray[Any]:
        parts = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for piece, end in zip(self._pieces[first:], self._ends[first:], strict=True):
            if start >= stop:
                break
            tokens = piece.tokens if isinstance(piece, Shard) else piece
            begin = int(end) - len(tokens)
            parts.append(tokens[start - begin : stop - begin])
            start = int(end)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)


class Split:
    """One long token sequence and the places where its documents begin.

    Args:
        tokens: the sequence.
        lengths: tokens of each document, summing to `len(tokens)`; read only when `document_starts` is.
        text_bytes: UTF-8 bytes of the text that the tokens stand for.
        name: how messages call it.
    """

    def __init__(
        self,
        tokens: TokenArray,
        lengths: Sequence[NDArray[Any] | Shard],
        text_bytes: int,
        name: str = "tokens",
    ) -> None:
        self.tokens, self._lengths, self.bytes, self.name = tokens, lengths, text_bytes, name

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]], *, text_bytes: int = 0, name: str = "tokens") -> Split:
        """A split that lives in memory, of documents given as token ids."""
        lengths = np.array([len(document) for document in documents], dtype=np.uint32)
        joined = np.array([token for document in documents for token in document], dtype=np.uint32)
        return cls(TokenArray([joined], joined.dtype), [lengths], text_bytes, name)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self.count:,} tokens)"

    @property
    def count(self) -> int:
        """Tokens."""
        return len(self.tokens)

    @cached_property
    def document_starts(self) -> NDArray[np.int64]:
        """Position of the first token of each document, ascending from 0."""
        lengths = [piece.lengths if isinstance(piece, Shard) else piece for piece in self._lengths]
        starts = np.zeros(sum(map(len, lengths)), dtype=np.int64)
        if len(starts):
            np.cumsum(np.concatenate(lengths)[:-1], out=starts[1:])
        return starts

    def documents_at(self, start: int, count: int) -> NDArray[np.int32]:
        """For `count` tokens from `start` on (over the ring), the number of their document, counted from 0 there."""
        begins = np.zeros(count, dtype=np.int32)
        done = 0
        while done < count:
            low, high = np.searchsorted(self.document_starts, (start, start + count - done))
            begins[self.document_starts[low:high] - start + done] = 1
            done, start = done + self.count - start, 0
        begins[0] = 0
        return np.cumsum(begins, dtype=np.int32)


class Tokens:
    """A finished folder of token shards. Opening reads the manifest and the sizes of files, nothing else."""

    def __init__(self, folder: Path, facts: dict[str, Any], *, check: bool = True) -> None:
        self.folder, self.facts = folder, facts
        self._shards = {
            split: [Shard(folder, ShardFacts(*shard), check) for shard in facts["shards"][split]] for split in SPLITS
        }
        wrong = [shard for shard in self._all if not shard.size_is_right()]
        if wrong:
            raise damaged(wrong, "a token shard", len(self._all) - len(wrong))

    @classmethod
    def open(cls, folder: Path | str, *, check: bool = True) -> Tokens:
        """Open a folder that `make_tokens` wrote.

        Args:
            check: compare a shard's checksum when it is first read. Switch off for corpora so large that reading
                them once is a cost; `verify` can do it at any time.

        Raises:
            DamagedArtefact: the folder is unfinished, or a shard is missing or has the wrong size.
        """
        return cls(Path(folder), read_manifest(Path(folder)), check=check)

    @property
    def _all(self) -> list[Shard]:
        return [shard for split in SPLITS for shard in self._shards[split]]

    def _split(self, name: str) -> Split:
        shards = self._shards[name]
        text_bytes = sum(shard.facts.text_bytes for shard in shards)
        return Split(TokenArray(shards, token_type(self.vocab_size)), shards, text_bytes, name)

    @cached_property
    def train(self) -> Split:
        return self._split("train")

    @cached_property
    def validation(self) -> Split:
        return self._split("validation")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id the tokenizer can give."""
        return int(self.facts["vocab_size"])

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """(V,) UTF-8 bytes that each token stands for, 0 for special tokens."""
        return np.fromfile(self.folder / "token_bytes.i32", dtype="<i4")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that made the tokens, loaded on first use."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        return tokenizer

    def metadata(self, split: str, column: str) -> list[str | None]:
        """What is known about each document of a split under one name, in order; None where nothing is.

        Raises:
            DataError: no document has it, or the tokens were made before it was kept.
        """
        from pyarrow import parquet

        path = self.folder / metadata_file(split)
        if not path.is_file():
            raise DataError(
                "these tokens do not know where their documents come from",
                where=str(self.folder),
                found="tokens of an earlier version, or a selection",
                do="tokenize the corpus again in another folder",
            )
        known = [dict(each) for each in parquet.read_table(path)["metadata"].to_pylist()]
        if not any(column in each for each in known):
            names = sorted({name for each in known for name in each})
            raise DataError(
                f"no document of the {split} split has {column!r}",
                where=str(self.folder),
                found=", ".join(names) or "no metadata",
                do=did_you_mean(column, names),
            )
        return [each.get(column) for each in known]

    def verify(self) -> None:
        """Compare every shard with its checksum. Raises `DamagedArtefact` naming each damaged one."""
        wrong = [shard for shard in self._all if not shard.is_intact()]
        if wrong:
            raise damaged(wrong, "a token shard", len(self._all) - len(wrong))

    def require_vocabulary(self, vocab_size: int, model: str = "the model") -> None:
        """Raise `ConfigError` unless a model with `vocab_size` embeddings knows every token."""
        if vocab_size < self.vocab_size:
            raise ConfigError(
                f"{model} does not know every token of this corpus",
                where=str(self.folder),
                needs=f"a vocabulary of at least {self.vocab_size:,} tokens",
                found=f"{vocab_size:,} embeddings",
                do="tokenize the corpus with the model's own tokenizer, or give the model a larger vocabulary",
            )

    def require_split(self, name: str, at_least: int = 1) -> Split:
        """The named split; `DataError` when it has fewer than `at_least` tokens."""
        split = self.train if name == "train" else self.validation
        if split.count < at_least:
            raise DataError(
                f"the {name} split is too small",
                where=str(self.folder),
                needs=f"{at_least:,} tokens",
                found=f"{split.count:,} tokens",
                do="add documents, or set aside a larger fraction for validation",
            )
        return split
