"""Muon: momentum, orthogonalized by a few matrix products.

Source: "Muon: An optimizer for hidden layers in neural networks", K. Jordan et al., 2024 (the algorithm, its quintic);
"Muon is Scalable for LLM Training", arXiv:2502.16982, Sec. 2.2 (weight decay, update scaled to AdamW's RMS);
"The Polar Express", arXiv:2505.16932, Algorithm 1 and Sec. 4 (polynomials that are optimal for a number of steps).
Implements: for a matrix W with gradient G and momentum m
    B <- m B + (1 - m) G;   N = (1 - m) G + m B (nesterov) or B;   X = N / ||N||;
    X <- a X + (b X X^T + c (X X^T)^2) X, `steps` times, multiplied on the smaller side;
    W <- (1 - lr decay) W - lr r X,  r = sqrt(max(1, outputs / inputs)) or 0.2 sqrt(max(outputs, inputs)).
    This is torch.optim.Muon to within its bfloat16, batched over matrices of one shape. AdamW for the rest.
Deviations: outputs and inputs are the map's own, also where the weight is stored transposed. Queries, keys and values
    in one parameter are orthogonalized as one matrix. `norm: schatten-4` is ours: (sum of sigma^4)^(1/4) comes free
    with the first product, is never below the largest singular value and closer to it than Frobenius.
Use when: pre-training. Cost: per step about 6 steps * rows * columns * min(rows, columns) FLOPs and more, see
    `newton_schulz_flops`; one state tensor per matrix, half of AdamW's.
Relations: `conda` whitens with an eigenbasis instead of a polynomial and keeps Adam's second moment.
Limits: matrices of the blocks only; sharded parameters are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.ground.machine import has_fast_bfloat16
from pomona.optimizers.matrix_optimizer import CHUNK_ELEMENTS, MatrixOptimizer, product_dtype
from pomona.optimizers.parts import gradient, in_chunks, parts_of, rest_groups

Quintic = tuple[float, float, float]
"""(a, b, c) of a x + b x^3 + c x^5."""

JORDAN: Quintic = (3.4445, -4.7750, 2.0315)
"""Steepest at 0 rather than convergent: singular values end between about 0.7 and 1.2."""

Norm = Literal["frobenius", "schatten-4"]
Scaling = Literal["original", "match_rms_adamw"]


class MuonConfig(MethodConfig):
    """Orthogonalized momentum for the matrices of the blocks, AdamW for the rest."""

    method: Literal["muon"] = "muon"
    learning_rate: PositiveFloat = 0.02
    """Peak rate of the matrices, before `scaling`."""
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of the mean of gradients."""
    nesterov: bool = True
    """Look ahead by one step of momentum."""
    weight_decay: float = Field(default=0.1, ge=0.0)
    """Decoupled decay of the matrices. torch's default."""
    scaling: Scaling = "original"
    """`original`: sqrt(max(1, outputs / inputs)). `match_rms_adamw`: 0.2 sqrt(max(outputs, inputs)), so that the rate
    and decay of AdamW can be kept (arXiv:2502.16982)."""
    polynomial: Literal["jordan", "polar-express"] | Annotated[tuple[Quintic, ...], Field(min_length=1)] = "jordan"
    """The quintic of each step: Jordan's, those that are optimal for `steps` (arXiv:2505.16932), or your own (a, b, c),
    the last one being repeated."""
    steps: PositiveInt = Field(default=5, le=20)
    """Newton-Schulz steps; each costs 20 % of the default's products."""
    norm: Norm = "frobenius"
    """What the momentum is divided by first. `schatten-4` is tighter and saves about one step."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Format of the products. `auto`: bfloat16 where the hardware multiplies it fast."""
    rest_learning_rate: PositiveFloat = 3e-3
    """Peak rate of AdamW, for everything that is no matrix."""
    embedding_learning_rate: PositiveFloat | None = None
    """Peak rate of token and position tables (and of a tied head); None: `rest_learning_rate`."""
    head_learning_rate: PositiveFloat | None = None
    """Peak rate of an untied head; None: `rest_learning_rate`."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """AdamW's decay of the mean of squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the root of AdamW's mean square."""
    rest_weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW's decoupled decay of embeddings and head; norms and biases have none."""

    def build(self, body: Anatomy, *, total_steps: int) -> Muon:
        """The optimizer of a model's trainable parameters; `total_steps` is not used."""
        parts = parts_of(body, self.method)
        fast = has_fast_bfloat16() if self.precision == "auto" else self.precision == "bf16"
        common = {
            "lr": self.learning_rate,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
            "scaling": self.scaling,
            "polynomials": quintics(self.polynomial, self.steps),
            "norm": self.norm,
            "bfloat16": fast,
        }
        matrices = [
            {"name": "matrices", "params": parts.matrices, "transposed": False, **common},
            {"name": "matrices, transposed", "params": parts.transposed, "transposed": True, **common},
        ]
        rest = rest_groups(
            parts,
            learning_rate=self.rest_learning_rate,
            embedding_learning_rate=self.embedding_learning_rate,
            head_learning_rate=self.head_learning_rate,
            weight_decay=self.rest_weight_decay,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )
        return Muon(matrices, rest)


