"""Conda: Adam whose second moment lives in the singular basis of its first moment.

Source: "Conda: Column-Normalized Adam for Training Large Language Models Faster", arXiv:2509.24218, Algorithm 1;
details (order of the operations, epsilon, decay after the step) from the authors' optimizer.
Implements: for a matrix W (R x C) with gradient G, t steps done before this one,
    M <- b1 M + (1 - b1) G;   at t = 0 and every T steps: Q = singular vectors of M on its smaller side;
    right (R >= C): G' = G Q, M' = M Q;   left: G' = Q^T G, M' = Q^T M;
    V <- b2 V + (1 - b2) G'^2;   N = M' / (sqrt(V) + eps);   D = N Q^T or Q N;
    W <- W - lr c scale D with c = sqrt(1 - b2^(t+1)) / (1 - b1^(t+1));   W <- W - lr decay W.
    M is never rotated, V never reset. AdamW for everything else.
Deviations: Q comes from the eigenvectors of M M^T (or M^T M) in float64: the same subspaces, resolved finer than by an
    SVD in float32, in less time. The default T is max(10, min(2000, steps / 20)), as 2000 suits long runs only. Where
    the hardware multiplies bfloat16 fast, rotations round their operands to it, as the authors' bfloat16 runs do.
    `precision: fp32` does not. Non-finite gradients: the step is skipped and nothing changes.
Use when: pre-training. Cost: per step 6 R C min(R, C) FLOPs, per refresh an eigendecomposition; memory of AdamW plus a
    square matrix of the smaller side.
Relations: with Q = 1 and scale = 1 it is Adam; `muon` whitens without a second moment; GaLore truncates Q; SOAP keeps
    two bases, of averaged Gram matrices.
Limits: matrices of the blocks only; sharded parameters are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.ground.machine import has_fast_bfloat16
from pomona.optimizers.matrix_optimizer import CHUNK_ELEMENTS, MatrixOptimizer, product_dtype
from pomona.optimizers.parts import gradient, in_chunks, parts_of, rest_groups

Side = Literal["std", "reverse", "left", "right", "full"]
Backend = Literal["exact", "subspace"]


class CondaConfig(MethodConfig):
    """Adam in the singular basis of the momentum for the matrices of the blocks, AdamW for the rest."""

    method: Literal["conda"] = "conda"
    learning_rate: PositiveFloat = 1e-2
    """Peak rate of all groups; matrices move by it times `scale`. The authors' for Llama 60M to 1B."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Decay of the mean of squared gradients, in the rotated frame."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the mean square, before bias correction."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled decay of matrices, embeddings and head, by the rate without `scale`; the authors' 0.01 for GPT-2."""
    scale: PositiveFloat = 0.25
    """Factor of the matrices' step."""
    refresh_steps: PositiveInt | None = None
    """Steps between new bases. None: a twentieth of the run, within 10 and the authors' 2000."""
    side: Side = "std"
    """Whose singular vectors: those of the smaller side (`std`), of the larger, always `left` or `right`, or both."""
    backend: Backend = "exact"
    """`exact` decomposition, or one step of `subspace` iteration from the old basis after a first exact one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Format of the rotations' products. `auto`: bfloat16 where the hardware multiplies it fast."""
    rest_learning_rate: PositiveFloat | None = None
    """Peak rate of everything that is no matrix; None: `learning_rate`, as the authors do."""
    embedding_learning_rate: PositiveFloat | None = None
    """Peak rate of token and position tables (and of a tied head); None: as the rest."""
    head_learning_rate: PositiveFloat | None = None
    """Peak rate of an untied head; None: as the rest."""

    def build(self, body: Anatomy, *, total_steps: int) -> Conda:
        """The optimizer of a model's trainable parameters for a run of `total_steps` steps."""
        parts = parts_of(body, self.method)
        fast = has_fast_bfloat16() if self.precision == "auto" else self.precision == "bf16"
        matrices = {
            "name": "matrices",
            "params": [*parts.matrices, *parts.transposed],
            "lr": self.learning_rate,
            "betas": (self.beta1, self.beta2),
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "scale": self.scale,
            "refresh_steps": self.refresh_steps or default_refresh_steps(total_steps),
            "side": self.side,
            "backend": self.backend,
            "bfloat16": fast,
        }
        rest = rest_groups(
            parts,
            learning_rate=self.rest_learning_rate or self.learning_rate,
            embedding_learning_rate=self.embedding_learning_rate,
            head_learning_rate=self.head_learning_rate,
            weight_decay=self.weight_decay,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )
        return Conda([matrices], rest)


