"""pomona as a contender: the public Python interface, nothing private."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.meter import Meter
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:
    import torch


class RandomStream:
    """Random tokens as a pure function of the step, for throughput: nothing there depends on what they say."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[dict[str, torch.Tensor]]:
        """Rows (B, T+1) of step `step`."""
        import torch

        draws = torch.Generator().manual_seed(step % 16)
        size = (self.shape.sequences, self.shape.context + 1)
        rows = torch.randint(self.shape.vocab_size, size, generator=draws)
        return [{"tokens": part} for part in rows.chunk(micro_batches)]


def train_step(meter: Meter, *, optimizer: str, shape: str = "reference", fit: dict[str, Any] | None = None) -> None:
    """`pomona.engine.fit` on random tokens, for as long as the harness likes: one tick per optimizer step."""
    from benchmarks.shapes import make_model
    from pomona import anatomy
    from pomona.engine import FitConfig
    from pomona.engine import fit as run
    from pomona.objectives.next_token import NextTokenConfig
    from pomona.schedules.warmup_cosine import WarmupCosineConfig

    sizes, steps = SHAPES[shape], 1_000_000
    model = make_model(sizes)
    module, name = {
        "adamw": ("pomona.optimizers.adamw", "AdamwConfig"),
        "muon": ("pomona.optimizers.muon", "MuonConfig"),
        "conda": ("pomona.optimizers.conda", "CondaConfig"),
        "sophia": ("pomona.optimizers.sophia", "SophiaConfig"),
    }[optimizer]
    built = getattr(importlib.import_module(module), name)().build(anatomy.of(model), total_steps=steps)
    built.register_step_post_hook(lambda *_: meter.tick())
    run(
        model,
        NextTokenConfig().build(None),
        RandomStream(sizes),
        built,
        WarmupCosineConfig().build(total_steps=steps),
        steps=steps,
        config=FitConfig(**(fit or {})),
    )


def make_tokens(meter: Meter, *, source: str, folder: str, vocab_size: int) -> None:
    """Corpus, tokenizer and shards of a source, each step an event with its facts."""
    from pomona import data

    corpus = data.make_corpus(data.CorpusConfig.parse({"sources": [source]}), Path(folder) / "corpus")
    meter.report("extracted", facts=dict(corpus.facts))
    tokenizer = data.train_tokenizer(corpus, vocab_size=vocab_size)
    meter.report("tokenizer")
    tokens = data.make_tokens(corpus, tokenizer, Path(folder) / "tokens")
    meter.report("encoded", train=tokens.train.count, validation=tokens.validation.count)


def open_tokens(meter: Meter, *, folder: str) -> None:
    """Each tick opens made shards and reads one batch's worth of the first tokens."""
    from pomona.data import Tokens

    while True:
        tokens = Tokens.open(Path(folder))
        int(tokens.train.tokens[:4096].sum())
        meter.tick()
