"""The `tokenizers` library by itself: train a byte-level BPE on documents that are in memory, encode them."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.meter import Meter


def train_and_encode(meter: Meter, *, documents: str, vocab_size: int) -> None:
    """Events `tokenizer` and `encoded`; the documents come from a JSONL file with a field `text`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    with Path(documents).open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    meter.report("read", documents=len(texts))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    meter.report("tokenizer")
    meter.report("encoded", tokens=sum(len(each.ids) for each in tokenizer.encode_batch(texts)))
