"""What makes a training pass fast: number format, attention kernel, joined maps, compilation. All is reversible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch._dynamo import config as dynamo_config

from pomona.anatomy import Anatomy, use_attention
from pomona.engine.evaluate import autocast
from pomona.engine.flops import trainable
from pomona.engine.head_loss import compiled_head_loss
from pomona.engine.joined import joined_maps
from pomona.engine.protocols import Batch, Objective
from pomona.ground.console import say
from pomona.ground.files import read_json, write_json
from pomona.ground.machine import has_fast_bfloat16

PAYS_AFTER_SECONDS = 90.0
"""A run shorter than this is not worth a compilation, which takes 10-50 s when nothing is cached."""

MOST_SIZES = 64
"""Compilations of one function, after which it runs uncompiled. A schedule of lengths may have some tens."""


def training_dtype(precision: Literal["auto", "bf16", "fp32"]) -> torch.dtype | None:
    """The dtype of matrix products: bfloat16 where the hardware multiplies it fast, else the weights' own (None)."""
    if precision == "bf16" or (precision == "auto" and has_fast_bfloat16()):
        return torch.bfloat16
    return None


@contextmanager
def fast_products(body: Anatomy, device: torch.device) -> Iterator[None]:
    """On a CPU, explicit batched attention and joined maps, which are faster there; a GPU keeps the model's own."""
    if device.type != "cpu":
        yield
        return
    with ExitStack() as stack:
        for each in (body, *body.companions):
            if isinstance(each, Anatomy):
                stack.enter_context(use_attention(each.model, "explicit"))
                stack.enter_context(joined_maps(each))
        yield


@contextmanager
def compiled_blocks(body: Anatomy, enabled: bool) -> Iterator[None]:
    """Compile each block's forward and the loss. Equal blocks share one compilation, so depth costs nothing.

    Every size of batch is compiled for itself: code for any size takes longer to make and to run.
    """
    modules: list[nn.Module] = [block.module for block in body.blocks] if enabled else []
    for module in modules:
        module.forward = torch.compile(module.forward, dynamic=False)
    try:
        with compiled_head_loss(enabled), dynamo_config.patch(recompile_limit=MOST_SIZES):
            yield
    finally:
        for module in modules:
            del module.forward


def should_compile(
    choice: Literal["auto", "always", "never"],
    body: Anatomy,
    objective: Objective,
    batch: Batch,
    *,
    passes: int,
    dtype: torch.dtype | None,
    folder: Path | None,
) -> bool:
    """Decide about compilation, by measuring it when the run is long enough for it to pay.

    The decision is kept in `folder`, so that a resumed run computes in the same way, bit for bit.

    Args:
        choice: `auto` measures; the others decide.
        body, objective, batch: what a pass consists of; gradients are left as they were.
        passes: forward and backward passes that the whole run will make.
        dtype: of the matrix products.
        folder: where the decision is remembered.
    """
    if choice != "auto":
        return choice == "always"
    note = folder / "speed.json" if folder else None
    if note is not None and note.is_file():
        return bool(read_json(note)["compile"])
    plain = _seconds_per_pass(body, objective, batch, dtype, repeats=2)
    decision = False
    compiled: float | None = None
    if plain * passes > PAYS_AFTER_SECONDS:
        start = time.perf_counter()
        compiled = float("inf")
        for _ in range(3):  # in turns, so that what else the machine does meanwhile decides nothing
            with compiled_blocks(body, enabled=True):
                compiled = min(compiled, _seconds_per_pass(body, objective, batch, dtype, repeats=1))
            plain = min(plain, _seconds_per_pass(body, objective, batch, dtype, repeats=0))
        spent = time.perf_counter() - start
        decision = compiled < 0.95 * plain
        verdict = f"{plain / compiled:.2f}x, used" if decision else "no gain, not used"
        say(f"  [dim]compiled the blocks in {spent:.0f} s: {verdict}[/]")
    if note is not None:
        write_json(note, {"compile": decision, "plain_seconds": plain, "compiled_seconds": compiled})
    return decision


def _seconds_per_pass(
    body: Anatomy, objective: Objective, batch: Batch, dtype: torch.dtype | None, repeats: int
) -> float:
    """Best of 1 + `repeats` timed forward and backward passes, of which the first may warm up."""
    device = next(body.model.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in batch.items()}
    before = {parameter: parameter.grad for parameter in trainable(body.model, objective)}
    for parameter in before:
        parameter.grad = None
    best = float("inf")
    with torch.random.fork_rng():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            with autocast(device, dtype):
                loss = objective(body, moved)
            torch.autograd.backward(loss.total)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    for parameter, grad in before.items():
        parameter.grad = grad
    return best
