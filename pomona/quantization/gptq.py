"""GPTQ: round column by column, each time moving the error to where the calibration data feel it least.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", ICLR 2023, arXiv:2210.17323, Algorithm 1; options and details that the paper leaves open from the
    authors' code.
Implements: block by block on the inputs that the already quantized blocks produce; per linear map the Hessian
    H = 2/n X X^T of its inputs, damped by 1 % of its mean diagonal; columns in order (or by falling diagonal), with
    Cholesky-based compensation (`gptq_solve`); groups fitted when they are reached, or before.
Deviations: where round-to-nearest has the lower error on the calibration inputs, it is kept, and the report says so.
    A failed factorization is retried with 10, 100 and 1000 times the damping. Row grids are fitted after the weights
    of dead inputs are zeroed. n counts tokens, not sequences; padding is left out. Weights that read the same input
    share one Hessian and one factorization. Left out: the ternary grid, which no storage format expresses.
Use when: 4 bits and fewer, with some text like the one the model will see (never the text it is evaluated on).
Cost: two forward passes per block over the calibration tokens (one more per part with `true_sequential`), I^2 per token
    and I^3 / 3 + O I^2 per weight (O x I). Memory: the inputs of one block, and one block's Hessians.
Relations: `rtn` when inputs are not correlated. OBQ with a fixed order of columns.
Limits: linear maps inside the blocks; embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.anatomy.taps import tap_inputs
from pomona.anatomy.walk import BlockWalk, SeenEnough
from pomona.ground.errors import DataError
from pomona.ground.machine import keep_freed_memory
from pomona.quantization.config import GridConfig, once
from pomona.quantization.hessian import RunningHessian, weighted_error
from pomona.quantization.precision import fast_calibration
from pomona.quantization.report import QuantizationReport, WeightReport
from pomona.quantization.rtn import round_to_nearest
from pomona.quantization.solver import gptq_solve
from pomona.quantization.surgery import choose, put

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]

SAMPLE = 256
"""Rows on which the solver's own count of the error is checked."""

TIE = 1.05
"""Errors that differ by less than this factor are computed again in full float32 before they are compared."""


class GptqConfig(GridConfig):
    """Round column by column and let later columns compensate, weighted by calibration inputs."""

    method: Literal["gptq"] = "gptq"
    act_order: bool = False
    """Take columns by falling input size. Better at few bits; with groups it needs `static_groups` to be exported."""
    static_groups: bool = False
    """Fit all groups to the original weight, so that `act_order` needs no column index."""
    true_sequential: bool = False
    """Quantize the parts of a block one after another, each on inputs from the parts before it. More passes."""
    damping: float = Field(default=0.01, ge=0.0)
    """Fraction of the Hessian's mean diagonal that is added to the diagonal; raised tenfold if that is too little."""
    block_size: PositiveInt = 128
    """Columns per large update, Algorithm 1's B. It changes speed, not the result."""
    reference_groups: bool = False
    """Fit groups to partly compensated weights as the authors' code does. For comparisons with it."""

    @model_validator(mode="after")
    def _options_agree(self) -> GptqConfig:
        if self.static_groups and self.reference_groups:
            raise ValueError("reference_groups concerns groups that are fitted on the way; static_groups fits before")
        return self

    def apply_(self, model: PreTrainedModel, batches: Iterable[Batch]) -> QuantizationReport:
        """Quantize `model` in place, calibrated on `batches` of its inputs."""
        return gptq_(model, batches, self)


