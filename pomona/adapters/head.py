"""Head only: the model is frozen, the task's new head is trained on what it gives. Linear probing.

Source: usual practice; what it gains and loses in "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", ICLR 2022, arXiv:2202.10054.
Implements: every parameter but the head's is frozen. Deviations: none.
Use when: the least memory, or as a measure of what the frozen features know. Cost: a forward pass and a small step.
Relations: the lower end of what adapters are compared with; `full` is the upper one.
Limits: tasks with a head of their own; a language model has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pomona.adapters.adapter import Adapter, Nothing, freeze_except
from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel


class HeadConfig(MethodConfig):
    """Train the task's head on a frozen model."""

    method: Literal["head"] = "head"

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Freeze everything but the head."""
        return head_(body, head)


def head_(body: Anatomy, head: Sequence[nn.Parameter]) -> Adapter:
    """Freeze everything but these parameters.

    Raises:
        UnsupportedModel: there are none.
    """
    if not head:
        raise UnsupportedModel(
            f"there is no head to train in {type(body.model).__name__}",
            needs="a task with a head of its own",
            found="none",
            do="use method: full or lora for language modelling",
        )
    freeze_except(body, head)
    return Nothing(trains_weights=False)
