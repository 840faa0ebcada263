"""Data: from sources to documents to tokens to batches that are a pure function of (seed, step, rank)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from

if TYPE_CHECKING:
    from pomona.data.config import CorpusConfig, ImagesConfig, SourceConfig
    from pomona.data.corpus import Corpus, make_corpus
    from pomona.data.docstrings import split_pair
    from pomona.data.documents import Document
    from pomona.data.encode import make_tokens
    from pomona.data.image_folder import ImageFolder, make_images
    from pomona.data.images import ImageBatches, Images, ImageStream, read_images
    from pomona.data.mixture import Mixture
    from pomona.data.packed import PackedStream, PackedWindows
    from pomona.data.readers import read_source
    from pomona.data.sources import fingerprint
    from pomona.data.stream import Batch, TokenStream, validation_batches
    from pomona.data.tokenizer import token_bytes, train_tokenizer
    from pomona.data.tokens import Split, Tokens

__getattr__ = names_from(
    __name__,
    {
        "Batch": "stream",
        "Corpus": "corpus",
        "CorpusConfig": "config",
        "Document": "documents",
        "ImageBatches": "images",
        "ImageFolder": "image_folder",
        "ImageStream": "images",
        "Images": "images",
        "ImagesConfig": "config",
        "Mixture": "mixture",
        "PackedStream": "packed",
        "PackedWindows": "packed",
        "SourceConfig": "config",
        "Split": "tokens",
        "TokenStream": "stream",
        "Tokens": "tokens",
        "fingerprint": "sources",
        "make_corpus": "corpus",
        "make_images": "image_folder",
        "make_tokens": "encode",
        "read_images": "images",
        "read_source": "readers",
        "split_pair": "docstrings",
        "token_bytes": "tokenizer",
        "train_tokenizer": "tokenizer",
        "validation_batches": "stream",
    },
)

__all__ = [
    "Batch",
    "Corpus",
    "CorpusConfig",
    "Document",
    "ImageBatches",
    "ImageFolder",
    "ImageStream",
    "Images",
    "ImagesConfig",
    "Mixture",
    "PackedStream",
    "PackedWindows",
    "SourceConfig",
    "Split",
    "TokenStream",
    "Tokens",
    "fingerprint",
    "make_corpus",
    "make_images",
    "make_tokens",
    "read_images",
    "read_source",
    "split_pair",
    "token_bytes",
    "train_tokenizer",
    "validation_batches",
]
