"""The solver of GPTQ: quantize a matrix column by column and let later columns make up for the error so far.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023,
arXiv:2210.17323, Algorithm 1.

The paper writes the compensation with U, the upper Cholesky factor of H^-1 = U^T U. Let R = U^-1, so that H = R R^T,
and let D = W - Q be the deviation from the *original* weight. Unrolling Algorithm 1 gives

    column i before rounding:  w_i + sum_{k<i} d_k R[k, i] / R[i, i]       (1)
    the scaled error e_i:      (that - q_i) R[i, i],   E = D R             (2)
    the layer's loss:          trace(D H D^T) = sum of e^2                 (3)

which is the same arithmetic without an inverse. By (1) the sum over earlier columns can be split at will, so it is
taken in nested pieces: one large matrix product per block of columns, a smaller one per piece of a block, and single
vectors only within a piece of 32 columns. Weights are held transposed, so that a column is contiguous.

A partial sum of (1) is not yet the weight that Algorithm 1 holds at that moment, which supposes that later columns
will be compensated too. Where that is needed, to fit a group J when its first column is reached, it is

    w_J + P R[J, J]^-1,  P = sum_{k before J} d_k R[k, J]                  (4)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pomona.ground.errors import PomonaError
from pomona.ground.machine import has_fast_bfloat16
from pomona.quantization.cholesky import upper_factor_
from pomona.quantization.codes import QuantizedWeight, column_groups
from pomona.quantization.grid import Grid, fit_grid
from pomona.quantization.precision import products

PIECE = 32
"""Columns whose mutual compensation is computed vector by vector."""
RETRIES = 3
"""How often damping is raised tenfold before the solver gives up (catalog of the paper's code: it does not retry)."""
NOISE = 1e-3
"""Products take bf16 operands while the rounding this adds stays below this fraction of the grid's own noise."""


@dataclass(frozen=True)
class Solution:
    """What the solver found.

    Args:
        weight: the quantized weight.
        loss_O: (O,) each row's loss under the damped Hessian, equation (3).
        error_O: (O,) the same under the Hessian that was given, d H d^T.
        damping: the damping that made the Hessian positive definite.
        dead: inputs that never fired; their weights are zero now.
    """

    weight: QuantizedWeight
    loss_O: Tensor
    error_O: Tensor
    damping: float
    dead: int


@products("highest")  # a factorization in bf16 would fail, or drown what it computes
def gptq_solve(
    weight_OI: Tensor,
    hessian_II: Tensor,
    grid: Grid,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    static_groups: bool = False,
    block_size: int = 128,
    reference_groups: bool = False,
    dtype: torch.dtype | None = None,
    name: str = "the weight",
) -> Solution:
    """Choose codes for `weight_OI` that keep `weight_OI @ x` close for inputs with second moments `hessian_II`.

    Args:
        weight_OI: finite weights; computed in float32, or in float64 when that is their dtype.
        hessian_II: a multiple of X X^T, symmetric; its scale does not matter.
        damping: this fraction of the mean diagonal is added to the diagonal; multiplied by 10, up to 3 times, when the
            factorization fails.
        act_order: take columns by falling diagonal of the Hessian instead of from left to right.
        static_groups: fit every group to the original weight before the loop; otherwise to the compensated weight when
            the first column of a group is reached. Without groups the grid is always fitted before the loop.
        block_size: columns per large matrix product. It changes speed and memory, not the result.
        reference_groups: fit groups as the authors' code does, which leaves out the compensation from columns of the
            current block (its blocks have `block_size` columns). For parity tests.
        dtype: the dtype in which scales will be stored.
        name: what an error calls the weight.
    Raises:
        PomonaError: the Hessian has no Cholesky factor even at 1000 times the damping, or is not finite.
    """
    work = torch.float64 if weight_OI.dtype == torch.float64 else torch.float32
    inputs = weight_OI.shape[1]
    dead_I = hessian_II.diagonal() == 0
    order = torch.argsort(hessian_II.diagonal(), descending=True, stable=True) if act_order else None
    feedback, pivots_I, used_damping, added = _factorize(hessian_II.to(work), dead_I, order, damping, name)
    columns = weight_OI.to(work).t()  # (I, O)
    columns = columns.clone(memory_format=torch.contiguous_format) if order is None else columns[order]
    if dead_I.any():
        columns[dead_I if order is None else dead_I[order]] = 0

    width, grouped = grid.width(inputs), grid.groups(inputs) > 1
    dynamic = grouped and not static_groups
    place_I = column_groups(inputs, width, weight_OI.device)  # group of each column, in the order of processing
    if grouped and static_groups and order is not None:
        place_I = place_I[order]
    block = min(block_size, inputs)
    sizes = _nested_sizes(block, width if dynamic and not reference_groups else None)

    loop = _Loop(columns, feedback, pivots_I, grid, place_I, sizes, dtype)
    if not dynamic:
        loop.fit_all(columns if order is None or not grouped else columns[torch.argsort(order)])
    loop.dynamic_width = width if dynamic else None
    loop.stale_block = block if dynamic and reference_groups else None
    loop.run(0, inputs, 0)

    codes_IO, group_index = loop.codes, place_I if dynamic and order is not None else None
    if order is not None:
        back = torch.argsort(order)
        codes_IO = codes_IO[back]
        group_index = None if group_index is None else group_index[back]
    quantized = QuantizedWeight(
        codes=codes_IO.t().contiguous(),
        scale=loop.scale.t().contiguous(),
        zero=loop.zero.t().contiguous(),
        bits=grid.bits,
        group_size=width if grouped else None,
        symmetric=grid.symmetric,
        group_index=group_index,
    )
    error_O = (loop.loss - added * loop.power).clamp_(min=0)
    return Solution(quantized, loop.loss, error_O, used_damping, int(dead_I.sum()))


class _Loop:
    """The buffers of one solve and the nested loop over its columns. Matrices are (columns, outputs)."""

    def __init__(
        self,
        columns: Tensor,
        feedback: Tensor,
        pivots_I: Tensor,
        grid: Grid,
        place_I: Tensor,
        sizes: list[int],
        dtype: torch.dtype | None,
    ) -> None:
        inputs, outputs = columns.shape
        self.columns, self.feedback, self.pivots_I, self.grid, self.dtype = columns, feedback, pivots_I, grid, dtype
        self.places: list[int] = place_I.tolist()
        self.sizes = sizes
        self.now = columns.new_empty(min(sizes[0], inputs), outputs)  # equation (1), for one block of columns
        self.base = 0  # the column that the first row of `now` stands for
        self.deviation = torch.empty_like(columns)  # D
        self.codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
        self.scale = columns.new_empty(grid.groups(inputs), outputs)
        self.zero = torch.empty_like(self.scale)
        self.loss = columns.new_zeros(outputs)
        self.power = columns.new_zeros(outputs)  # sum of d^2
        self.steps = columns.new_empty(sizes[-1], outputs)  # codes without their zero points, for one piece
        self.dynamic_width: int | None = None
        self.stale_block: int | None = None
        rounds_fast = columns.dtype == torch.float32 and inputs > sizes[0] and has_fast_bfloat16()
        self.half = _HalfPrecision(columns, feedback, grid) if rounds_fast else None

    def fit_all(self, original_IO: Tensor) -> None:
        """Fit every group to the weight as it was given, columns in their original order."""
        scale_OG, zero_OG = fit_grid(original_IO.t(), self.grid, dtype=self.dtype)
        self.scale.copy_(scale_OG.t())
        self.zero.copy_(zero_OG.t())

    def run(self, begin: int, end: int, level: int) -> None:
        """Quantize the columns [begin, end) in pieces of `sizes[level]`.

        Above the first level `now` already holds their compensation from all columns before `begin`.
        """
        size, innermost = self.sizes[level], level == len(self.sizes) - 1
        for start in range(begin, end, size):
            stop = min(start + size, end)
            if level == 0:
                self.base = start
                self.start_block(start, stop)
            elif start > begin:
                # equation (1), the part from the columns between `begin` and `start`
                self.rows(start, stop).addmm_(self.feedback[begin:start, start:stop].t(), self.deviation[begin:start])
            if size == self.dynamic_width and self.stale_block is None:
                self.fit_group(start, self.rows(start, stop), start)
            if innermost:
                self.quantize(start, stop)
            else:
                self.run(start, stop, level + 1)
            if level == 0 and self.half is not None:
                self.half.remember(start, stop, self.deviation[start:stop])

    def rows(self, start: int, stop: int) -> Tensor:
        """The columns [start, stop) as compensated so far."""
        return self.now[start - self.base : stop - self.base]

    def start_block(self, start: int, stop: int) -> None:
        """Compensate the columns [start, stop) for everything before them: the one large product per block."""
        now, columns = self.rows(start, stop), self.columns[start:stop]
        if start == 0:
            now.copy_(columns)
        elif self.half is not None and self.half.serves(start, stop):
            torch.add(columns, self.half.compensation(start, stop), out=now)
        else:
            torch.addmm(columns, self.feedback[:start, start:stop].t(), self.deviation[:start], out=now)

    def fit_group(self, start: int, compensated: Tensor, known: int) -> None:
        """Fit the group that begins at column `start` to the weights that Algorithm 1 holds, equation (4).

        Args:
            compensated: the columns from `known` to the end of the group, with equation (1) summed over the columns
                before `known`.
            known: the first column whose deviation is not taken into account.
        """
        stop = known + compensated.shape[0]
        columns = self.columns[known:stop]
        if known:
            corner = self.feedback[known:stop, known:stop].t()
            columns = columns + torch.linalg.solve_triangular(
                corner, compensated - columns, upper=False, unitriangular=True
            )
        group = self.places[start]
        here = columns[start - known :].t()
        scale_OG, zero_OG = fit_grid(here, replace(self.grid, group_size=None), dtype=self.dtype)
        self.scale[group] = scale_OG[:, 0]
        self.zero[group] = zero_OG[:, 0]

    def fit_stale_group(self, start: int, block: int) -> None:
        """As the authors' code: fit to columns that lack the compensation from the current block's own columns."""
        stop, known = min(start + (self.dynamic_width or 0), len(self.places)), start - start % block
        compensated = self.columns[known:stop]
        if known:
            compensated = torch.addmm(compensated, self.feedback[:known, known:stop].t(), self.deviation[:known])
        self.fit_group(start, compensated, known)

    def quantize(self, begin: int, end: int) -> None:
        """The innermost loop: columns one after another, each compensated for the others of this piece."""
        now, columns, deviation = self.rows(begin, end), self.columns[begin:end], self.deviation[begin:end]
        steps = self.steps[: end - begin]
        feedback = self.feedback[begin:end, begin:end].t().contiguous()  # row i: what column i takes from each before
        stale = self.stale_block
        group, top = -1, self.grid.max_code
        scale = low = high = self.loss  # replaced by the first column's group
        by_row = zip(now.unbind(), columns.unbind(), deviation.unbind(), steps.unbind(), strict=True)
        for i, (value, original, gap, step) in enumerate(by_row):
            if stale is not None and self.dynamic_width and (begin + i) % self.dynamic_width == 0:
                self.fit_stale_group(begin + i, stale)
                group = -1
            if self.places[begin + i] != group:
                group = self.places[begin + i]
                scale, low = self.scale[group], -self.zero[group]
                high = low + top
            if i:
                value.addmv_(deviation[:i].t(), feedback[i, :i])
            torch.div(value, scale, out=step).round_()
            torch.clamp(step, low, high, out=step)
            torch.addcmul(original, step, scale, value=-1, out=gap)  # d = w - q
        # equation (2): (now - q) R[i, i], with q = w - d
        error = (now - columns).add_(deviation).mul_(self.pivots_I[begin:end, None])
        self.loss += error.square_().sum(0)
        self.power += deviation.square().sum(0)
        self.codes[begin:end] = steps.add_(self.zero[self.places[begin:end]])


class _HalfPrecision:
    """The large products with operands in bf16, where the grid is too coarse for their rounding to matter.

    A bf16 operand is off by a relative 2^-9 at most, so a compensation sum_k d_k F[k, i] picks up independent errors
    with a variance of at most 2^-18 sum_k d_k^2 F[k, i]^2. Rounding to a grid of step s has the variance s^2 / 12.
    Products use bf16 while the first is below `NOISE` times the second; the loss rises by that fraction at most.
    """

    def __init__(self, columns: Tensor, feedback: Tensor, grid: Grid) -> None:
        self.columns, self.feedback, self.top = columns, feedback, grid.max_code
        self.feedback_half = feedback.bfloat16()
        self.deviation_half = torch.empty_like(columns, dtype=torch.bfloat16)
        self.power = columns.new_zeros(columns.shape[0])  # mean of d_k^2 over the rows

    def remember(self, start: int, stop: int, deviation: Tensor) -> None:
        """Take over the deviations of a finished block."""
        self.deviation_half[start:stop] = deviation
        self.power[start:stop] = deviation.square().mean(1)

    def serves(self, start: int, stop: int) -> bool:
        """Whether the rounding of bf16 is negligible for the columns [start, stop)."""
        columns = self.columns[start:stop]
        step_power = ((columns.amax(0) - columns.amin(0)) / self.top).square().mean()
        noise = self.feedback[:start, start:stop].square().t().mv(self.power[:start]).max() * 2.0**-18
        return bool(noise <= NOISE * step_power / 12)

    def compensation(self, start: int, stop: int) -> Tensor:
        """sum_k d_k F[k, i] over the columns k before `start`, for i in [start, stop)."""
        return self.feedback_half[:start, start:stop].t() @ self.deviation_half[:start]


def _nested_sizes(block: int, group: int | None) -> list[int]:
    """Falling sizes of the nested pieces; a piece larger than a group is a whole number of groups."""
    if group is None:
        return sorted({block, min(PIECE, block)}, reverse=True)
    whole = {size - size % group if size > group else size for size in (block, min(PIECE, block))}
    return sorted(whole | {group}, reverse=True)


def _factorize(
    hessian_II: Tensor, dead_I: Tensor, order: Tensor | None, damping: float, name: str
) -> tuple[Tensor, Tensor, float, float]:
    """R of H = R R^T, each column divided by its pivot; the pivots; the damping, and what it added to the diagonal."""
    if not torch.isfinite(hessian_II.diagonal()).all():
        raise PomonaError(
            f"the calibration inputs of {name} are not finite",
            where=name,
            do="check the calibration data and the model for overflow, or calibrate in float32 or bfloat16",
        )
    tried = damping
    for _ in range(RETRIES + 1):
        factor = hessian_II.clone() if order is None else hessian_II[order][:, order]
        diagonal = factor.diagonal()
        diagonal[dead_I if order is None else dead_I[order]] = 1
        added = tried * float(diagonal.mean())
        diagonal.add_(added)
        if upper_factor_(factor):
            pivots_I = factor.diagonal().clone()
            return factor.div_(pivots_I), pivots_I, tried, added
        last, tried = tried, tried * 10
    raise PomonaError(
        f"the Hessian of {name} is not positive definite",
        where=name,
        needs=f"a Cholesky factor at a damping of at most {last:g} (tried {RETRIES + 1} values from {damping:g})",
        do="give more calibration tokens, raise damping, or skip this weight's role",
    )
