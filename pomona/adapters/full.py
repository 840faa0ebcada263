"""Full fine-tuning: every parameter of the model is trained. The baseline of all adapters.

Source: usual practice since "Universal Language Model Fine-tuning for Text Classification", ACL 2018, arXiv:1801.06146.
Implements: nothing is frozen. Deviations: none.
Use when: there are many examples, and memory for gradients and optimizer state. Cost: as pre-training.
Relations: what `lora` and others come close to with few parameters; `head` trains the least.
Limits: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pomona.adapters.adapter import Adapter, Nothing, freeze_except
from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig


class FullConfig(MethodConfig):
    """Train every parameter."""

    method: Literal["full"] = "full"

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Let every parameter be trained."""
        return full_(body)


def full_(body: Anatomy) -> Adapter:
    """Let every parameter of a model be trained."""
    freeze_except(body, body.model.parameters())
    return Nothing(trains_weights=True)