def gptq_(model: PreTrainedModel, batches: Iterable[Batch], config: GptqConfig | None = None) -> QuantizationReport:
    """Quantize the linear maps inside the blocks of `model` in place. Raises before the first change.

    Args:
        batches: inputs of the model (`input_ids`, and `attention_mask` where there is padding); a batch with `tokens`
            instead, as streams make them, is read as `input_ids` without its last column.
    Raises:
        ConfigError, UnsupportedModel, DataError: parameters, model or batches do not fit.
        PomonaError: a Hessian is not finite or has no factor even with 1000 times the damping; names the weight.
    """
    config = config or GptqConfig()
    begin = time.perf_counter()
    keep_freed_memory()
    body = anatomy.of(model)
    body.require("single_stack", "dense_ffn", method=config.method)
    chosen = choose(body, config)
    inputs = [_inputs(batch) for batch in batches]
    masks = [_mask(batch) for batch in inputs]
    tokens = sum(_tokens(batch) if mask is None else int(mask.sum()) for batch, mask in zip(inputs, masks, strict=True))
    if not tokens:
        raise DataError("there is nothing to calibrate on", found=f"{len(inputs)} batches without tokens")
    left = {weight.key for weight in chosen}
    calibration = _Calibration(body, inputs, masks)
    reports: list[WeightReport] = []
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            fast_calibration(model),
            anatomy.touched(model, config.method),
            BlockWalk(model, inputs) as walk,
        ):
            for block in walk:
                weights = [weight for weight in once(block.weights()) if weight.key in left]
                left.difference_update(weight.key for weight in weights)
                if weights:
                    reports += _quantize_block(walk, weights, calibration, config)
    finally:
        model.train(was_training)
    return QuantizationReport(
        method=config.method,
        config=config.model_dump(mode="json"),
        weights=tuple(reports),
        tokens=tokens,
        flops=calibration.flops,
        seconds=time.perf_counter() - begin,
    )


def _quantize_block(
    walk: BlockWalk, weights: Sequence[Weight], calibration: _Calibration, config: GptqConfig
) -> list[WeightReport]:
    """Calibrate and quantize the weights of the block that `walk` stands at."""
    reports = []
    readers = calibration.run(walk, weights)
    for number, reader in enumerate(readers):
        if number and config.true_sequential:
            reader.hessian = calibration.run(walk, reader.weights[:1])[0].hessian
        reports += _quantize_readers(reader, calibration, config)
        reader.hessian = None  # a block's Hessians are its largest temporary
    return reports


def _quantize_readers(reader: _Readers, calibration: _Calibration, config: GptqConfig) -> list[WeightReport]:
    """Quantize weights that read the same input, as one matrix: rows do not influence each other."""
    assert reader.hessian is not None
    hessian_II = reader.hessian.value()
    originals = [weight.read().float() if _narrow(weight) else weight.read().clone() for weight in reader.weights]
    dtype = reader.weights[0].parameter.dtype
    solution = gptq_solve(
        torch.cat(originals),
        hessian_II,
        config.grid,
        damping=config.damping,
        act_order=config.act_order,
        static_groups=config.static_groups,
        block_size=config.block_size,
        reference_groups=config.reference_groups,
        dtype=dtype,
        name=", ".join(weight.name for weight in reader.weights),
    )
    outputs, inputs = solution.weight.shape
    calibration.flops += inputs**3 / 3 + 3.0 * outputs * inputs**2  # factor; solver; two errors, by symmetry half each
    reports, row = [], 0
    for weight, original in zip(reader.weights, originals, strict=True):
        ours = solution.weight.rows(row, row + original.shape[0])
        row += original.shape[0]
        nearest = round_to_nearest(original, config.grid, dtype=dtype)
        off_ours, off_rtn = (original - each.dequantize(dtype).to(original.dtype) for each in (ours, nearest))
        error = _error(off_ours, hessian_II, solution.error_O[row - original.shape[0] : row])
        error_rtn = weighted_error(off_rtn, hessian_II, fast=True)
        if error_rtn < TIE * error:  # too close to be told apart by a fast product
            error, error_rtn = weighted_error(off_ours, hessian_II), weighted_error(off_rtn, hessian_II)
        kept_rtn = error_rtn < error
        reports.append(
            put(
                weight,
                nearest if kept_rtn else ours,
                error=min(error, error_rtn),
                error_rtn=error_rtn,
                kept_rtn=kept_rtn,
                dead_inputs=solution.dead,
                damping=solution.damping,
            )
        )
    return reports


