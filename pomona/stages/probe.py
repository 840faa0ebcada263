"""How fast this machine trains a model: a few real steps on random tokens, once per kind of step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pomona import anatomy
from pomona.engine import Batch, FitConfig, fit
from pomona.ground.files import content_hash
from pomona.ground.machine import matmul_rate
from pomona.stages.models import create

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pomona.stages.training import TrainingStage

SECONDS_PER_STEP = 1.0
"""The batch of a probed step is cut where it would take longer; shorter steps are timed as they are."""
_KNOWN: dict[str, float] = {}


class RandomTokens:
    """A stream of random tokens, for timing."""

    def __init__(self, vocab_size: int, batch_size: int, seq_length: int) -> None:
        self.shape, self.vocab_size = (batch_size, seq_length + 1), vocab_size

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        tokens = torch.randint(self.vocab_size, self.shape, generator=torch.Generator().manual_seed(step))
        return [{"tokens": part} for part in tokens.chunk(micro_batches)]


def training_rate(config: PretrainedConfig, stage: TrainingStage, tokenizer: PreTrainedTokenizerBase) -> float:
    """Tokens per second of this stage's training steps, from three steps without compilation.

    Small models are measured as they will be trained; large batches are cut, so that the probe takes a second or two.

    Args:
        tokenizer: with the special tokens that the objective needs; its vocabulary may be a smaller one.
    """
    methods = [stage.objective.model_dump(), stage.optimizer.model_dump()]
    key = content_hash([config.to_dict(), *methods, stage.batch_size, stage.seq_length])
    if key in _KNOWN:
        return _KNOWN[key]
    model = create(config, stage.objective)
    body = anatomy.of(model)
    flops = body.flops_per_token(stage.seq_length, training=True) * stage.seq_length
    rows = int(max(1, min(stage.batch_size, SECONDS_PER_STEP * 0.3 * matmul_rate() / flops)))
    objective = stage.objective.build(tokenizer)  # type: ignore[attr-defined]
    assert isinstance(stage.engine, FitConfig)
    quick = stage.engine.model_copy(
        update={"compile": "never", "log_every": 1, "evaluate_every": None, "trackers": (), "micro_batches": 1}
    )
    optimizer = stage.optimizer.build(body, total_steps=1000)  # type: ignore[attr-defined]
    training = fit(
        model,
        objective,
        RandomTokens(min(config.vocab_size, len(tokenizer)), rows, stage.seq_length),
        optimizer,
        lambda step: 0.0,
        steps=3,
        config=quick,
        title="timing",
    )
    rate = max(float(record["tokens_per_second"]) for record in training.records if "tokens_per_second" in record)
    _KNOWN[key] = rate
    return rate
