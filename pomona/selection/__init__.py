"""Which part of a corpus a model is trained on. A selector scores chunks of tokens; the best of them are kept."""

from __future__ import annotations

from pomona.selection.choice import keep_highest
from pomona.selection.chunks import Chunks
from pomona.selection.config import Role, SelectionConfig
from pomona.selection.likelihood import nats_of_chunks
from pomona.selection.miniplm import MiniplmConfig
from pomona.selection.perplexity_filter import PerplexityFilterConfig
from pomona.selection.random_subset import RandomSubsetConfig

__all__ = [
    "Chunks",
    "MiniplmConfig",
    "PerplexityFilterConfig",
    "RandomSubsetConfig",
    "Role",
    "SelectionConfig",
    "keep_highest",
    "nats_of_chunks",
]