def default_refresh_steps(total_steps: int) -> int:
    """Steps between new bases when none are given: 2000 in long runs, a twentieth of shorter ones, at least 10."""
    return max(10, min(2000, total_steps // 20))


def sides(rows: int, columns: int, side: Side) -> tuple[bool, bool]:
    """(left, right): on which sides a matrix of this size is rotated."""
    smaller_is_right = rows >= columns
    if side == "std":
        return not smaller_is_right, smaller_is_right
    if side == "reverse":
        return smaller_is_right, not smaller_is_right
    return side in ("left", "full"), side in ("right", "full")


def singular_basis(moments_KRC: Tensor, *, left: bool) -> Tensor:
    """Left (K, R, R) or right (K, C, C) singular vectors of each matrix as columns, the largest first.

    They are the eigenvectors of M M^T (or M^T M), decomposed in float64: squaring costs half of the digits, of which
    float64 has more than twice as many as float32.

    Returns:
        Orthogonal matrices in the input's dtype; signs, and the basis of equal singular values, are arbitrary.
    """
    moments = moments_KRC.double()
    gram = moments @ moments.mT if left else moments.mT @ moments
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(-1).to(moments_KRC.dtype)


def subspace_step(moments_KRC: Tensor, basis_KMM: Tensor, *, left: bool) -> Tensor:
    """One step of orthogonal iteration of the Gram matrix, from an old basis: cheaper, and near to `singular_basis`.

    Columns whose singular values are distinct converge with the square of their ratios; a zero matrix keeps the basis.
    """
    moments = moments_KRC.float()
    norm = torch.linalg.vector_norm(moments, dim=(1, 2), keepdim=True)
    moments = moments / norm.clamp_min(torch.finfo(torch.float32).tiny)
    gram = moments @ moments.mT if left else moments.mT @ moments
    moved = torch.linalg.qr(gram @ basis_KMM.float()).Q.to(basis_KMM.dtype)
    return torch.where(norm > 0, moved, basis_KMM)


def rotate(matrices_KRC: Tensor, left_KRR: Tensor | None, right_KCC: Tensor | None) -> Tensor:
    """Q_l^T X Q_r; a side without a basis is left alone. `rotate_back` undoes it."""
    if left_KRR is not None:
        matrices_KRC = torch.bmm(left_KRR.mT, matrices_KRC)
    return matrices_KRC if right_KCC is None else torch.bmm(matrices_KRC, right_KCC)


def rotate_back(matrices_KRC: Tensor, left_KRR: Tensor | None, right_KCC: Tensor | None) -> Tensor:
    """Q_l X Q_r^T."""
    if left_KRR is not None:
        matrices_KRC = torch.bmm(left_KRR, matrices_KRC)
    return matrices_KRC if right_KCC is None else torch.bmm(matrices_KRC, right_KCC.mT)


class Conda(MatrixOptimizer):
    """See the card of this module.

    State of a matrix, in its dtype: `exp_avg` (M), `exp_avg_sq` (V, rotated), `basis_left` or `basis_right` (Q); and
    `steps`, a plain number.
    """

    def admits(self) -> bool:
        """False when any gradient is not finite: such a step is skipped."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = [torch.stack(torch._foreach_norm(part)).sum().item() for part in _by_device(grads)]
        return all(map(math.isfinite, norms))

    def step_matrices(self, group: dict[str, Any], batch: list[nn.Parameter]) -> int:
        flops = 0
        for chunk in in_chunks(batch, CHUNK_ELEMENTS) if batch[0].device.type == "cpu" else [batch]:
            flops += self._step_chunk(group, chunk)
        return flops

    def _step_chunk(self, group: dict[str, Any], chunk: list[nn.Parameter]) -> int:
        (rows, columns), (beta1, beta2), rate = chunk[0].shape, group["betas"], group["lr"]
        left, right = sides(rows, columns, group["side"])
        names = [name for name, used in (("basis_left", left), ("basis_right", right)) if used]
        states = [self.state[parameter] for parameter in chunk]
        for parameter, state in zip(chunk, states, strict=True):
            if not state:
                state["steps"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["exp_avg"].lerp_(gradient(parameter), 1 - beta1)

        flops = len(chunk) * len(names) * 6 * rows * columns * (rows if left and not right else columns)
        if left and right:
            flops = len(chunk) * 6 * rows * columns * (rows + columns)
        due = [state for state in states if state["steps"] % group["refresh_steps"] == 0 or names[0] not in state]
        for name in names:
            flops += refresh(due, name, group["backend"])

        dtype = product_dtype(chunk[0], group["bfloat16"])
        basis_left, basis_right = (
            _stack([state[name] for state in states], dtype) if name in names else None
            for name in ("basis_left", "basis_right")
        )
        grads = rotate(_stack([gradient(parameter) for parameter in chunk], dtype), basis_left, basis_right)
        moments = rotate(_stack([state["exp_avg"] for state in states], dtype), basis_left, basis_right)
        for grad, moment, state in zip(grads, moments, states, strict=True):
            wide = grad.to(state["exp_avg_sq"].dtype)
            second = state["exp_avg_sq"].mul_(beta2).addcmul_(wide, wide, value=1 - beta2)
            moment.copy_(moment / second.sqrt().add_(group["eps"]))
        updates = rotate_back(moments, basis_left, basis_right)
        for update, parameter, state in zip(updates, chunk, states, strict=True):
            state["steps"] += 1
            correction = math.sqrt(1 - beta2 ** state["steps"]) / (1 - beta1 ** state["steps"])
            parameter.add_(update, alpha=-rate * group["scale"] * correction)
            if group["weight_decay"]:
                parameter.mul_(1 - rate * group["weight_decay"])  # after the step, and not by `scale`
        return flops


def refresh(states: Sequence[dict[str, Any]], name: str, backend: Backend) -> int:
    """Renew the basis `name` of some matrices of one shape from their first moments; returns the FLOPs."""
    flops = 0
    new, known_ones = ([state for state in states if (name in state) == known] for known in (False, True))
    for due, known in ((new, False), (known_ones, True)):
        if not due:
            continue
        left, moments = name == "basis_left", torch.stack([state["exp_avg"] for state in due])
        if known and backend == "subspace":
            bases = subspace_step(moments, torch.stack([state[name] for state in due]), left=left)
        else:
            bases = singular_basis(moments, left=left)
        for state, basis in zip(due, bases, strict=True):
            state[name] = basis.clone()
        flops += len(due) * refresh_flops(*moments.shape[1:], left=left, backend=backend if known else "exact")
    return flops


def refresh_flops(rows: int, columns: int, *, left: bool, backend: Backend) -> int:
    """FLOPs of one new basis: the Gram matrix, then eigenvectors (9 n^3), or a product and a QR (2 n^3 + 8/3 n^3)."""
    side, other = (rows, columns) if left else (columns, rows)
    return 2 * side * side * other + (9 * side**3 if backend == "exact" else 14 * side**3 // 3)


def _stack(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The tensors as one, converted on the way."""
    stack = tensors[0].new_empty(len(tensors), *tensors[0].shape, dtype=dtype)
    for place, tensor in zip(stack, tensors, strict=True):
        place.copy_(tensor)
    return stack


def _by_device(tensors: list[Tensor]) -> list[list[Tensor]]:
    devices: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        devices.setdefault(tensor.device, []).append(tensor)
    return list(devices.values())
