"""Curvature for the optimizers that ask for it: one more pass over part of the batch, after some of the steps.

The estimate is left in each parameter's `grad`, where `update_curvature` finds it, and removed afterwards, so that it
never reaches a gradient's moments. It is a pure function of weights, batch and (seed, step): a resumed run repeats it
bit for bit, and how a batch is cut into micro-batches and processes changes its rounding only.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pomona.anatomy import Anatomy
from pomona.engine.evaluate import autocast
from pomona.engine.flops import trainable
from pomona.engine.head_loss import differentiable_twice
from pomona.engine.protocols import (
    Batch,
    CurvatureRequest,
    Objective,
    SamplesLabels,
    UsesCurvature,
    count_targets,
    size_of,
)
from pomona.engine.seeds import mix
from pomona.ground.console import warn
from pomona.ground.errors import ConfigError


def check_curvature(request: CurvatureRequest, objective: Objective, optimizer: str) -> None:
    """Raise `ConfigError` where an objective cannot give an optimizer the curvature that it asks for."""
    draws = isinstance(objective, SamplesLabels) and objective.samples_labels
    if request.estimator == "sampled-labels" and not draws:
        raise ConfigError(
            f"{optimizer} cannot estimate the curvature of {objective.name}",
            needs="an objective that can draw labels from the model's own predictions",
            found=f"{objective.name}, which scores given labels only",
            do="set `estimator: hutchinson` of the optimizer, which takes any differentiable loss, or use next-token, "
            "masked-lm or span-corruption",
        )


def curvature_pass(
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    step_module: nn.Module,
    body: Anatomy,
    objective: Objective,
    training_flops: Callable[[Batch], float],
    seed: int,
) -> CurvaturePass | None:
    """What makes the estimates of a run; None where the optimizer asks for none. Raises as `check_curvature`."""
    if not isinstance(optimizer, UsesCurvature):
        return None
    request, name = optimizer.curvature, type(optimizer).__name__
    check_curvature(request, objective, name)
    if request.estimator == "sampled-labels":
        return SampledLabels(optimizer, request, accelerator, step_module, body, objective, training_flops, seed)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError(
            f"{name} cannot differentiate sharded weights twice",
            do="use `estimator: sampled-labels`, or data parallelism without sharding",
        )
    return Hutchinson(optimizer, request, accelerator, step_module, body, objective, training_flops, seed)


class CurvaturePass(ABC):
    """The frame of both estimators: which sequences, the ledger, and what happens to a fault."""

    def __init__(
        self,
        optimizer: UsesCurvature,
        request: CurvatureRequest,
        accelerator: Accelerator,
        step_module: nn.Module,
        body: Anatomy,
        objective: Objective,
        training_flops: Callable[[Batch], float],
        seed: int,
    ) -> None:
        self.optimizer, self.request, self.accelerator = optimizer, request, accelerator
        self.step_module, self.body, self.objective = step_module, body, objective
        self.training_flops, self.seed = training_flops, seed
        self.parameters = trainable(body.model, objective)

    def __call__(self, step: int, micro_batches: Sequence[Batch]) -> dict[str, Any]:
        """Estimate after step `step`, with the weights it made, and hand over. Returns what to charge."""
        start = time.perf_counter()
        device, processes = self.accelerator.device, self.accelerator.num_processes
        rows = sum(size_of(micro)[0] for micro in micro_batches)
        draws = torch.Generator().manual_seed(mix(self.seed, step, self.accelerator.process_index, 1))
        chosen = [
            {name: tensor.to(device) for name, tensor in micro.items()}
            for micro in first_rows(with_draws(micro_batches, draws), max(1, round(self.request.share * rows)))
        ]
        counted = torch.tensor(sum(count_targets(micro) for micro in chosen), device=device)
        targets = int(self.accelerator.reduce(counted, reduction="sum")) if processes > 1 else int(counted)
        with torch.random.fork_rng():
            torch.manual_seed(mix(self.seed, step, self.accelerator.process_index, 2))
            if targets:
                self.estimate(step, chosen, targets)
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if grads and math.isfinite(float(torch.nn.utils.get_total_norm(grads))):
            self.optimizer.update_curvature()
        else:
            warn(f"curvature after step {step} left as it was: the estimate is not finite, or nothing was counted")
        for parameter in self.parameters:
            parameter.grad = None
        return {
            "flops": sum(self.flops(micro) for micro in chosen) * processes,
            "seconds": time.perf_counter() - start,
            "tokens": sum(math.prod(size_of(micro)) for micro in chosen) * processes,
        }

    @abstractmethod
    def estimate(self, step: int, micro_batches: Sequence[Batch], targets: int) -> None:
        """Leave the estimate in each parameter's `grad`, given the targets of all processes."""

    @abstractmethod
    def flops(self, micro: Batch) -> float:
        """FLOPs of one micro-batch."""


