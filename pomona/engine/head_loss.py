"""Output head and cross-entropy in one pass: the logits of a whole batch never exist at once.

For N positions and V tokens the plain way keeps several (N, V) tensors, most of a small model's memory traffic.
Here each chunk of rows is turned into its loss and into its gradient while it is still in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pomona.anatomy import Anatomy
from pomona.engine.protocols import IGNORED

CHUNK_ELEMENTS = 2**22
"""Logits held at a time: 4 Mi elements, 8 MB in bfloat16, which stays within a last-level cache."""


def head_loss(body: Anatomy, hidden: Tensor, labels: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the model's own head, summed over the counted labels.

    Args:
        body: anatomy of the model whose head is read.
        hidden: (..., D) what the head reads (`body.hidden(...)`).
        labels: (...) int64, `IGNORED` where a position does not count.
        draws: (...) in [0, 1); the counted labels are then replaced by `drawn_labels`.

    Returns:
        total: scalar float32, nats summed over counted positions; differentiable.
        correct: scalar int64, counted positions whose most likely token is the label.
    """
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    uniform = None if draws is None else draws.reshape(-1)
    head = body.head_weight()
    if head is None:  # more than one linear map (BERT's transform): let the model compute its logits
        counted = wanted != IGNORED
        logits, wanted = body.logits(flat[counted]).float(), wanted[counted]
        if uniform is not None:
            wanted = drawn_labels(logits.detach(), wanted, uniform[counted])
        total = F.cross_entropy(logits, wanted, reduction="sum")
        return total, (logits.argmax(-1) == wanted).sum()
    weight, bias = head
    return linear_cross_entropy(flat, weight, bias, wanted, uniform)


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, draws_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`F.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")` without keeping the logits.

    Products run in the autocast dtype where autocast is on; the loss itself is float32.

    Args:
        hidden_ND: float, gradient flows into it.
        weight_VD: float, gradient flows into it.
        bias_V: float or None, gradient flows into it.
        labels_N: int64, `IGNORED` where a row does not count.
        draws_N: in [0, 1); the counted labels are then replaced by `drawn_labels`.

    Returns:
        (total nats, number of counted rows whose argmax is the label).
    """
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    if not torch.is_grad_enabled():  # the function would take parameters for inputs whose gradients are wanted
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    if _twice:
        return _plain(hidden_ND, weight_VD, bias_V, labels_N, draws_N)
    inputs = (hidden_ND, weight_VD, bias_V, labels_N, draws_N)
    total, correct = _LinearCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return total, correct


def drawn_labels(logits_CV: Tensor, labels_C: Tensor, draws_C: Tensor) -> Tensor:
    """Labels drawn from softmax(logits) by inversion: the first token whose cumulative probability exceeds the draw.

    A row's label depends on its own logits and draw alone, so however rows are cut into chunks, micro-batches and
    processes, the same labels are drawn.

    Args:
        logits_CV: float.
        labels_C: int64; rows that do not count (`IGNORED`) stay so.
        draws_C: float32, uniform in [0, 1).
    """
    ends = torch.softmax(logits_CV, dim=-1, dtype=torch.float32).cumsum(-1)
    wanted = (draws_C.to(ends) * ends[:, -1]).unsqueeze(1)
    drawn = torch.searchsorted(ends, wanted, right=True).squeeze(1).clamp_max(logits_CV.shape[1] - 1)
    return torch.where(labels_C == IGNORED, labels_C, drawn)


def _plain(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, draws_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same with all logits at once, by operations that can be differentiated twice."""
    logits = F.linear(hidden_ND, weight_VD, bias_V).float()
    if draws_N is not None:
        labels_N = drawn_labels(logits.detach(), labels_N, draws_N)
    total = F.cross_entropy(logits, labels_N, ignore_index=IGNORED, reduction="sum")
    return total, ((logits.argmax(-1) == labels_N) & (labels_N != IGNORED)).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        draws_N: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        chunk = max(1, min(rows, CHUNK_ELEMENTS // vocabulary))
        needs_grad = any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_ND.device)
        learns, bias_learns = ctx.needs_input_grad[1:3]  # a frozen head costs no product for its own gradient
        grad_hidden = torch.empty_like(hidden_ND) if needs_grad else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if learns else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if bias_learns and bias_V is not None else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, rows, chunk):
                part = slice(start, start + chunk)
                hidden, labels = hidden_ND[part], labels_N[part]
                logits = F.linear(hidden, weight_VD, bias_V)
                if draws_N is not None:
                    labels = drawn_labels(logits, labels, draws_N[part])
                if grad_hidden is None:
                    nats, hits = _score(logits, labels)
                    total += nats
                    correct += hits
                    continue
                nats, grad = _kernel()(logits, labels)
                total += nats
                torch.mm(grad, weight_VD, out=grad_hidden[part])
                if grad_weight is not None:
                    grad_weight += grad.t() @ hidden
                if grad_bias is not None:
                    grad_bias += grad.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight_VD.dtype, None if bias_V is None else bias_V.dtype)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0]
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * scale).to(weight_dtype),
            None if grad_bias is None else (grad_bias * scale).to(bias_dtype),
            None,
            None,
        )


def _score(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """Summed nats and exact hits of a chunk of rows."""
    counted = labels_C != IGNORED
    log_p = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    chosen = log_p.gather(1, labels_C.clamp_min(0).unsqueeze(1)).squeeze(1)
    hits = (logits_CV.argmax(-1) == labels_C) & counted
    return -torch.where(counted, chosen, 0.0).sum(), hits.sum()


def _loss_and_gradient(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """Summed nats of a chunk and d nats / d logits = p - onehot(label), zero in rows that do not count.

    As few passes over the logits as there are without a compiler.
    """
    index = labels_C.clamp_min(0).unsqueeze(1)
    log_p = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    nats = -log_p.gather(1, index)
    grad = log_p.exp_()
    grad.scatter_add_(1, index, torch.full_like(nats, -1.0))
    ignored = (labels_C == IGNORED).unsqueeze(1)
    if ignored.any():
        nats, grad = nats.masked_fill(ignored, 0.0), grad.masked_fill_(ignored, 0.0)
    return nats.sum(), grad.to(logits_CV.dtype)


def _to_be_compiled(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """The same in the form that the compiler fuses into one kernel."""
    counted = (labels_C != IGNORED).unsqueeze(1)
    index = labels_C.clamp_min(0).unsqueeze(1)
    logits = logits_CV.float()
    shifted = logits - logits.amax(-1, keepdim=True)
    exps = shifted.exp()
    sums = exps.sum(-1, keepdim=True)
    nats = torch.where(counted, sums.log() - shifted.gather(1, index), 0.0).sum()
    onehot = torch.arange(logits.shape[1], device=logits.device) == index
    grad = torch.where(counted, exps / sums - onehot.to(exps.dtype), 0.0)
    return nats, grad.to(logits_CV.dtype)


_twice: list[bool] = []


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Within the block, the gradient of the loss can be differentiated itself; it takes the memory of all logits."""
    _twice.append(True)
    try:
        yield
    finally:
        _twice.pop()


_Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_active: list[_Kernel] = [_loss_and_gradient]


def _kernel() -> _Kernel:
    return _active[-1]


@contextmanager
def compiled_head_loss(enabled: bool) -> Iterator[None]:
    """Within the block, the element-wise part of the loss runs as one fused kernel over each chunk."""
    _active.append(_compiled() if enabled else _loss_and_gradient)
    try:
        yield
    finally:
        _active.pop()


@cache
def _compiled() -> _Kernel:
    return torch.compile(_to_be_compiled, dynamic=False)
