"""Next-token prediction: the likelihood of text under a causal model.

Source: "Improving Language Understanding by Generative Pre-Training", 2018, Eq. 1.
Implements: sum over positions i of -log p(u_{i+1} | u_1 ... u_i), in nats.
Deviations: none. Where the stream marks documents, each is modelled on its own: positions start anew, attention stays
    within the document, and the first token of a document, of which nothing is known, is not counted.
Use when: pre-training or continuing a causal language model. Cost: one forward and backward pass.
Relations: `span-corruption` for encoder-decoders, `masked-lm` for bidirectional encoders.
Limits: causal models with a head; flash kernels cannot keep packed documents apart and are refused with them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from pomona.anatomy import Anatomy
from pomona.engine.protocols import Batch, Loss
from pomona.objectives.causal import causal_inputs, causal_loss, check_causal, shifted
from pomona.objectives.config import ObjectiveConfig


class NextTokenConfig(ObjectiveConfig):
    """Predict each token from those before it."""

    method: Literal["next-token"] = "next-token"

    def build(self, tokenizer: Any = None) -> NextToken:
        """The objective; a tokenizer is not needed."""
        return NextToken()


class NextToken:
    """See the card of this module. Fulfils `engine.protocols.Objective`."""

    name = "next-token"
    is_likelihood = True
    samples_labels = True

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """`input_ids` and `labels` (B, T) of `tokens` (B, T+1); see `shifted`."""
        return shifted(batch)

    def check(self, body: Anatomy) -> None:
        """Raise `UnsupportedModel` unless the model is causal and has a head."""
        check_causal(body, self.name)

    def inputs(self, body: Anatomy, batch: Batch) -> Batch:
        """What the model is given of a prepared batch."""
        return causal_inputs(body, batch, self.name)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        """Nats summed over the counted tokens; see `causal_loss` for what is refused."""
        return causal_loss(body, batch, self.name)