class SampledLabels(CurvaturePass):
    """B g^2: an ordinary training pass to labels that the model draws (Gauss-Newton-Bartlett).

    B is the number of targets over all micro-batches and processes, g the gradient of their mean loss. The training
    pass sums: with G = B g this is G^2 / B.
    """

    def estimate(self, step: int, micro_batches: Sequence[Batch], targets: int) -> None:
        for index, micro in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with ExitStack() if last else self.accelerator.no_sync(self.step_module):
                self.accelerator.backward(self.step_module(micro).total)
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_mul_(grads, self.accelerator.num_processes / math.sqrt(targets))  # processes are averaged
        torch._foreach_mul_(grads, grads)

    def flops(self, micro: Batch) -> float:
        return self.training_flops(micro)


class Hutchinson(CurvaturePass):
    """u * (H u), H being the Hessian of the mean loss, u standard normal and the same on all processes.

    Differentiates the gradient, in the weights' own precision, which fused kernels and compiled code cannot.
    """

    _known: dict[int, float] | None = None

    def estimate(self, step: int, micro_batches: Sequence[Batch], targets: int) -> None:
        draws = torch.Generator().manual_seed(mix(self.seed, step, 3))
        probes = [torch.randn(p.shape, generator=draws).to(p) for p in self.parameters]
        sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        for micro in micro_batches:
            micro = {name: tensor for name, tensor in micro.items() if name != "draws"}  # the true labels
            torch._foreach_add_(sums, list(self._product(micro, probes)))
        for parameter, probe, product in zip(self.parameters, probes, sums, strict=True):
            if self.accelerator.num_processes > 1:
                product = self.accelerator.reduce(product, reduction="sum")
            parameter.grad = product.mul_(probe).div_(targets)

    def _product(self, micro: Batch, probes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with twice_differentiable_passes(), autocast(self.accelerator.device, None):
            total = self.objective(self.body, micro).total
            grads = torch.autograd.grad(total, self.parameters, create_graph=True, materialize_grads=True)
            slope = torch.stack([(grad * probe).sum() for grad, probe in zip(grads, probes, strict=True)]).sum()
            return torch.autograd.grad(slope, self.parameters, materialize_grads=True)

    def flops(self, micro: Batch) -> float:
        known = self._known = self._known or {}
        rows, length = size_of(micro)
        if length not in known:
            one = {name: tensor[:1] for name, tensor in micro.items() if name != "draws"}
            with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
                self._product(one, [torch.zeros_like(parameter) for parameter in self.parameters])
            known[length] = float(counter.get_total_flops())
        return known[length] * rows


@contextmanager
def twice_differentiable_passes() -> Iterator[None]:
    """Within the block, passes run on kernels whose gradients have gradients."""
    with differentiable_twice(), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield


def with_draws(micro_batches: Sequence[Batch], generator: torch.Generator) -> list[Batch]:
    """The micro-batches with `draws` (B, T), uniform in [0, 1), that do not depend on how the batch is cut."""
    shapes = [micro["labels"].shape for micro in micro_batches]
    draws = torch.rand((sum(rows for rows, _ in shapes), shapes[0][1]), generator=generator)
    parts = torch.split(draws, [rows for rows, _ in shapes])
    return [{**micro, "draws": part} for micro, part in zip(micro_batches, parts, strict=True)]


def first_rows(micro_batches: Sequence[Batch], rows: int) -> Iterator[Batch]:
    """The first `rows` sequences of the micro-batches together."""
    for micro in micro_batches:
        take = min(rows, size_of(micro)[0])
        if take:
            yield {name: tensor[:take] for name, tensor in micro.items()}
        rows -= take
