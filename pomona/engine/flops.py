"""FLOPs of a training or scoring pass, counted from the matrix products that really run."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pomona.anatomy import Anatomy
from pomona.engine.evaluate import autocast
from pomona.engine.protocols import Batch, Objective


def measure_flops(body: Anatomy, objective: Objective, batch: Batch, *, backward: bool = True) -> float:
    """FLOPs per sequence of one pass over `batch` (multiply and add count as two).

    The first sequence alone is run, once, and every matrix product and attention call of it is counted. Gradients
    that were there before are kept.

    Args:
        body: the model.
        objective: gives the loss that is differentiated.
        batch: a prepared micro-batch.
        backward: count the backward pass too.
    """
    model = body.model
    device = next(model.parameters()).device
    one = {name: tensor[:1].to(device) for name, tensor in batch.items()}
    parameters = trainable(model, objective)
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(), counter:
        with autocast(device, torch.bfloat16 if device.type != "mps" else None), torch.set_grad_enabled(backward):
            loss = objective(body, one)
        if backward:
            torch.autograd.backward(loss.total)
    for parameter, grad in zip(parameters, before, strict=True):
        parameter.grad = grad
    return float(counter.get_total_flops())


def trainable(model: nn.Module, objective: Objective) -> list[nn.Parameter]:
    """Parameters that training changes: the model's and those of an objective with networks of its own."""
    modules = [model, objective] if isinstance(objective, nn.Module) else [model]
    return list({id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values())
