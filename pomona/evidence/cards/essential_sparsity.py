"""One-shot magnitude pruning against pruning at random: is there a stretch that costs nothing, and a knee after it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pomona.evidence.assets import base_lm
from pomona.evidence.card import Arm, Card, Metric, Role, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
FREE = 0.01
"""Share of the dense loss that a sparsity may cost and still be called free."""


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The same trained model, pruned to each sparsity by size and at random."""
    roles: Mapping[str, Role] = {"magnitude": "method", "random": "baseline"}
    return {
        score: Arm(
            [
                *base_lm(scale, each_seed=True),
                *(
                    {
                        "prune": {
                            "name": f"at-{sparsity}",
                            "from": "base",
                            "method": "magnitude",
                            "sparsity": sparsity,
                            "score": score,
                            "validation_tokens": 32_768,
                        }
                    }
                    for sparsity in SPARSITIES
                ),
            ],
            role,
        )
        for score, role in roles.items()
    }


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """Held-out loss above the dense model's at each sparsity, and the largest one that is free."""
    dense = made["base"].facts["quality"]["nats_per_token"]
    excess = {s: made[f"at-{s}"].facts["quality"]["nats_per_token"] - dense for s in SPARSITIES}
    free = [s for s in SPARSITIES if all(excess[each] <= FREE * dense for each in SPARSITIES if each <= s)]
    return {"free sparsity": max(free, default=0.0), **{name_of(s): value for s, value in excess.items()}}


def name_of(sparsity: float) -> str:
    """The metric of a sparsity."""
    return f"excess at {sparsity:.0%}"


def unexplained(curve: Sequence[float]) -> float:
    """What two lines that meet leave over of a curve, as a share of what one line leaves over."""
    x, y = np.array([0.0, *SPARSITIES]), np.array([0.0, *curve])

    def left_over(*columns: np.ndarray) -> float:
        matrix = np.stack([np.ones_like(x), x, *columns], axis=1)
        solution, *_ = np.linalg.lstsq(matrix, y, rcond=None)
        return float(np.square(matrix @ solution - y).sum())

    one = left_over()
    two = min(left_over(np.clip(x - knee, 0.0, None)) for knee in np.linspace(x[1], x[-2], 200))
    straight = one <= 1e-9 * float(np.square(y).sum())  # to rounding
    return 1.0 if straight else two / one


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    curves = list(zip(*(table.values("magnitude", name_of(s)) for s in SPARSITIES), strict=True))
    left = [unexplained(curve) for curve in curves]
    beyond = [s for s in SPARSITIES if s > 0.3]
    wins = all(max(table.against("magnitude", "random", name_of(s)).differences) < 0 for s in beyond)
    free = table.values("magnitude", "free sparsity")
    because = (
        f"{min(free):.0%} to {max(free):.0%} of the weights cost less than 1 % of the loss; two lines leave "
        f"{min(left):.0%} to {max(left):.0%} of what one line leaves unexplained; magnitude is "
        f"{'always' if wins else 'not always'} below random beyond 30 %"
    )
    knee = max(left) <= 0.5
    if knee and wins and min(free) > 0:
        return Verdict("reproduced", because)
    return Verdict("partly" if wins and (knee or min(free) > 0) else "not reproduced", because)


CARD = Card(
    slug="essential-sparsity",
    claim="A trained model can lose a share of its smallest weights at once for nothing, up to a knee.",
    equal="trained model, sparsity, held-out text; no arm trains after pruning.",
    rule=(
        "Reproduced: at every seed some sparsity costs less than 1 % of the loss, two lines that meet leave at most "
        "half of what one line leaves unexplained of the curve, and beyond 30 % magnitude is better than random. "
        "Partly: better than random, and one of the others. Else not reproduced."
    ),
    metrics=(
        Metric("free sparsity", "share of the blocks' weights", better="higher"),
        *(Metric(name_of(s), "nats per token above the dense model") for s in SPARSITIES),
    ),
    arms=arms,
    measure=measure,
    judge=judge,
)
