"""SLERP: go from the base to an expert along the arc between them.

Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985; pulling an expert back to its base this
    way is a step of arXiv:2505.10717.
Implements: per tensor, with w the angle between base a and expert b as vectors from the origin,
    [sin((1 - t) w) a + sin(t w) b] / sin w; linear where |cos w| > 0.9995, and where one of them is zero.
Deviations: none.
Use when: an expert has lost general skills: t = 0.5 gives part of them back. Choose t on text that is not the test's.
Cost: one pass over both models.
Relations: `linear` of base and expert in shares 1 - t and t where they are nearly parallel, as a model and its own
    fine-tuned version mostly are; the arc matters for models that were trained further apart.
Limits: one expert. Merge several experts with another method, after each of them was pulled back.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pomona.merging.arc import slerp
from pomona.merging.config import MergeConfig, Parents, TensorMerge


class SlerpConfig(MergeConfig):
    """Go from the base to one expert along the arc between them."""

    method: Literal["slerp"] = "slerp"
    t: float = Field(default=0.5, ge=0, le=1)
    """How far from the base: 0 is the base, 1 the expert. The usual grid is 0.25, 0.5, 0.75."""

    least_experts: ClassVar[int] = 1
    most_experts: ClassVar[int | None] = 1

    def merger(self, parents: Parents) -> TensorMerge:
        return lambda name, base, experts: slerp(base, experts[0], self.t)
