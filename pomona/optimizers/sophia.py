"""Sophia: momentum over a seldom refreshed diagonal of the curvature, clipped in every coordinate.

Source: "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", ICLR 2024,
arXiv:2305.14342, Algorithms 1 (Hutchinson), 2 (Gauss-Newton-Bartlett) and 3; order of the operations from the authors'
training loop.
Implements: for every parameter w with gradient g, curvature h (0 at first) and rate lr
    m <- b1 m + (1 - b1) g;   w <- w - lr decay w;   w <- w - lr clip(m / max(gamma h, eps), -1, 1)
    after every k-th step: h <- b2 h + (1 - b2) e with the estimate e that the loop makes with the new weights,
    Sophia-G: e = B g'^2, g' the gradient of the mean loss to B labels drawn from the model itself, or
    Sophia-H: e = u * (H u), u normal. No bias correction. Until the first estimate h = 0: momentum's sign alone.
Deviations: the estimate looks at the sequences of the step just made, not at the next ones. Norms and biases do not
    decay. Sophia-H differentiates in the weights' precision, never in bfloat16.
Use when: pre-training, with 2x AdamW's decay and about its rate. Cost: memory of AdamW; Sophia-G one training
    pass over half a batch every 10 steps (5 % of the compute), Sophia-H three over a fifteenth (2 %), the paper's
    shares.
Relations: with h = 0 it is momentum's sign with decoupled decay; with exact h, gamma = 1 and b1 = 0 a damped Newton
    step. `adamw` divides by the root of the mean squared gradient, which does not tell noise from curvature.
Limits: Sophia-G needs an objective that can draw its labels; Sophia-H whole parameters, not sharded ones. `unclipped`
    in the metrics is the share of coordinates that curvature decides: aim at 0.1 to 0.5, raise gamma where it is lower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.engine.protocols import CurvatureRequest
from pomona.ground.config import MethodConfig
from pomona.optimizers.parts import gradient, parts_of, rest_groups

Estimator = Literal["gauss-newton-bartlett", "hutchinson"]

PAPER: dict[Estimator, tuple[float, float, float]] = {
    "gauss-newton-bartlett": (0.965, 0.05, 1 / 2),
    "hutchinson": (0.96, 0.01, 1 / 15),
}
"""b1, gamma, and the share of a batch that an estimate looks at."""


class SophiaConfig(MethodConfig):
    """Momentum divided by curvature and clipped, for every parameter."""

    method: Literal["sophia"] = "sophia"
    estimator: Estimator = "gauss-newton-bartlett"
    """How curvature is estimated: from labels drawn by the model (Sophia-G), or by a random direction (Sophia-H)."""
    learning_rate: PositiveFloat = 6e-4
    """Peak rate, and the largest change of a weight in one step. The paper's for 125M parameters."""
    beta1: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Decay of the mean of gradients. None: 0.965 for Sophia-G, 0.96 for Sophia-H."""
    beta2: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Decay of the mean of estimates, per estimate."""
    gamma: PositiveFloat | None = None
    """Factor of the curvature: the larger, the fewer coordinates are clipped. None: 0.05 for Sophia-G, 0.01 for -H."""
    eps: PositiveFloat = 1e-12
    """Least denominator."""
    weight_decay: float = Field(default=0.2, ge=0.0)
    """Decoupled decay of matrices, embeddings and head; twice AdamW's. Norms and biases have none."""
    refresh_steps: PositiveInt = 10
    """Steps between estimates (k)."""
    curvature_share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of a step's sequences that an estimate looks at. None: a half for Sophia-G, a fifteenth for Sophia-H."""

    @property
    def curvature(self) -> CurvatureRequest:
        """What the loop is asked for."""
        return CurvatureRequest(
            estimator="sampled-labels" if self.estimator == "gauss-newton-bartlett" else "hutchinson",
            every=self.refresh_steps,
            share=self.curvature_share or PAPER[self.estimator][2],
        )

    def build(self, body: Anatomy, *, total_steps: int) -> Sophia:
        """The optimizer of a model's trainable parameters; `total_steps` is not used."""
        beta1, gamma, _ = PAPER[self.estimator]
        parts = parts_of(body, self.method)
        common: dict[str, Any] = {
            "betas": (beta1 if self.beta1 is None else self.beta1, self.beta2),
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }
        rest = rest_groups(
            parts,
            learning_rate=self.learning_rate,
            embedding_learning_rate=None,
            head_learning_rate=None,
            **common,
        )
        matrices = {"name": "matrices", "params": [*parts.matrices, *parts.transposed], "lr": self.learning_rate}
        groups = [{**group, "gamma": self.gamma or gamma} for group in ({**matrices, **common}, *rest)]
        return Sophia(groups, self.curvature)


def sophia_direction(moment: Tensor, curvature: Tensor, *, gamma: float, eps: float) -> Tensor:
    """clip(m / max(gamma h, eps), -1, 1), element by element (Algorithm 3, line 13).

    Example:
        >>> sophia_direction(torch.tensor([1.0, 1.0, -1.0]), torch.tensor([4.0, 0.0, -9.0]), gamma=1.0, eps=1e-12)
        tensor([ 0.2500,  1.0000, -1.0000])
    """
    direction = torch.mul(curvature, gamma).clamp_min_(eps)
    return torch.div(moment, direction, out=direction).clamp_(-1.0, 1.0)


class Sophia(torch.optim.Optimizer):
    """See the card of this module. Fulfils `engine.protocols.UsesCurvature`.

    Args:
        groups: with `lr`, `betas`, `eps`, `gamma`, `weight_decay`.
        curvature: what the loop is asked for.
    """

    def __init__(self, groups: list[dict[str, Any]], curvature: CurvatureRequest) -> None:
        super().__init__(groups, {})
        self._curvature = curvature

    @property
    def curvature(self) -> CurvatureRequest:
        return self._curvature

    def auxiliary_flops(self) -> int:
        """FLOPs of matrix products since this was last asked: none; the loop charges the estimates itself."""
        return 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                state = self._state(parameter)
                moment: Tensor = state["exp_avg"].lerp_(gradient(parameter), 1 - group["betas"][0])
                direction = sophia_direction(moment, state["curvature"], gamma=group["gamma"], eps=group["eps"])
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
        return loss

    @torch.no_grad()
    def update_curvature(self) -> None:
        """Move each parameter's curvature towards the estimate that its `grad` holds. Nothing else changes."""
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                self._state(parameter)["curvature"].lerp_(gradient(parameter), 1 - group["betas"][1])

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """`unclipped`: share of the coordinates whose last step was less than the rate, in [0, 1]."""
        inside, all_of_them = 0, 0
        for group in self.param_groups:
            for state in (self.state[each] for each in group["params"] if each in self.state):
                inside += int((state["exp_avg"].abs() < group["gamma"] * state["curvature"]).sum())
                all_of_them += state["exp_avg"].numel()
        return {"unclipped": inside / max(all_of_them, 1)}

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["curvature"] = torch.zeros_like(parameter)
        return state