def newton_schulz(matrices_KOI: Tensor, polynomials: Sequence[Quintic], *, norm: Norm = "frobenius") -> Tensor:
    """Nearly the orthogonal polar factor of each matrix: U S V^T becomes about U V^T.

    Args:
        matrices_KOI: K matrices, any float dtype; the products run in that dtype. Not changed.
        polynomials: the quintic of each step; at least one.
        norm: what each matrix is divided by, so that its singular values are at most 1.
    Returns:
        (K, O, I) in the same dtype; singular values near 1, zero for a zero matrix.
    """
    tall = matrices_KOI.shape[1] > matrices_KOI.shape[2]
    x, done = matrices_KOI, 0
    for length in passes(matrices_KOI.shape[1], matrices_KOI.shape[2], len(polynomials)):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        if done == 0:
            size = norms_from(gram, norm)
            gram.div_(size.square())
        a, b, c = polynomials[done]
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if length == 2:
            # The next Gram matrix is (a + inner)^2 gram, as all of these commute; X itself is not needed for it.
            half = torch.baddbmm(gram, inner, gram, beta=a)
            gram = torch.baddbmm(half, inner, half, beta=a)
            inner.diagonal(dim1=1, dim2=2).add_(a)
            a, b, c = polynomials[done + 1]
            second = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            inner, a = torch.baddbmm(inner, second, inner, beta=a), 0.0
        if done == 0:  # X itself was not divided yet: do it on the smaller factor
            inner.diagonal(dim1=1, dim2=2).add_(a)
            inner, a = inner.div_(size), 0.0
        if a == 0.0:
            x = torch.bmm(x, inner) if tall else torch.bmm(inner, x)
        else:
            x = torch.baddbmm(x, x, inner, beta=a) if tall else torch.baddbmm(x, inner, x, beta=a)
        done += length
    return x


def norms_from(gram_KMM: Tensor, norm: Norm) -> Tensor:
    """(K, 1, 1) norm of each X from X X^T: the root of its trace, or of its own Frobenius norm."""
    wide = torch.promote_types(gram_KMM.dtype, torch.float32)
    if norm == "frobenius":
        squares = gram_KMM.diagonal(dim1=1, dim2=2).sum(1, dtype=wide)
    else:  # 2 % on top cover the rounding of the product
        squares = 1.02 * torch.linalg.vector_norm(gram_KMM, dim=(1, 2), dtype=wide)
    return squares.sqrt().clamp_min(1e-7).view(-1, 1, 1).to(gram_KMM.dtype)


