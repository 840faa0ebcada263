"""From a corpus to token shards: parallel, resumable, and the same bytes however often it was interrupted."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pomona.data.shards import SUFFIX, ShardFacts, read_facts, token_type, write_shard
from pomona.data.tokenizer import end_of_document, token_bytes, tokenizer_hash, vocabulary_size
from pomona.data.tokens import SPLITS, Tokens, metadata_file
from pomona.data.workers import default_workers
from pomona.ground.console import progress_bar
from pomona.ground.errors import ConfigError, DamagedArtefact
from pomona.ground.files import (
    clear_partial,
    content_hash,
    folder_lock,
    is_intact,
    read_manifest,
    storage_errors,
    write_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pomona.data.corpus import Corpus

FORMAT = 1
_BYTES_PER_TOKEN = 4  # a rough rule, for the size of shards only

Encode = Callable[[list[str]], list[list[int]]]


def make_tokens(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
    *,
    shard_tokens: int = 2**20,
    workers: int | None = None,
) -> Tokens:
    """Tokenize a corpus into `folder`; every document is followed by the tokenizer's end token.

    A killed call leaves its finished shards beside `folder`; the same call later goes on after them. If `folder`
    already holds the same tokens, they are checked and only damaged shards are made again. Text that looks like a
    special token is encoded as ordinary text.

    Args:
        shard_tokens: tokens of a shard, roughly; it holds whole row groups of the corpus.
        workers: threads that prepare shards (the tokenizer itself also uses every core). Default: one per core.

    Raises:
        FolderBusy: another process makes tokens there.
        ConfigError: the tokenizer has no end token, or gives ids outside its own vocabulary.
    """
    folder = Path(folder)
    vocab_size = vocabulary_size(tokenizer)
    plan = {
        "format": FORMAT,
        "corpus": corpus.content,
        "tokenizer": tokenizer_hash(tokenizer),
        "shard_tokens": shard_tokens,
    }
    unfinished = folder.with_name(f".{folder.name}.{content_hash(plan)}.unfinished")
    if _is_made(folder, plan):
        if is_intact(folder):
            return Tokens.open(folder)
        if not unfinished.exists():
            folder.rename(unfinished)  # its intact shards are kept
    with folder_lock(unfinished):
        clear_partial(unfinished)
        jobs = [
            (split, number, groups)
            for split in SPLITS
            for number, groups in enumerate(_shard_groups(corpus, split, shard_tokens * _BYTES_PER_TOKEN))
        ]
        encode, end, dtype = encoder(tokenizer), end_of_document(tokenizer), token_type(vocab_size)

        def make(job: tuple[str, int, list[int]]) -> tuple[str, ShardFacts]:
            split, number, groups = job
            stem = f"{split}-{number:05d}"
            facts = _finished_shard(unfinished, stem)
            if facts is None:
                texts = [text for group in groups for text in corpus.texts(split, group)]
                tokens, lengths = _encode_documents(texts, encode, end, vocab_size, dtype)
                facts = write_shard(unfinished, stem, tokens, lengths, sum(len(text.encode()) for text in texts))
            return split, facts

        shards: dict[str, list[ShardFacts]] = {split: [] for split in SPLITS}
        with progress_bar() as bar, ThreadPoolExecutor(workers or default_workers()) as pool:
            task = bar.add_task("tokenizing", total=len(jobs))
            for split, facts in pool.map(make, jobs):
                shards[split].append(facts)
                bar.advance(task)
        with storage_errors(unfinished):
            _finish(unfinished, folder, corpus, tokenizer, {**plan, "vocab_size": vocab_size}, shards)
    return Tokens.open(folder)


def _is_made(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether `folder` holds, intact or not, what the plan would make."""
    try:
        facts = read_manifest(folder)
    except DamagedArtefact:
        return False
    return all(facts.get(name) == value for name, value in plan.items())


def _finish(
    unfinished: Path,
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, Any],
    shards: dict[str, list[ShardFacts]],
) -> None:
    from pyarrow import parquet

    tokenizer.save_pretrained(unfinished / "tokenizer")
    token_bytes(tokenizer).astype("<i4").tofile(unfinished / "token_bytes.i32")
    for split in SPLITS:
        parquet.write_table(corpus.metadata(split), unfinished / metadata_file(split))
    named = {facts.name for split in shards.values() for facts in split}
    for stray in unfinished.glob("*" + SUFFIX):
        if stray.name not in named:
            stray.unlink()
    totals = {
        split: {
            "documents": sum(each.documents for each in shards[split]),
            "tokens": sum(each.tokens for each in shards[split]),
            "bytes": sum(each.text_bytes for each in shards[split]),
        }
        for split in SPLITS
    }
    (unfinished / ".lock").unlink()
    write_manifest(unfinished, {**facts, "splits": totals, "shards": shards})
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def _shard_groups(corpus: Corpus, split: str, shard_bytes: int) -> Iterator[list[int]]:
    """Consecutive row groups that make one shard."""
    groups: list[int] = []
    size = 0
    for group, group_bytes in enumerate(corpus.group_bytes(split)):
        groups.append(group)
        size += group_bytes
        if size >= shard_bytes:
            yield groups
            groups, size = [], 0
    if groups:
        yield groups


def _finished_shard(folder: Path, stem: str) -> ShardFacts | None:
    """The shard of an earlier, killed call, if it is there and intact."""
    for path in folder.glob(f"{stem}-*{SUFFIX}"):
        facts = read_facts(path)
        if facts is not None:
            return facts
    return None


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """Texts to token ids without special tokens, in parallel where the tokenizer is a fast one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        slow: Encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]  # noqa: E731
        return slow
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # text that spells a special token stays text
    return lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _encode_documents(
    texts: list[str], encode: Encode, end: int, vocab_size: int, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    documents = encode(texts)
    lengths = np.array([len(ids) + 1 for ids in documents], dtype="<u4")
    tokens = np.empty(int(lengths.sum()), dtype=np.int64)
    at = 0
    for ids in documents:
        tokens[at : at + len(ids)] = ids
        at += len(ids) + 1
        tokens[at - 1] = end
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ConfigError(
            "the tokenizer gives ids outside its own vocabulary",
            needs=f"ids below {vocab_size:,}",
            found=f"an id of {int(tokens.max()):,}",
        )
    return tokens.astype(dtype), lengths
