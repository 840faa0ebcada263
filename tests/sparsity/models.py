"""Models of different shapes with telling weights, data for them, and a loss that every one of them has."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import answers_of, enlarged_copy, outputs_of
from pomona.anatomy.tiny import tiny_model
from pomona.engine import Batch, Loss
from pomona.sparsity import SparsityReport, masked, skipped

FAMILIES = (
    *("llama-grouped-untied", "qwen3", "gemma2", "olmo2", "gpt_neox", "phi3", "mixtral", "qwen2_moe"),
    *("opt-post", "gpt2", "bert", "t5-gated"),
)
"""Grouped and fused and interleaved projections, Conv1D, experts, norms everywhere, parallel, post-norm, two stacks."""


class Squares:
    """Half the squared logits: any model has this loss."""

    name = "squares"
    is_likelihood = False

    def check(self, body: Anatomy) -> None:
        """Nothing is asked of the model."""

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return batch

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        logits = answers_of(body, batch)[0]
        return Loss(logits.square().sum() / 2, logits.shape[0] * logits.shape[1])


class Distance(Squares):
    """One, and the relative squared distance from the logits that the model gave when it first saw the batch."""

    def __init__(self) -> None:
        self._first: dict[bytes, Tensor] = {}

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        logits = answers_of(body, batch)[0]
        key = b"".join(values.numpy().tobytes() for values in batch.values())
        first = self._first.setdefault(key, logits.detach())
        targets = logits.shape[0] * logits.shape[1]
        return Loss(targets * (1 + (logits - first).square().sum() / first.square().sum()), targets)


@cache
def _telling(family: str) -> Any:
    return enlarged_copy(tiny_model(family)).model


def telling(family: str) -> Anatomy:
    """A float64 model with large weights, gains and biases; a new one at every call."""
    return anatomy.of(copy.deepcopy(_telling(family)))


def batches_of(body: Anatomy, count: int = 2, size: int = 2) -> list[Batch]:
    """Different inputs that the model takes."""
    return [example_inputs(body, batch=size, tokens=8, seed=seed) for seed in range(count)]


def outputs(body: Anatomy) -> Tensor:
    """What the model computes from some inputs."""
    return outputs_of(body, example_inputs(body))


def state_of(body: Anatomy) -> dict[str, Tensor]:
    """A copy of all values."""
    return {name: value.clone() for name, value in body.model.state_dict().items()}


def unchanged(body: Anatomy, before: dict[str, Tensor]) -> bool:
    """Whether all values are those from before, bit for bit."""
    after = body.model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def without(body: Anatomy, report: SparsityReport) -> Tensor:
    """What the model computes when taps mask what a report says is gone."""
    kept = {cut.part: cut.kept for cut in report.cuts if cut.kept is not None}
    stacks = {f"blocks of {stack.path}": stack.blocks for stack in body.stacks}
    spaces = {space: kept[str(space)] for space in body.spaces() if str(space) in kept}
    gone = [
        block for part, blocks in stacks.items() if part in kept for block in blocks if block.index not in kept[part]
    ]
    with masked(body, spaces), skipped(gone):
        return outputs(body)
