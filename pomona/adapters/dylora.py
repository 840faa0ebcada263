"""DyLoRA: one LoRA whose every leading part is a good adapter by itself; the rank is chosen after training.

Source: "DyLoRA: Parameter Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank Adaptation",
    EACL 2023, arXiv:2210.07558.
Implements: Sec. 4: each step draws one rank b, the same everywhere, and computes W x + (alpha / b) up[:, :b] down[:b]
    x; gradients reach all of these components, or (`update: frozen`) the last of them alone.
Deviations: every component is a parameter of its own, so that those beyond b have no gradient, no moments and no decay
    in any optimizer; the paper's code keeps whole matrices. b is drawn from (seed, step), equal on all processes.
Use when: the right rank is not known, or several devices need several sizes. Cost: one LoRA run, where a search trains
    one for each rank.
Relations: equals `lora` when rank_min = rank_max; cutting a plain LoRA afterwards is what it is compared with.
Limits: routed experts are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from pomona.adapters.adapter import Adapter
from pomona.adapters.deltas import Delta, DeltaAdapter
from pomona.adapters.peft_format import LowRank, write_lora
from pomona.adapters.targets import Role, targets_of
from pomona.anatomy import Anatomy
from pomona.data.permutation import derive_key
from pomona.engine import Batch, Loss, Objective
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError

RANK = "adapter_rank"
"""Under this name a batch says at which rank its step is taken."""


class DyloraConfig(MethodConfig):
    """Train a LoRA that works at every rank of a range."""

    method: Literal["dylora"] = "dylora"
    rank_max: PositiveInt = 8
    """The largest rank."""
    rank_min: PositiveInt = 1
    """The smallest rank that is drawn."""
    alpha: PositiveFloat = 16.0
    """What is learnt is multiplied by alpha / b at rank b."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of the inputs of the adapter."""
    update: Literal["full", "frozen"] = "full"
    """Components that a step at rank b trains: all up to b, or the b-th alone, which keeps what smaller ranks are."""
    draw: Literal["uniform", "geometric"] = "uniform"
    """How often each rank is drawn; geometric: every rank half as often as the one before."""
    targets: tuple[Role, ...] = Field(default=("query", "value"), min_length=1)
    """The maps that are adapted."""
    rank: PositiveInt | None = None
    """The rank that is merged in the end; None: the largest."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.rank_min <= self.rank_max or (self.rank or 1) > self.rank_max:
            raise ValueError(f"needs rank_min and rank at most rank_max {self.rank_max}")
        return self

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Attach the components, drawn from `seed`."""
        return dylora_(body, self, head=head, seed=seed)


class Components(Delta):
    """(alpha / b) up[:, :b] down[:b], whose `rank` b can be set at any time.

    Args:
        outputs, inputs: of the map.
        generator: of `down`, which is drawn as LoRA's: uniform within +-1 / sqrt(inputs); `up` is zero.
    """

    def __init__(self, outputs: int, inputs: int, config: DyloraConfig, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)  # kaiming_uniform with a = sqrt(5), as in LoRA's code
        drawn = torch.empty(config.rank_max, inputs).uniform_(-bound, bound, generator=generator)
        self.down = nn.ParameterList([row[None].clone() for row in drawn])
        self.up = nn.ParameterList([torch.zeros(outputs, 1) for _ in range(config.rank_max)])
        self.alpha, self.dropout, self.frozen = config.alpha, config.dropout, config.update == "frozen"
        self.rank = config.rank_max

    def factors(self) -> tuple[Tensor, Tensor]:
        """down (b, inputs) and up (outputs, b) of the present rank."""
        b = self.rank

        def used(parts: nn.ParameterList) -> list[Tensor]:
            return [part.detach() if self.frozen and index < b - 1 else part for index, part in enumerate(parts[:b])]

        return torch.cat(used(self.down)), torch.cat(used(self.up), 1)

    def forward(self, inputs: Tensor) -> Tensor:
        down, up = self.factors()
        if not torch.is_autocast_enabled(inputs.device.type):
            inputs = inputs.to(down.dtype)
        noisy = nn.functional.dropout(inputs, self.dropout, self.training)
        inner = nn.functional.linear(noisy, down) * (self.alpha / self.rank)
        return nn.functional.linear(inner, up)

    def dense(self) -> Tensor:
        down, up = self.factors()
        return self.alpha / self.rank * (up @ down)