def _error(deviation_OI: Tensor, hessian_II: Tensor, claimed_O: Tensor) -> float:
    """The error of a deviation: what the solver counted, if a sample of rows confirms it, else computed.

    The count can be off when the Hessian is nearly singular, or when storing the values in half precision rounds them
    once more.
    """
    step = -(-deviation_OI.shape[0] // SAMPLE)
    sample = weighted_error(deviation_OI[::step], hessian_II)
    if step > 1 and abs(sample - _half_sum(claimed_O[::step])) < 1e-3 * sample:
        return _half_sum(claimed_O)
    return sample if step == 1 else weighted_error(deviation_OI, hessian_II)


def _half_sum(values: Tensor) -> float:
    return values.sum(dtype=torch.float64).item() / 2


@dataclass
class _Readers:
    """Weights that read the same input, and its Hessian."""

    weights: list[Weight]
    hessian: RunningHessian | None
    first: Tensor | None


class _Calibration:
    """Runs blocks on the calibration inputs and collects Hessians, one for each distinct input."""

    def __init__(self, body: Anatomy, inputs: Sequence[Batch], masks: Sequence[Tensor | None]) -> None:
        self.body, self.inputs, self.masks = body, inputs, masks
        self.flops = sum(self._pass_flops(batch) * len(body.blocks) for batch in inputs)  # on to the next block

    def run(self, walk: BlockWalk, weights: Sequence[Weight]) -> list[_Readers]:
        """One pass over all inputs; the weights in the order in which they run, grouped by what they read."""
        readers: list[_Readers] = []
        order: list[_Collector] = []
        with ExitStack() as taps:
            for weight in weights:
                taps.enter_context(tap_inputs(weight, _Collector(weight, readers, order, self.masks)))
            walk.run()
        self.flops -= 2.0 * order[-1].weight.numel() * sum(map(_tokens, self.inputs[1:]))  # nobody reads what it makes
        for reader in readers:
            assert reader.hessian is not None
            self.flops += reader.hessian.flops
        self.flops += sum(map(self._pass_flops, self.inputs))
        return readers

    def _pass_flops(self, batch: Batch) -> float:
        """FLOPs of one batch through one block."""
        length = _positions(batch).shape[1]
        head = 0 if self.body.head is None else 2 * self.body.head.numel()
        per_token = self.body.flops_per_token(length, training=False) - head
        return _tokens(batch) * max(per_token, 0.0) / len(self.body.blocks)


class _Collector:
    """The callback of one weight: finds out whose input it reads too, and else adds it to a Hessian of its own."""

    def __init__(
        self, weight: Weight, readers: list[_Readers], order: list[_Collector], masks: Sequence[Tensor | None]
    ) -> None:
        self.weight, self.readers, self.order, self.masks = weight, readers, order, masks
        self.calls = 0
        self.own: _Readers | None = None

    def __call__(self, rows_RI: Tensor) -> None:
        batch, self.calls = self.calls, self.calls + 1
        self._collect(rows_RI, batch)
        if batch == 0:
            self.order.append(self)
        elif self is self.order[-1]:
            raise SeenEnough

    def _collect(self, rows_RI: Tensor, batch: int) -> None:
        if batch == 0:
            for reader in self.readers:
                # `first` keeps the memory alive, so that equal addresses mean the same tensor
                if reader.first is not None and _same_memory(reader.first, rows_RI):
                    reader.weights.append(self.weight)
                    return
            self.own = _Readers([self.weight], RunningHessian(rows_RI.shape[1]), rows_RI)
            self.readers.append(self.own)
        if self.own is None:
            return
        if batch == 1:
            self.own.first = None
        assert self.own.hessian is not None
        mask = self.masks[batch]
        self.own.hessian.add(rows_RI if mask is None else rows_RI[mask.to(rows_RI.device)])


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _narrow(weight: Weight) -> bool:
    return weight.parameter.dtype in (torch.bfloat16, torch.float16)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """The batch as inputs of the model."""
    if "tokens" in batch and "input_ids" not in batch:
        return {"input_ids": batch["tokens"][:, :-1]}
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if "input_ids" not in inputs and "inputs_embeds" not in inputs:
        raise DataError(
            "a calibration batch has no tokens",
            needs="input_ids (B, T), or tokens (B, T + 1)",
            found=", ".join(sorted(batch)) or "an empty batch",
        )
    return inputs


def _positions(batch: Batch) -> Tensor:
    """A tensor whose first two sizes are (B, T)."""
    return batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"]


def _tokens(batch: Batch) -> int:
    """Number of positions, padding included."""
    return int(_positions(batch).shape[0] * _positions(batch).shape[1])


def _mask(batch: Batch) -> Tensor | None:
    """(B * T,) True at real tokens, or None when there is no padding."""
    mask = batch.get("attention_mask")
    if mask is None or bool((mask != 0).all()):
        return None
    if mask.shape != _positions(batch).shape[:2]:
        raise DataError(
            "padding cannot be told from this attention mask",
            needs=f"a mask of the shape {tuple(_positions(batch).shape[:2])}",
            found=str(tuple(mask.shape)),
        )
    return mask.flatten() != 0
