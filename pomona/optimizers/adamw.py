"""AdamW: Adam with decoupled weight decay, by torch's fused kernel.

Source: "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
Implements: torch.optim.AdamW; decay on matrices, embeddings and head, none on norms and biases (the usual practice
    since GPT-2), and a rate of their own for embeddings and head on request.
Deviations: none. The defaults are those of GPT-3 (arXiv:2005.14165, App. B): betas 0.9 and 0.95, decay 0.1.
Use when: a baseline, fine-tuning, or a model without matrices to orthogonalize. Cost: element-wise only.
Relations: the rule for everything that is no matrix in `muon` and `conda`.
Limits: none known.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat

from pomona.anatomy import Anatomy
from pomona.ground.config import MethodConfig
from pomona.optimizers.parts import parts_of, rest_groups


class AdamwConfig(MethodConfig):
    """Adam with decoupled weight decay."""

    method: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    """Peak rate."""
    embedding_learning_rate: PositiveFloat | None = None
    """Peak rate of token and position tables (and of a tied head); None: as all."""
    head_learning_rate: PositiveFloat | None = None
    """Peak rate of an untied head; None: as all."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of the mean of squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = Field(default=0.1, ge=0.0)
    """Decoupled decay of matrices, embeddings and head; norms and biases have none."""

    def build(self, body: Anatomy, *, total_steps: int) -> AdamW:
        """The optimizer of a model's trainable parameters; `total_steps` is not used."""
        parts = parts_of(body, self.method, needs_matrices=False)
        rest = rest_groups(
            parts,
            learning_rate=self.learning_rate,
            embedding_learning_rate=self.embedding_learning_rate,
            head_learning_rate=self.head_learning_rate,
            weight_decay=self.weight_decay,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )
        matrices = {
            "name": "matrices",
            "params": [*parts.matrices, *parts.transposed],
            "lr": self.learning_rate,
            "weight_decay": self.weight_decay,
            "betas": (self.beta1, self.beta2),
            "eps": self.eps,
        }
        return AdamW([group for group in (matrices, *rest) if group["params"]], fused=True)


class AdamW(torch.optim.AdamW):
    """torch's AdamW, with the method that every optimizer here has."""

    def auxiliary_flops(self) -> int:
        """FLOPs of matrix products since this was last asked: none."""
        return 0
