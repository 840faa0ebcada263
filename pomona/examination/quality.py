"""How well a model predicts held-out text: nats per token, bits per byte, perplexity, first guesses, part by part.

The sum over batches is `engine.evaluate`; here models are opened, parts of the text are told apart, and the parts are
put together again so that the whole is exactly what all parts hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pomona.examination.records import Examination
from pomona.ground.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pomona.engine import Batch, Ledger, Objective, Quality

BIGGEST_EXPONENT = 700.0
"""exp of more overflows a double; a perplexity that large means nothing anyway."""


class HasText(Protocol):
    """What is needed of a document (`data.Document` is one)."""

    @property
    def text(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...


def examine(
    model: PreTrainedModel | Path | str,
    objective: Objective,
    batches: Sequence[Batch] | Mapping[str, Sequence[Batch]],
    *,
    token_bytes: Tensor | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> Examination:
    """Measure a model on held-out batches. The same call gives the same numbers.

    Args:
        model: a live model, or a folder in Hugging Face's form (dense, or packed by compressed-tensors). A live
            model keeps its mode (train or eval), weights and device.
        objective: what is scored, such as `objectives.NextToken()`.
        batches: from `data.validation_batches`; or parts of the text by name, each with its batches (see
            `batches_by`), which are then reported as slices of the whole.
        token_bytes: (V,) integer, UTF-8 bytes of each token; without it there are no bits per byte.
        dtype: bfloat16 to score as in training; None to score in float32.
        seed: of the objective's corruption, if it has one.
        ledger: charged under `evaluate`.

    Raises:
        DataError: there is no batch, a batch counts no target, or the folder holds no model.
        ConfigError: a batch holds tokens that the model does not know.
    """
    from pomona import anatomy
    from pomona.engine import evaluate

    parts = batches if isinstance(batches, Mapping) else {"": batches}
    empty = [name for name, part in parts.items() if not part]
    if not parts or empty:
        what = f"the part {empty[0]!r} of the held-out text is empty" if any(empty) else "there is no held-out text"
        raise DataError(
            what, needs="at least one batch", do="set aside more text for validation, or leave the part out"
        )
    opened = anatomy.load(model) if isinstance(model, Path | str) else model
    body = anatomy.of(opened)
    largest = max(int(batch["tokens"].max()) for part in parts.values() for batch in part if "tokens" in batch)
    if largest >= body.vocab_size:
        raise ConfigError(
            "the held-out text holds tokens that the model does not know",
            needs=f"tokens below {body.vocab_size:,}",
            found=f"token {largest:,}",
            do="encode the text with the tokenizer that belongs to the model",
        )
    measured = {
        name: evaluate(body, objective, part, token_bytes=token_bytes, dtype=dtype, seed=seed, ledger=ledger)
        for name, part in parts.items()
    }
    slices = {name: _pooled([quality]) for name, quality in measured.items()} if isinstance(batches, Mapping) else {}
    return _pooled(list(measured.values()), slices)


def batches_by(
    documents: Iterable[HasText],
    tokenizer: PreTrainedTokenizerBase,
    *,
    by: str = "source",
    batch_size: int,
    seq_length: int,
    limit_tokens: int,
    most: int = 8,
) -> dict[str, list[Batch]]:
    """Held-out batches for each value of a metadata field, such as each source.

    Documents are joined with the end-of-text token between them, in their order, and cut into windows; what does not
    fill a window is left out. A part that fills none is left out.

    Args:
        documents: held-out ones, such as `Corpus.open(folder).documents("validation")`.
        by: the metadata field; documents without it form the part "other".
        limit_tokens: targets per part, rounded down to whole windows.
        most: parts, largest first, ties by name; the rest is pooled as "other".

    Raises:
        DataError: no document has the field (the fields found are listed), or no part fills a window.
    """
    import torch

    texts: dict[str, list[str]] = {}
    fields: set[str] = set()
    for document in documents:
        fields |= set(document.metadata)
        texts.setdefault(str(document.metadata.get(by, "other")), []).append(document.text)
    if by not in fields:
        found = ", ".join(sorted(fields)) or "none"
        raise DataError(f"no document says its {by!r}", found=found, do="choose one of the fields found")
    order = sorted(texts, key=lambda name: (name == "other", -sum(map(len, texts[name])), name))
    rest = [name for name in order[most:] if name != "other"]
    pooled = [text for name in (*rest, "other") for text in texts.pop(name, ())]
    texts = {name: texts[name] for name in order if name in texts} | ({"other": pooled} if pooled else {})
    parts: dict[str, list[Batch]] = {}
    end = tokenizer.eos_token_id
    for name in texts:
        tokens: list[int] = []
        for text in texts[name]:
            tokens += [*tokenizer(text, add_special_tokens=False)["input_ids"], *([] if end is None else [end])]
            if len(tokens) > limit_tokens:
                break
        windows = min(len(tokens) - 1, limit_tokens) // seq_length
        if windows < 1:
            continue
        rows = [tokens[start * seq_length : (start + 1) * seq_length + 1] for start in range(windows)]
        parts[name] = [
            {"tokens": torch.tensor(rows[first : first + batch_size])} for first in range(0, windows, batch_size)
        ]
    if not parts:
        raise DataError(
            "no part of the held-out text fills a window",
            needs=f"{seq_length + 1:,} tokens in one value of {by!r}",
            do="use a shorter seq_length, or set aside more text for validation",
        )
    return parts


def _pooled(qualities: Sequence[Quality], slices: Mapping[str, Examination] | None = None) -> Examination:
    """The quality over all targets of several measurements, weighted by what each counted."""
    tokens = sum(quality.tokens for quality in qualities)
    size = sum(quality.bytes for quality in qualities)
    nats = sum(quality.nats_per_token * quality.tokens for quality in qualities) / tokens
    known = all(quality.bits_per_byte is not None for quality in qualities)
    bits = (
        sum((quality.bits_per_byte or 0.0) * quality.bytes for quality in qualities) / size if known and size else None
    )
    guessed = all(quality.accuracy is not None for quality in qualities)
    right = sum((quality.accuracy or 0.0) * quality.tokens for quality in qualities) / tokens if guessed else None
    return Examination(nats, bits, math.exp(min(nats, BIGGEST_EXPONENT)), right, tokens, size, dict(slices or {}))
