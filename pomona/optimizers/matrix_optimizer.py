"""The frame of optimizers with a rule of their own for matrices, and AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from pomona.ground.errors import UnsupportedModel
from pomona.optimizers.parts import by_shape, gradient

CHUNK_ELEMENTS = 5 * 2**18
"""Entries that one batched product works on: on a processor a chunk and its intermediates stay in the cache."""


def product_dtype(parameter: Tensor, bfloat16: bool) -> torch.dtype:
    """The format of matrix products for a parameter: bfloat16 on request, never below what float64 weights ask for."""
    if parameter.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if bfloat16 else torch.float32


class MatrixOptimizer(torch.optim.Optimizer):
    """One optimizer object over groups of two rules.

    Groups with `rule: "matrices"` are updated by `step_matrices` of the subclass, in batches of one shape; those with
    `rule: "adamw"` by torch's fused AdamW. Parameters without a gradient are left alone, state and all. The state
    holds tensors and plain numbers, so that it can be stored without a pickle, and continues bit for bit.
    """

    def __init__(self, matrices: list[dict[str, Any]], rest: list[dict[str, Any]]) -> None:
        groups = [{"rule": "matrices", "fused": False, **group} for group in matrices if group["params"]]
        # `fused` tells torch's loader that the step counter is a float32 tensor.
        groups += [{"rule": "adamw", "fused": True, **group} for group in rest]
        super().__init__(groups, {})
        self._flops = 0
        for group in groups:
            for parameter in group["params"] if group["rule"] == "matrices" else []:
                if parameter.ndim != 2 or not parameter.is_floating_point():
                    raise UnsupportedModel(
                        f"{type(self).__name__} takes real matrices only",
                        found=f"a {parameter.dtype} parameter of shape {tuple(parameter.shape)}",
                    )

    def auxiliary_flops(self) -> int:
        """FLOPs of matrix products and decompositions since this was last asked; element-wise work is not counted."""
        flops, self._flops = self._flops, 0
        return flops

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.admits():
            for group in self.param_groups:
                ready = [parameter for parameter in group["params"] if parameter.grad is not None]
                if not ready:
                    continue
                if group["rule"] == "adamw":
                    self._adamw(group, ready)
                    continue
                for batch in by_shape(ready):
                    self._refuse_sharded(batch[0])
                    self._flops += self.step_matrices(group, batch)
        return loss

    def admits(self) -> bool:
        """Whether the gradients may be used; a subclass may refuse a step."""
        return True

    def step_matrices(self, group: dict[str, Any], batch: list[nn.Parameter]) -> int:
        """Update parameters of one shape that have gradients; returns the FLOPs of products and decompositions."""
        raise NotImplementedError

    def _adamw(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        adamw(
            list[Tensor](parameters),
            [gradient(parameter) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _refuse_sharded(self, parameter: nn.Parameter) -> None:
        if not torch.distributed.is_available():
            return
        from torch.distributed.tensor import DTensor

        if isinstance(parameter, DTensor):
            raise UnsupportedModel(
                f"{type(self).__name__} needs whole matrices",
                needs="parameters that are not sharded",
                found=f"a sharded parameter of shape {tuple(parameter.shape)}",
                do="use data parallelism without sharding, or the optimizer adamw",
            )
