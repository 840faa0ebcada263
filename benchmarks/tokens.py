"""The token stream and the validation set that every contender of `time_to_loss` shares.

A prepared folder holds `train.npy` (N, T+1) and `validation.npy` (M, T+1), rows of tokens with one of look-ahead.
Training rows are in the order in which pomona's own stream draws them with seed 0, so that all see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from benchmarks.meter import Meter

VALIDATION_ROWS = 256
SOURCE, QUICK_SOURCE = "env:docs", "pomona/ground"
"""What is read: the documentation of the installed environment; in a quick run, a folder of this repository."""


def validation_loss(logits: Callable[[torch.Tensor], torch.Tensor], folder: Path, *, batch_size: int = 16) -> float:
    """Mean nats per token over the validation rows, every position but the first counted, logits in fp32.

    Args:
        logits: maps tokens (B, T) to logits (B, T, V).
        folder: a prepared folder.
    """
    import torch
    from torch.nn import functional

    rows = torch.from_numpy(np.load(folder / "validation.npy").astype(np.int64))
    total = 0.0
    with torch.inference_mode():
        for part in rows.split(batch_size):
            scores = logits(part[:, :-1]).float().flatten(0, 1)
            total += float(functional.cross_entropy(scores, part[:, 1:].flatten(), reduction="sum"))
    return total / rows[:, 1:].numel()


def prepare(*, quick: bool = False) -> Path:
    """Make the shared tokens once: env:docs, a BPE of 4096, pomona's shards in `tokens/`, the peers' rows beside them.

    Args:
        quick: a small vocabulary over this repository's own sources, for the toy shape.
    """
    from benchmarks.harness import ROOT, WORK
    from benchmarks.shapes import SHAPES
    from pomona import data

    shape = SHAPES["toy" if quick else "reference"]
    source = str(ROOT / QUICK_SOURCE) if quick else SOURCE
    folder = WORK / ("tokens-quick" if quick else "tokens")
    if (folder / "validation.npy").exists():
        return folder
    validation = {"validation": 0.2} if quick else {}
    config = data.CorpusConfig.parse({"sources": [source], **validation})
    corpus = data.make_corpus(config, folder / "corpus")
    tokenizer = data.train_tokenizer(corpus, vocab_size=shape.vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    tokens = data.make_tokens(corpus, tokenizer, folder / "tokens")
    stream = data.TokenStream(tokens.train, batch_size=16, seq_length=shape.context, seed=0)
    steps = range(20 if quick else 2 * 400)
    rows = np.concatenate([stream.batch(step)[0]["tokens"].numpy() for step in steps])
    np.save(folder / "train.npy", rows.astype(np.uint16))
    # Windows spread evenly over the validation split: its documents are in order of their source.
    held_out = np.asarray(tokens.validation.tokens[:])
    starts = np.linspace(0, held_out.size - shape.context - 1, VALIDATION_ROWS).astype(np.int64)
    windows = np.stack([held_out[start : start + shape.context + 1] for start in starts])
    np.save(folder / "validation.npy", windows.astype(np.uint16))
    return folder


def judge(meter: Meter, *, folder: str, tokens_folder: str, shape: str) -> None:
    """Load an exported folder with plain transformers and report its shape and its validation loss (event `judged`).

    `is_reference` says whether it is the model that was asked for: class, sizes, number of parameters.
    """
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    from benchmarks.shapes import SHAPES, make_model

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    expected = make_model(SHAPES[shape])
    same_class = type(model) is LlamaForCausalLM
    same_shapes = {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in expected.named_parameters()
    }
    settings = ("hidden_act", "num_attention_heads", "num_key_value_heads", "tie_word_embeddings", "attention_bias")
    same_settings = all(getattr(model.config, each) == getattr(expected.config, each) for each in settings)
    meter.report(
        "judged",
        loss=validation_loss(lambda ids: model(input_ids=ids).logits, Path(tokens_folder)),
        is_reference=same_class and same_shapes and same_settings,
    )
