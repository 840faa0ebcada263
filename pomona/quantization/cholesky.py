"""The factor that GPTQ needs, straight from the Hessian: H = R R^T with R upper triangular.

The paper inverts H and takes the upper Cholesky factor U of the inverse, H^-1 = U^T U. Then H = U^-1 U^-T, so R is
U^-1, and the compensation that U prescribes can be written with R alone (see `gptq_solve`): no inverse is formed, which
saves two of three cubic steps and the digits that an inverse loses.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 256


def upper_factor_(matrix_II: Tensor, tile: int = _TILE) -> bool:
    """Overwrite the upper triangle of a symmetric matrix H with R, H = R R^T; R has a positive diagonal.

    A blocked Cholesky factorization that starts from the last column. Only the upper triangle is read; what lies
    below the diagonal afterwards is undefined outside the diagonal tiles, where it is zero.

    Returns:
        False when H is not positive definite to working precision (the matrix is then spoiled).
    """
    size = matrix_II.shape[0]
    for begin in reversed(range(0, size, tile)):
        end = min(begin + tile, size)
        panel = matrix_II[:end, begin:end]
        if end < size:  # what the columns to the right account for
            panel.addmm_(matrix_II[:end, end:], matrix_II[begin:end, end:].t(), alpha=-1)
        corner = panel[begin:]
        # flipping rows and columns turns the upper factor of the tile into an ordinary lower one
        lower, failed = torch.linalg.cholesky_ex(corner.flip(0, 1))
        if failed.item() or not torch.isfinite(lower[-1, -1]):
            return False
        factor = lower.flip(0, 1)
        corner.copy_(factor)
        if begin:
            # H = R_above factor^T above the tile
            above = panel[:begin]
            above.copy_(torch.linalg.solve_triangular(factor.t(), above, upper=False, left=False))
    return True