def passes(rows: int, columns: int, steps: int) -> list[int]:
    """How many steps each pass over the whole matrix makes: 2 where that saves products, else 1.

    For sides m < n, two steps on X cost 8 m^2 n + 4 m^3 FLOPs; on the Gram matrix, with X at both ends only, they cost
    4 m^2 n + 10 m^3. More than two would square rounding errors of bfloat16 beyond the small singular values.
    """
    short, long = sorted((rows, columns))
    return [2] * (steps // 2) + [1] * (steps % 2) if 2 * long > 3 * short else [1] * steps


def newton_schulz_flops(rows: int, columns: int, steps: int) -> int:
    """FLOPs of `newton_schulz` on one matrix."""
    short, long = sorted((rows, columns))
    whole, square = 4 * short * short * long, 2 * short**3
    return sum(whole + (square if length == 1 else 5 * square) for length in passes(rows, columns, steps))


def scale_of(outputs: int, inputs: int, scaling: Scaling) -> float:
    """The factor of the learning rate for a map of this size."""
    if scaling == "match_rms_adamw":
        return 0.2 * math.sqrt(max(outputs, inputs))
    return math.sqrt(max(1, outputs / inputs))


def quintics(polynomial: Literal["jordan", "polar-express"] | tuple[Quintic, ...], steps: int) -> list[Quintic]:
    """The quintic of each of `steps` steps."""
    if polynomial == "polar-express":
        return polar_express(steps)
    given = [JORDAN] if isinstance(polynomial, str) else list(polynomial)
    return (given + [given[-1]] * steps)[:steps]


def polar_express(
    steps: int, *, smallest: float = 1e-3, cushion: float = 0.02407327424182761, safety: float = 0.02
) -> list[Quintic]:
    """The quintics whose composition is nearest to 1 on [smallest, 1], in the largest error (arXiv:2505.16932).

    Step by step: of all odd quintics, the one with the least largest error on [l, u] (Theorem 3.1: applying it and
    going on with the interval that it leaves is optimal for the composition, too).

    Args:
        steps: at least 1.
        smallest: singular values below it are enlarged, but do not reach 1.
        cushion: l is not taken below cushion * u, so that one step does not pay for tiny values with all others
            (Sec. 4.4).
        safety: all but the last polynomial are stretched by 1 + safety, against values that rounding lifts above u.
    Example:
        >>> [round(value, 3) for value in polar_express(5, safety=0.0)[0]]
        [8.287, -23.596, 17.3]
    """
    lower, upper = smallest, 1.0
    found = []
    for _ in range(steps):
        a, b, c = _best_quintic(max(lower, cushion * upper), upper)
        ends = [a * x + b * x**3 + c * x**5 for x in (lower, upper)]
        recentre = 2.0 / sum(ends)  # after cushioning, balance the errors at the true ends again
        found.append((a * recentre, b * recentre, c * recentre))
        lower = ends[0] * recentre
        upper = 2.0 - lower
    stretch = 1.0 + safety
    return [(a / stretch, b / stretch**3, c / stretch**5) for a, b, c in found[:-1]] + [found[-1]]


def _best_quintic(lower: float, upper: float) -> Quintic:
    """The odd quintic nearest to 1 on [lower, upper], by Remez exchange: its error alternates at four points."""
    if lower / upper > 1 - 5e-6:  # the limit: Newton-Schulz' own quintic
        return 15 / 8 / upper, -10 / 8 / upper**3, 3 / 8 / upper**5
    points = [lower, (3 * lower + upper) / 4, (lower + 3 * upper) / 4, upper]
    error, before = math.inf, -math.inf
    while abs(error - before) > 1e-15:
        before = error
        rows = [[x, x**3, x**5, sign] for x, sign in zip(points, (1.0, -1.0, 1.0, -1.0), strict=True)]
        solution = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
        a, b, c, error = solution.tolist()
        root = math.sqrt(9 * b * b - 20 * a * c)  # the extrema inside solve a + 3 b x^2 + 5 c x^4 = 0
        points[1:3] = (math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c)))
    return a, b, c


class Muon(MatrixOptimizer):
    """See the card of this module. State of a matrix: `momentum_buffer`, of its shape and dtype."""

    def step_matrices(self, group: dict[str, Any], batch: list[nn.Parameter]) -> int:
        rows, columns = batch[0].shape
        outputs, inputs = (columns, rows) if group["transposed"] else (rows, columns)
        rate, momentum = group["lr"], group["momentum"]
        dtype = product_dtype(batch[0], group["bfloat16"])
        step = rate * scale_of(outputs, inputs, group["scaling"])
        polynomials = [tuple(polynomial) for polynomial in group["polynomials"]]
        for chunk in in_chunks(batch, CHUNK_ELEMENTS) if batch[0].device.type == "cpu" else [batch]:
            stack = batch[0].new_empty(len(chunk), rows, columns, dtype=dtype)
            for place, parameter in zip(stack, chunk, strict=True):
                state, grad = self.state[parameter], gradient(parameter)
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
                place.copy_(torch.lerp(grad, mean, momentum) if group["nesterov"] else mean)
            for update, parameter in zip(newton_schulz(stack, polynomials, norm=group["norm"]), chunk, strict=True):
                if group["weight_decay"]:
                    parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-step)
        return len(batch) * newton_schulz_flops(rows, columns, len(polynomials))