class DyloraAdapter(DeltaAdapter):
    """A LoRA of every rank."""

    config: DyloraConfig

    def set_rank(self, rank: int) -> None:
        """Compute and merge at this rank from now on.

        Raises:
            ConfigError: it is not between 1 and the largest.
        """
        if not 1 <= rank <= self.config.rank_max:
            raise ConfigError(f"there is no rank {rank}", needs=f"1 to {self.config.rank_max}")
        for delta in self.deltas:
            delta.rank = rank  # type: ignore[assignment]

    def taught(self, objective: Objective, stream: Any, seed: int) -> tuple[Objective, Any]:
        """Every step at a rank of its own, drawn from (seed, step)."""
        return AtRank(objective, self), RankedStream(stream, self.config, seed)

    def variants(self) -> Mapping[str, Callable[[], None]]:
        """The largest rank, and the powers of two below it."""

        def at(rank: int) -> Callable[[], None]:
            return lambda: self.set_rank(rank)

        powers = [2**power for power in range(self.config.rank_max.bit_length())]
        return {str(rank): at(rank) for rank in dict.fromkeys([*powers, self.config.rank_max])}

    def export(self, folder: Path, rank: int | None = None, base: str | None = None) -> None:
        """Write an ordinary LoRA of this rank (the present one by default) in peft's format."""
        before = [int(delta.rank) for delta in self.deltas]  # type: ignore[arg-type]
        if rank is not None:
            self.set_rank(rank)
        changes = []
        for delta in self.deltas:
            assert isinstance(delta, Components)
            changes.append(LowRank(*delta.factors(), delta.alpha / delta.rank))
        write_lora(folder, self.weights, changes, base)
        for delta, own in zip(self.deltas, before, strict=True):
            delta.rank = own  # type: ignore[assignment]

    def save(self, folder: Path) -> None:
        """All components in our own form, and beside it the present rank as peft reads it."""
        super().save(folder)
        self.export(folder)

    def merge_(self) -> None:
        """Merge at the configured rank."""
        if self.config.rank is not None:
            self.set_rank(self.config.rank)
        super().merge_()


def dylora_(
    body: Anatomy, config: DyloraConfig | None = None, *, head: Sequence[nn.Parameter] = (), seed: int = 0
) -> DyloraAdapter:
    """Attach a LoRA for every rank of a range, and let it and the head be trained.

    Raises:
        UnsupportedModel: a target is not there, or belongs to experts.
    """
    config = config or DyloraConfig()
    weights = targets_of(body, config.targets, config.method)
    generator = torch.Generator().manual_seed(seed)
    deltas = [Components(weight.shape[0], weight.shape[1], config, generator) for weight in weights]
    settings = config.model_dump(mode="json", exclude={"method"})
    adapter = DyloraAdapter(body, weights, deltas, head, config.method, settings)
    adapter.config = config
    return adapter


def rank_at(config: DyloraConfig, seed: int, step: int) -> int:
    """The rank of a step: uniform over the range, or every rank half as often as the one before."""
    place = derive_key(seed, "rank", step) / 2**64
    ranks = range(config.rank_min, config.rank_max + 1)
    shares = [1.0 if config.draw == "uniform" else 0.5**index for index in range(len(ranks))]
    total, passed = sum(shares), 0.0
    for rank, share in zip(ranks, shares, strict=True):
        passed += share / total
        if place < passed:
            return rank
    return config.rank_max


@dataclass(frozen=True)
class RankedStream:
    """A stream whose batches say at which rank their step is taken."""

    stream: Any
    config: DyloraConfig
    seed: int

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]:
        drawn = rank_at(self.config, self.seed, step)
        batches: list[Batch] = self.stream.batch(step, rank, micro_batches=micro_batches)
        rows = [len(next(iter(batch.values()))) for batch in batches]
        return [{**batch, RANK: torch.full((count,), drawn)} for batch, count in zip(batches, rows, strict=True)]


class AtRank:
    """An objective that sets the rank that its batch says; without one, the largest."""

    def __init__(self, objective: Objective, adapter: DyloraAdapter) -> None:
        self.objective, self.adapter = objective, adapter
        self.name, self.is_likelihood = objective.name, objective.is_likelihood

    def check(self, body: Anatomy) -> None:
        self.objective.check(body)

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        rest = {name: tensor for name, tensor in batch.items() if name != RANK}
        made = self.objective.prepare(rest, generator)
        return {**made, RANK: batch[RANK]} if RANK in batch else made

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        rank = int(batch[RANK][0]) if RANK in batch else self.adapter.config.rank_max
        self.adapter.set_rank(rank)
        return self.objective(body, {name: tensor for name, tensor in batch.items() if name != RANK})


def select_rank(adapter: DyloraAdapter, score: Callable[[], float], tolerance: float = 0.0) -> int:
    """The smallest rank whose score is within `tolerance` of the best; it is set.

    Args:
        score: of the model as it is, higher is better; called at every rank.
    """
    scores = {}
    for rank in range(1, adapter.config.rank_max + 1):
        adapter.set_rank(rank)
        scores[rank] = score()
    best = max(scores.values())
    chosen = min(rank for rank, value in scores.items() if value >= best - tolerance)
    adapter.set_rank(chosen)
    return chosen
