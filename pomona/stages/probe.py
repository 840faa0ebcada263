"""How fast this machine trains a model: a few real steps on random tokens, once per kind of step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from pomona import anatomy
from pomona.anatomy.inputs import picture_input
from pomona.engine import Batch, FitConfig, attach, fit
from pomona.engine.fit import Stream
from pomona.engine.speed import PAYS_AFTER_SECONDS
from pomona.ground.files import content_hash
from pomona.ground.machine import matmul_rate
from pomona.stages.models import create

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pomona.stages.training import TrainingStage

SECONDS_PER_STEP = 1.0
"""The batch of a probed step is cut where it would take longer; shorter steps are timed as they are."""


@dataclass(frozen=True)
class Compilation:
    """What compiling the blocks costs and gains.

    The probe runs without it: compiling would take longer than the whole plan may. The values are those of Llamas of 1
    to 6 blocks in bf16 on two Zen 5 cores (6 to 21 s, 1.2x to 1.5x); other shapes and machines differ.

    Attributes:
        seconds: until the first step has run, nothing being cached.
        again: the same for the next run of equal blocks.
        speedup: of forward and backward pass.
    """

    seconds: float = 15.0
    again: float = 4.0
    speedup: float = 1.4

    def __str__(self) -> str:
        return f"compiled: {self.seconds:g} s, after which a step is about {self.speedup:g}x as fast"


COMPILED = Compilation()
_KNOWN: dict[str, float] = {}


def compiled_seconds(plain: float, runs: int, choice: Literal["auto", "always", "never"]) -> float:
    """Seconds that `runs` runs take as their compilation is chosen, of which `plain` is what they take without."""
    compiled = COMPILED.seconds + (runs - 1) * COMPILED.again + plain / COMPILED.speedup
    if choice == "always":
        return compiled
    return min(plain, compiled) if choice == "auto" and plain > PAYS_AFTER_SECONDS else plain


class RandomTokens:
    """A stream of random tokens, for timing."""

    def __init__(self, vocab_size: int, batch_size: int, seq_length: int) -> None:
        self.shape, self.vocab_size = (batch_size, seq_length + 1), vocab_size

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        tokens = torch.randint(self.vocab_size, self.shape, generator=torch.Generator().manual_seed(step))
        return [{"tokens": part} for part in tokens.chunk(micro_batches)]


class RandomPictures:
    """A stream of noise, for timing."""

    def __init__(self, shape: Sequence[int], batch_size: int) -> None:
        self.shape = (batch_size, *shape)

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        pixels = torch.randn(self.shape, generator=torch.Generator().manual_seed(step))
        return [{"pixel_values": part} for part in pixels.chunk(micro_batches)]


def training_rate(
    config: PretrainedConfig, stage: TrainingStage, reads: PreTrainedTokenizerBase | tuple[int, int, int]
) -> float:
    """Tokens per second of this stage's training steps, from three steps without compilation.

    Small models are measured as they will be trained; large batches are cut, so that the probe takes a second or two.

    Args:
        reads: a tokenizer with the special tokens that the objective needs, whose vocabulary may be a smaller one; or
            channels, height and width of pictures.
    """
    methods = [stage.objective.model_dump(), stage.optimizer.model_dump()]
    key = content_hash([config.to_dict(), *methods, stage.batch_size, stage.seq_length])
    if key in _KNOWN:
        return _KNOWN[key]
    model = create(config, stage.objective)
    body = anatomy.of(model)
    tokenizer = None if isinstance(reads, tuple) else reads
    taken = picture_input(body)
    length = stage.seq_length if taken is None else taken.patches + body.own_tokens
    flops = body.flops_per_token(length, training=True) * length
    rows = int(max(1, min(stage.batch_size, SECONDS_PER_STEP * 0.3 * matmul_rate() / flops)))
    objective = stage.objective.build(tokenizer)  # type: ignore[attr-defined]
    assert isinstance(stage.engine, FitConfig)
    quick = stage.engine.model_copy(
        update={"compile": "never", "log_every": 1, "evaluate_every": None, "trackers": (), "micro_batches": 1}
    )
    attach(objective, body, seed=0)
    optimizer = stage.optimizer.build(body, total_steps=1000)  # type: ignore[attr-defined]
    stream: Stream
    if isinstance(reads, tuple):
        stream = RandomPictures(reads, rows)
    else:
        stream = RandomTokens(min(config.vocab_size, len(reads)), rows, stage.seq_length)
    training = fit(
        model,
        objective,
        stream,
        optimizer,
        lambda step: 0.0,
        steps=3,
        config=quick,
        title="timing",
    )
    rate = max(float(record["tokens_per_second"]) for record in training.records if "tokens_per_second" in record)
    _KNOWN[key] = rate
    return rate
